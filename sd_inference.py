"""Draw covers with any version of a run, from fixed seeds and latents, and score them against real held-out covers."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
import sys
from typing import NamedTuple

import command_line
import config
import files


def main(argv=None):
    """Draw one prompt, the grid (templates x held-out books), or --num_imgs covers with their score."""
    given = command_line.read_command_line(config.InferenceOptions, argv)
    options = config.check(config.InferenceOptions(**given))

    import accelerate

    import catalog

    if options.run_id:
        options = bring(options, given)
    name, source, run = catalog.resolve_version(
        options.output_dir, options.run_id, options.version, options.pretrained_model
    )
    if run:
        started_from = files.read_json(run / "config.json").get("pretrained_model")
        if given.get("pretrained_model", started_from) == started_from:
            options = command_line.inherit(config.InferenceOptions, run / "config.json", given, inherited())
        elif name == "v0" and not options.run_id:
            source, run = options.pretrained_model, None  # the model itself was asked for, not the newest run's start
        else:
            raise config.UserError(
                f"run {run.name} started from {started_from}, not from --pretrained_model {options.pretrained_model}: "
                "leave it out, or draw with that model itself by --version v0 without --run_id"
            )
    folder = pathlib.Path(options.save_dir or (run / "covers" if run else "covers")).expanduser()
    command_line.launch_on_gpus(options.num_gpus, __file__, argv)
    state = accelerate.Accelerator().state
    version = Version(name, source, run)
    if options.calc_fid:
        draw_and_score(options, version, folder, state)
    elif state.is_main_process:
        (draw_prompt if options.prompt else draw_grid)(options, version, folder, state.device)
    return 0


def bring(options, given):
    """The options, with the tracker that the run was started with; a version that is not on disk is fetched from it."""
    import artifacts
    import catalog

    saved = catalog.run_folder(options.output_dir, options.run_id) / "config.json"
    options = command_line.inherit_tracker(config.InferenceOptions, saved, given)
    if config.tracker(options) in config.STORES and re.fullmatch(catalog.NAMES, options.version):
        artifacts.bring_version(options, options.run_id, options.version)
    return options


class Version(NamedTuple):
    """What to draw with."""

    name: str  # v0, v1, ... or a folder's name
    source: str  # for models.load_parts
    run: pathlib.Path | None  # its run's folder


def inherited():
    """Names of the options that come from the run unless they are given: its data, its previews and its tracker."""
    groups = (config.DataOptions, config.DrawingOptions, config.TrackingOptions)
    return {field.name for group in groups for field in dataclasses.fields(group)} | {"seed"}


def settings_of(options, version, parts_hash):
    """What determines a picture, less its prompt and its row. parts_hash: models.weights_hash."""
    import models

    names = ("seed", "resolution", "steps", "guidance_scale", "scheduler")
    return {
        "version": version.name,
        "run_id": version.run.name if version.run else None,
        "weights": parts_hash,
        "precision": models.pick_precision(options.mixed_precision),
        **{name: getattr(options, name) for name in names},
    }


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise config.UserError(f"can't make {folder}: {problem}; choose another --save_dir") from None


def load(options, source, device):
    """(models.Parts of the version, ready to draw: half precision on a GPU; the hash of its weights)."""
    import models

    precision = models.pick_precision(options.mixed_precision)
    parts = models.load_parts(source)
    parts_hash = models.weights_hash(parts)
    return models.place(parts, device, precision), parts_hash


def draw_prompt(options, version, folder, device):
    """One cover for --prompt, and its settings beside it."""
    import dataset
    import sampling

    make_folder(folder)
    parts, parts_hash = load(options, version.source, device)
    tokens, limit = dataset.count_tokens(parts.tokenizer, options.prompt), parts.tokenizer.model_max_length
    if tokens > limit:
        print(f"warning: the prompt has {tokens} tokens, and only the first {limit} are read", file=sys.stderr)
    name = f"{version.name}_prompt_{hashlib.sha256(options.prompt.encode()).hexdigest()[:8]}"
    image = sampling.draw(parts, [options.prompt], [0], options)[0]
    sampling.save_png(folder / f"{name}.png", image)
    files.write_json(folder / f"{name}.json", {**settings_of(options, version, parts_hash), "prompt": options.prompt})
    print(f"drew {folder / name}.png")


def draw_grid(options, version, folder, device):
    """The original experiment's grid: a row for each held-out book, a column for each prompt template.

    All pictures of a book start from the same latents, so versions can be compared cell by cell.
    """
    import torch
    from tqdm import tqdm

    import dataset
    import prompts
    import sampling

    books = dataset.open_data(options).books(options.split)[: options.num_samples]
    make_folder(folder)
    parts, parts_hash = load(options, version.source, device)
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
    files.write_json(folder / f"{name}.json", {**settings_of(options, version, parts_hash), "cells": cells})
    print(f"drew {folder / name}.png: {len(books)} books x {len(prompts.TEMPLATES)} templates")


def draw_and_score(options, version, folder, state):
    """Covers of --split into <folder>/<version>/<row>.png, less those that are there, then their score.

    state: accelerate's, with the processes that draw together. A cover is a function of its row: who draws it, and
    beside which others, changes nothing.
    """
    import dataset
    import features
    import metrics

    # Everything that can be wrong comes before the long work
    with state.main_process_first():  # the first process builds the index, the others read it
        data = dataset.open_data(options)
    books = data.books(options.split)[: options.num_imgs]
    folder = folder / version.name
    make_folder(folder)
    extractor = features.load_extractor(options, state.device)
    reference = metrics.load_reference(options, extractor, data)
    parts, parts_hash = load(options, version.source, state.device)
    covers = dataset.BookCoverDataset(books, config.size(options), parts.tokenizer, options)
    settings = settings_of(options, version, parts_hash)
    texts = {str(book.row): covers.prompt(book) for book in books}
    with state.main_process_first():
        require_same_settings(folder / "settings.json", settings, texts)

    draw_missing(options, parts, folder, books[state.process_index :: state.num_processes], texts)
    state.wait_for_everyone()
    if not state.is_main_process:
        return

    # Score
    images = features.folder_images(folder, [book.row for book in books])
    moments = metrics.moments(images, extractor, total=len(books), desc="features")
    distance = metrics.frechet_distance(reference.mu, reference.sigma, moments.mu, moments.sigma)
    score = {
        "score": extractor.score_name,
        "distance": distance,
        "n": moments.n,
        "n_reference": reference.n,
        "fid_resize": options.fid_resize,
        "features_hash": extractor.weights_hash,
    }
    files.write_json(folder / "metrics.json", {**score, **settings})
    if warning := metrics.warn_small(min(moments.n, reference.n), extractor.dims):
        print(f"warning: {warning}", file=sys.stderr)
    counts = f"{moments.n} covers of {version.name}, {reference.n} real"
    print(f"{extractor.score_name} = {distance:.4f} ({counts}); lower is better")
    print(f"covers, settings.json and metrics.json in {folder}")
    if version.run:
        record(options, version, score)


def record(options, version, score):
    """Have the score in the run's listing and in its tracker; what fails of it is told, and no more."""
    import catalog
    import trackers

    step = catalog.version_of(version.run, version.name)["step"]
    try:
        catalog.add_score(version.run, version.name, score)
        tracker = trackers.connect(options, version.run.name)
        tracker.score(step, {f"{version.name} {score['score']}": score["distance"]})
        tracker.finish()
    except config.UserError as problem:
        print(f"warning: {problem}; this command again sends the score", file=sys.stderr)


