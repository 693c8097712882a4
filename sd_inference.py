"""Draw covers with any version of a run, from fixed seeds and latents, and score them against real held-out covers."""

from __future__ import annotations

import hashlib
import sys

import config
from cli import checks, parser
from common import files


def main(argv=None):
    """Draw one prompt, the grid (templates x held-out books), or --num_imgs covers with their score."""
    from generation import covers

    given = parser.read_command_line(config.InferenceOptions, argv)
    options = checks.check(config.InferenceOptions(**given))

    import accelerate

    options, version = covers.find(options, given)
    folder = covers.home_of(options, version)
    parser.launch_on_gpus(options.num_gpus, __file__, argv)
    state = accelerate.Accelerator().state
    if options.calc_fid:
        draw_and_score(options, version, folder / version.name, state)
    elif state.is_main_process:
        (draw_prompt if options.prompt else draw_grid)(options, version, folder, state.device)
    return 0


def draw_prompt(options, version, folder, device):
    """One cover for --prompt, and its settings beside it."""
    import dataset
    from diffusion import sampling
    from generation import covers

    covers.make_folder(folder)
    parts, parts_hash = covers.load(options, version.source, device)
    tokens, limit = dataset.count_tokens(parts.tokenizer, options.prompt), parts.tokenizer.model_max_length
    if tokens > limit:
        print(f"warning: the prompt has {tokens} tokens, and only the first {limit} are read", file=sys.stderr)
    name = f"{version.name}_prompt_{hashlib.sha256(options.prompt.encode()).hexdigest()[:8]}"
    image = sampling.draw(parts, [options.prompt], [0], options)[0]
    sampling.save_png(folder / f"{name}.png", image)
    files.write_json(
        folder / f"{name}.json", {**covers.settings_of(options, version, parts_hash), "prompt": options.prompt}
    )
    print(f"drew {folder / name}.png")


def draw_grid(options, version, folder, device):
    """The original experiment's grid: a row for each held-out book, a column for each prompt template.

    All pictures of a book start from the same latents, so versions can be compared cell by cell.
    """
    import torch
    from tqdm import tqdm

    import dataset
    from data import prompts
    from diffusion import sampling
    from generation import covers as generation_covers

    books = dataset.open_data(options).books(options.split)[: options.num_samples]
    generation_covers.make_folder(folder)
    parts, parts_hash = generation_covers.load(options, version.source, device)
    covers = dataset.BookCoverDataset(books, config.size(options), parts.tokenizer, options)
    cells = [(book.row, covers.prompt(book, template)) for book in books for template in prompts.TEMPLATES]
    images = []
    with tqdm(total=len(cells), desc=f"drawing {version.name}", unit="cover") as bar:
        for first in range(0, len(cells), options.batch_size):
            rows, texts = zip(*cells[first : first + options.batch_size], strict=True)
            images.append(sampling.draw(parts, texts, rows, options))
            bar.update(len(rows))
    page = sampling.grid(torch.cat(images), len(prompts.TEMPLATES), labels=[text for _, text in cells])
    name = f"{version.name}_grid"
    sampling.save_png(folder / f"{name}.png", page)
    files.write_json(
        folder / f"{name}.json", {**generation_covers.settings_of(options, version, parts_hash), "cells": cells}
    )
    print(f"drew {folder / name}.png: {len(books)} books x {len(prompts.TEMPLATES)} templates")


def draw_and_score(options, version, folder, state):
    """Covers of --split into <folder>/<row>.png, less those that are there; then everything that --metrics asks for.

    state: accelerate's, with the processes that draw together.
    """
    import dataset
    from checkpoints import catalog
    from evaluation import clip as evaluation_clip
    from evaluation import evaluate, features
    from evaluation import reference as evaluation_reference
    from generation import covers

    # Everything that can be wrong comes before the long work
    with state.main_process_first():  # the first process builds the index, the others read it
        data = dataset.open_data(options)
    books = data.books(options.split)[: options.num_imgs]
    if len(books) < (options.num_imgs or 0):
        print(f"warning: --num_imgs {options.num_imgs}: --split {options.split} has {len(books)}", file=sys.stderr)
    covers.make_folder(folder)
    features.warn_of_jpeg(folder)
    extractor = features.load_extractor(options, state.device)
    reference = evaluation_reference.load_reference(options, extractor, data)
    there = read_metrics(folder / "metrics.json")
    if version.run:
        catalog.read_scores(version.run)
    clip = None
    if options.clip_model and "clip" in config.chosen_metrics(options):
        clip = evaluation_clip.load(options.clip_model, options.fid_batch_size, state.device)

    settings = covers.draw(options, version, folder, books, state)
    if not state.is_main_process:
        return

    # Score
    prompts = files.read_json(folder / covers.SETTINGS)["prompts"]
    prompts = [prompts[str(book.row)] for book in books]
    sides = evaluate.Sides(options, folder, version.run, data, books, prompts, extractor, reference, clip)
    measured, skipped = evaluate.measure(sides)
    if not measured:
        raise config.UserError(f"nothing could be measured: {'; '.join(skipped.values())}")
    settings |= evaluate.about(sides)
    score = evaluate.merge(there, settings, measured, skipped)
    files.write_json(folder / "metrics.json", score)
    tell(score, version)
    print(f"covers, settings.json and metrics.json in {folder}")
    if version.run:
        record(options, version, settings, score)


def read_metrics(path):
    """What a metrics.json says, {} if there is none. UserError if it is damaged."""
    try:
        return files.read_json(path) if path.exists() else {}
    except config.UserError as problem:
        raise config.UserError(f"{problem}; delete it: scoring again is quick, as features are kept") from None


def tell(score, version):
    """Print the score beside that of v0, if that is known and was measured alike, and that of real covers."""
    from checkpoints import catalog, scores
    from evaluation import distances

    start = catalog.read_scores(version.run).get("v0", {}).get(score["score"], {}) if version.run else {}
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


def record(options, version, settings, score):
    """Have the score in the run's listing and in its tracker; what fails of it is told, and no more.

    Values of other metrics that the listing has of the same covers stay; and a score over more covers stays.
    """
    from checkpoints import catalog
    from evaluation import evaluate
    from tracking import trackers

    listed = catalog.read_scores(version.run).get(version.name, {}).get(score["score"], {})
    score = evaluate.merge(listed, settings, score["values"], score["skipped"])
    if listed.get("weights") == score["weights"] and listed.get("n", 0) > score["n"]:
        print(f"the run's listing keeps the score over {listed['n']} covers; this one stands in metrics.json alone")
        return

    step = catalog.version_of(version.run, version.name)["step"]
    try:
        catalog.add_score(version.run, version.name, score)
        tracker = trackers.connect(options, version.run.name)
        figures = {f"{version.name} {value['name']}": value["value"] for value in score["values"].values()}
        tracker.score(step, figures)
        tracker.finish()
    except config.UserError as problem:
        print(f"warning: {problem}; this command again sends the score", file=sys.stderr)


if __name__ == "__main__":
    parser.run_script(main)
