"""--calc_fid: covers of a split are drawn, measured, and their scores kept beside them and in the run."""

from __future__ import annotations

import sys

import config
from checkpoints import catalog, scores
from common.errors import UserError
from common.files import read_json, write_json
from data.folder import open_data
from evaluation import clip as evaluation_clip
from evaluation import distances, evaluate, features
from evaluation import reference as evaluation_reference
from generation.covers import SETTINGS, draw_covers, make_folder
from tracking import trackers


def draw_and_score(options, version, folder, state):
    """Covers of --split into <folder>/<row>.png, less those that are there; then everything that --metrics asks for.

    state: accelerate's, with the processes that draw together.
    """

    # Everything that can be wrong comes before the long work
    with state.main_process_first():  # the first process builds the index, the others read it
        data = open_data(options)
    books = data.books(options.split)[: options.num_imgs]
    if len(books) < (options.num_imgs or 0):
        print(f"warning: --num_imgs {options.num_imgs}: --split {options.split} has {len(books)}", file=sys.stderr)
    make_folder(folder)
    features.warn_of_jpeg(folder)
    extractor = features.load_extractor(options, state.device)
    reference = evaluation_reference.load_reference(options, extractor, data)
    there = read_score(folder / "metrics.json")
    if version.run:
        scores.read_scores(version.run)
    clip = None
    if options.clip_model and "clip" in config.chosen_metrics(options):
        clip = evaluation_clip.load(options.clip_model, options.fid_batch_size, state.device)

    settings = draw_covers(options, version, folder, books, state)
    if not state.is_main_process:
        return

    # Score
    prompts = read_json(folder / SETTINGS)["prompts"]
    prompts = [prompts[str(book.row)] for book in books]
    sides = evaluate.EvaluationInputs(options, folder, version.run, data, books, prompts, extractor, reference, clip)
    measured, skipped = evaluate.measure(sides)
    if not measured:
        raise UserError(f"nothing could be measured: {'; '.join(skipped.values())}")
    settings |= evaluate.about(sides)
    score = evaluate.merge(there, settings, measured, skipped)
    write_json(folder / "metrics.json", score)
    print_score(score, version)
    print(f"covers, settings.json and metrics.json in {folder}")
    if version.run:
        record_score(options, version, settings, score)


def read_score(path):
    """What a metrics.json says, {} if there is none. UserError if it is damaged."""
    try:
        return read_json(path) if path.exists() else {}
    except UserError as problem:
        raise UserError(f"{problem}; delete it: scoring again is quick, as features are kept") from None


def print_score(score, version):
    """Print the score beside that of v0, if that is known and was measured alike, and that of real covers."""

    start = scores.read_scores(version.run).get("v0", {}).get(score["score"], {}) if version.run else {}
    shown = {version.name: score["values"]}
    if version.name != "v0" and not scores.differences([start, score]):
        shown = {"v0": start["values"], **shown}
    print(scores.table(scores.rows(shown)).rstrip())
    counts = f"{score['n']} covers of {version.name}, {score['n_reference']} real"
    if "distance" in score:
        print(f"{score['score']} = {score['distance']:.4f} ({counts}); lower is better")
        if warning := distances.warn_small(min(score["n"], score["n_reference"]), score["dims"]):
            print(f"warning: {warning}", file=sys.stderr)
    for value in score["values"].values():
        if value["note"]:
            print(f"{value['name']}: {value['note']}")
    for name, reason in score["skipped"].items():
        print(f"left out: {scores.CALLED.get(name, name)}: {reason}")
    if version.run and "v0" not in shown:
        print("v0 is not scored like this yet: give --version v0 to see where this run started")


def record_score(options, version, settings, score):
    """Have the score in the run's listing and in its tracker; what fails of it is told, and no more.

    Values of other metrics that the listing has of the same covers stay; and a score over more covers stays.
    """

    listed = scores.read_scores(version.run).get(version.name, {}).get(score["score"], {})
    score = evaluate.merge(listed, settings, score["values"], score["skipped"])
    if listed.get("weights") == score["weights"] and listed.get("n", 0) > score["n"]:
        print(f"the run's listing keeps the score over {listed['n']} covers; this one stands in metrics.json alone")
        return

    step = catalog.version_entry(version.run, version.name)["step"]
    try:
        scores.add_score(version.run, version.name, score)
        tracker = trackers.connect(options, version.run.name)
        figures = {f"{version.name} {value['name']}": value["value"] for value in score["values"].values()}
        tracker.log_scores(step, figures)
        tracker.finish()
    except UserError as problem:
        print(f"warning: {problem}; this command again sends the score", file=sys.stderr)