def draw_missing(options, parts, folder, books, texts):
    """Draw the covers of those books that have none in `folder`; each is on disk as soon as it is drawn.

    texts: {str(row): prompt}.
    """
    from tqdm import tqdm

    import sampling

    missing = [book for book in books if not (folder / f"{book.row}.png").exists()]
    done = len(books) - len(missing)
    with tqdm(total=len(books), initial=done, desc=f"drawing {folder.name}", unit="cover") as bar:
        for first in range(0, len(missing), options.batch_size):
            rows = [book.row for book in missing[first : first + options.batch_size]]
            images = sampling.draw(parts, [texts[str(row)] for row in rows], rows, options)
            for row, image in zip(rows, images, strict=True):
                sampling.save_png(folder / f"{row}.png", image)
            bar.update(len(rows))


def require_same_settings(path, settings, texts):
    """Note settings and {row: prompt} of a folder of covers. UserError if covers there were drawn otherwise."""
    there = files.read_json(path) if path.exists() else {**settings, "prompts": {}}
    known = there.get("prompts") or {}
    for name, value in settings.items():
        if there.get(name) != value:
            raise config.UserError(
                f"the covers in {path.parent} were drawn with {name} {there.get(name)}, and now it is {value}: "
                "choose another --save_dir, or delete that folder"
            )
    for row, text in texts.items():
        if known.get(row, text) != text:
            raise config.UserError(
                f"the cover of row {row} in {path.parent} was drawn from another prompt, {known[row]!r}: "
                "choose another --save_dir, or delete that folder"
            )
    if known | texts != known or not path.exists():
        files.write_json(path, {**settings, "prompts": known | texts})


if __name__ == "__main__":
    command_line.run_script(main)
