"""--calc_fid: draw the covers of a split, measure them, and save the score with the covers and in the run.

The only module of this package that knows of generation and tracking: the others measure covers that exist.
"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

import numpy as np
import torch

import config
from checkpoints import catalog, scores
from cli.checks import chosen_metrics, split_list
from common.errors import UserError
from common.png import read_png
from data.folder import open_data
from evaluation import distances, evaluate, features
from evaluation.clip import load_clip
from evaluation.inputs import EvaluationInputs
from evaluation.reference import load_reference
from generation.covers import draw_covers, make_folder
from generation.grid import image_grid
from generation.settings import SETTINGS, prompts_of
from generation.version import load_version
from publishing.model_card import refresh_card
from tracking import trackers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelerate.state import AcceleratorState

    from checkpoints.run_folder import RunFolder
    from data.book import Book
    from data.folder import Data
    from generation.version import Version

METRICS = "metrics.json"
CARD_COVERS = 4  # in the picture of the model card


def draw_and_score(
    options: config.InferenceOptions, version: Version, folder: pathlib.Path, state: AcceleratorState
) -> None:
    """Draw the missing covers of --split as <folder>/<row>.png, then measure everything in --metrics.

    state: accelerate's, whose processes share the drawing. Writes metrics.json in `folder`; for a version of a run also
    the run's scores.json and its tracker. UserError if an input is missing or damaged, or if nothing can be measured.
    """
    # Check everything before the long work
    with state.main_process_first():  # the first process builds the index, the others read it
        data = open_data(options)
    books = books_to_score(options, data)
    if "legibility" in split_list(options.metrics) and not any(book.title for book in books):
        raise UserError(f"--metrics legibility reads titles, and {options.data_root} has captions alone: leave it out")
    make_folder(folder)
    features.warn_about_jpegs(folder)
    extractor = features.load_extractor(options, state.device)
    reference = load_reference(options, extractor, data)
    scores.read_score(folder / METRICS)  # damaged files are reported here
    if version.run:
        scores.read_scores(version.run)
    clip = None
    if options.clip_model and "clip" in chosen_metrics(options):
        clip = load_clip(options.clip_model, options.fid_batch_size, state.device)

    # Draw
    drawing_settings = draw_covers(options, version, folder, books, state).to_json()
    if not state.is_main_process:
        return

    # Measure
    prompts = prompts_of(folder / SETTINGS, [book.row for book in books])
    inputs = EvaluationInputs(
        *(options, folder, version.run, data, books, prompts, extractor, reference, clip),
        load_parts=lambda: load_version(options, version.source, state.device)[0],
    )
    values, skipped = evaluate.measure(inputs)
    if not values:
        raise UserError(f"nothing could be measured: {'; '.join(skipped.values())}")

    # Save
    settings = drawing_settings | evaluate.measurement_settings(inputs)
    score = scores.update_score(  # the file may have got values of other metrics since the start
        folder / METRICS, lambda existing: evaluate.merge_scores(existing, settings, values, skipped)
    )
    print_score(score, version, listed=not has_other_lora(options))
    print(f"covers, {SETTINGS} and {METRICS} in {folder}")
    if version.run:
        record_score(options, version, version.run, score)
        update_card(options, version, version.run, folder, score, books, prompts)


def books_to_score(options: config.InferenceOptions, data: Data) -> list[Book]:
    """The first --num_imgs books of --split, with a warning if there are fewer."""
    books = data.books(options.split)[: options.num_imgs]
    if len(books) < (options.num_imgs or 0):
        print(f"warning: --num_imgs {options.num_imgs}: --split {options.split} has {len(books)}", file=sys.stderr)
    return books


def print_score(score: scores.Score, version: Version, listed: bool = True) -> None:
    """Print the score as a table, with that of real covers and, if it has the same settings, that of v0.

    listed: whether it is one for the run's listing, as that of v0 would be.
    """
    start = scores.read_scores(version.run).get("v0", {}).get(score.name) if version.run else None
    columns = {version.name: score.values}
    if start and start.values and version.name != "v0" and not scores.differences([start.settings, score.settings]):
        columns = {"v0": start.values, **columns}
    print(scores.table(scores.rows(columns)).rstrip())
    n_reference = score.settings["n_reference"]
    if score.distance is not None:
        counts = f"{score.n} covers of {version.name}, {n_reference} real"
        print(f"{score.name} = {score.distance:.4f} ({counts}); lower is better")
        if warning := distances.small_sample_warning(min(score.n, n_reference), score.settings["dims"]):
            print(f"warning: {warning}", file=sys.stderr)
    for value in score.values.values():
        if value.note:
            print(f"{value.name}: {value.note}")
    for name, reason in score.skipped.items():
        print(f"skipped: {scores.METRIC_NAMES.get(name, name)}: {reason}")
    if listed and version.run and "v0" not in columns:
        print("v0 has no score with these settings yet: give --version v0 to see where this run started")


def has_other_lora(options: config.InferenceOptions) -> bool:
    """Whether the covers are those of a version with another LoRA than it was trained with, or another scale."""
    return bool(options.lora) or options.lora_scale != 1


def record_score(options: config.InferenceOptions, version: Version, run: RunFolder, score: scores.Score) -> None:
    """Add the score to the run's scores.json and its tracker; a failure is only a warning.

    Values of other metrics of the same covers in scores.json stay, and so does a score of the same weights over more
    covers. They are scores of the versions as they were trained: with another LoRA, or another scale, it is not added.
    """
    if has_other_lora(options):
        print(f"the run's listing has scores without --lora and --lora_scale; this one is only in {METRICS}")
        return

    def change(saved: scores.Score | None) -> scores.Score | None:
        if saved and saved.settings.get("weights") == score.settings["weights"] and saved.n > score.n:
            print(f"the run's listing keeps the score over {saved.n} covers; this one is only in {METRICS}")
            return None
        return evaluate.merge_scores(saved, score.settings, score.values, score.skipped)

    step = catalog.version_entry(run, version.name).step
    try:
        recorded = scores.update_run_score(run, version.name, score.name, change)
        if recorded is None:
            return
        tracker = trackers.connect(options, run.name)
        tracker.log_scores(step, {f"{version.name} {value.name}": value.value for value in recorded.values.values()})
        tracker.finish()
    except UserError as problem:
        print(f"warning: {problem}; run this command again to send the score", file=sys.stderr)


def update_card(
    options: config.InferenceOptions,
    version: Version,
    run: RunFolder,
    folder: pathlib.Path,
    score: scores.Score,
    books: Sequence[Book],
    prompts: Sequence[str],
) -> None:
    """Write the version's model card again, with its scores and the first covers; a failure is only a warning.

    folder: of the covers, <row>.png for each book. Not that of v0, which is somebody else's model; and the card is of
    the version as it was trained, so covers with another LoRA, or another scale, don't come into it.
    """
    if version.name == "v0" or has_other_lora(options):
        return
    shown = books[:CARD_COVERS]
    covers = np.stack([read_png(folder / f"{book.row}.png") for book in shown])
    picture = image_grid(torch.from_numpy(covers), len(shown), [book.heading for book in shown])
    keys = ("steps", "scheduler", "guidance_scale", "seed", "resolution", "layout")
    how = ", ".join(f"{key} {score.settings[key]}" for key in keys if key in score.settings)
    caption = f"the first covers of the scoring below, of split {score.settings['split']} ({how})."
    drawn = [[book.heading, prompt] for book, prompt in zip(shown, prompts, strict=False)]
    home = pathlib.Path(version.source)
    try:
        refresh_card(run, version.name, home, score.settings["weights"], picture, caption, drawn)
    except (UserError, OSError) as problem:
        print(f"warning: the model card of {version.name} stays as it was: {problem}", file=sys.stderr)
