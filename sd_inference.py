"""Draw covers with any version of a run, from fixed seeds and latents, and score them against real held-out covers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import sys

import command_line
import config


def main(argv=None):
    """Draw one prompt, the grid (templates x held-out books), or --num_imgs covers with their score."""
    given = command_line.read_command_line(config.InferenceOptions, argv)

    import checkpoint

    wanted = config.InferenceOptions(**given)
    version, source, run = checkpoint.resolve_version(
        wanted.output_dir, wanted.run_id, wanted.version, wanted.pretrained_model
    )
    options = config.check(wanted)
    if run:
        options = command_line.inherit(config.InferenceOptions, run / "config.json", given, inherited())
    folder = pathlib.Path(options.save_dir or (run / "covers" if run else "covers")).expanduser()
    command_line.launch_on_gpus(options.num_gpus, __file__, argv)
    subject = {"version": version, "run_id": run.name if run else None, "pretrained_model": source}
    if options.prompt:
        draw_prompt(options, subject, folder)
    elif options.calc_fid:
        draw_and_score(options, subject, folder)
    else:
        draw_grid(options, subject, folder)
    return 0


def inherited():
    """Names of the options that come from the run unless they are given: how its data and its previews were made."""
    groups = (config.DataOptions, config.DrawingOptions)
    return {field.name for group in groups for field in dataclasses.fields(group)} | {"seed"}


def settings_of(options, subject):
    """What determines a picture, less its prompt and its row."""
    names = ("seed", "resolution", "steps", "guidance_scale", "scheduler", "mixed_precision", "include_desc")
    return {**subject, **{name: getattr(options, name) for name in names}}


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise config.UserError(f"can't make {folder}: {problem}; choose another --save_dir") from None


def load(options, source):
    """models.Parts of the version, ready to draw: half precision on a GPU."""
    import accelerate

    import models

    precision = models.pick_precision(options.mixed_precision)
    return models.place(models.load_parts(source), accelerate.PartialState().device, precision)


def draw_prompt(options, subject, folder):
    """One cover for --prompt, and its settings beside it."""
    import dataset
    import files
    import sampling

    make_folder(folder)
    settings = {**settings_of(options, subject), "prompt": options.prompt}
    name = f"{subject['version']}_prompt_{hashlib.sha256(options.prompt.encode()).hexdigest()[:8]}"
    parts = load(options, subject["pretrained_model"])
    tokens, limit = dataset.count_tokens(parts.tokenizer, options.prompt), parts.tokenizer.model_max_length
    if tokens > limit:
        print(f"warning: the prompt has {tokens} tokens, and only the first {limit} are read", file=sys.stderr)
    image = sampling.draw(parts, [options.prompt], [0], options)[0]
    sampling.save_png(folder / f"{name}.png", image)
    files.write_json(folder / f"{name}.json", settings)
    print(f"drew {folder / name}.png")


def draw_grid(options, subject, folder):
    """The original experiment's grid: a row for each held-out book, a column for each prompt template.

    All pictures of a book start from the same latents, so versions can be compared cell by cell.
    """
    import torch
    from tqdm import tqdm

    import dataset
    import files
    import prompts
    import sampling

    books = dataset.open_data(options).books(options.split)[: options.num_samples]
    make_folder(folder)
    parts = load(options, subject["pretrained_model"])
    covers = dataset.BookCoverDataset(books, config.size(options), parts.tokenizer, options)
    cells = [(book.row, covers.prompt(book, template)) for book in books for template in prompts.TEMPLATES]
    images = []
    with tqdm(total=len(cells), desc=f"drawing {subject['version']}", unit="cover") as bar:
        for first in range(0, len(cells), options.batch_size):
            rows, texts = zip(*cells[first : first + options.batch_size], strict=True)
            images.append(sampling.draw(parts, texts, rows, options))
            bar.update(len(rows))
    page = sampling.grid(torch.cat(images), len(prompts.TEMPLATES), labels=[text for _, text in cells])
    name = f"{subject['version']}_grid"
    sampling.save_png(folder / f"{name}.png", page)
    files.write_json(folder / f"{name}.json", {**settings_of(options, subject), "cells": cells})
    print(f"drew {folder / name}.png: {len(books)} books x {len(prompts.TEMPLATES)} templates")


def draw_and_score(options, subject, folder):
    """Covers of --split into <folder>/<version>/<row>.png, less those that are there, then their score."""
    import accelerate

    import dataset
    import files
    import metrics

    # Everything that can be wrong comes before the long work
    state = accelerate.PartialState()
    data = dataset.open_data(options)
    books = data.books(options.split)[: options.num_imgs]
    folder = folder / subject["version"]
    make_folder(folder)
    extractor = metrics.load_extractor(options, state.device)
    reference = metrics.load_reference(options, extractor, data)
    require_same_settings(folder / "settings.json", settings_of(options, subject))

    # Draw what is missing. Each cover is a function of its row: who draws it, and beside which others, changes nothing
    missing = [book for book in books if not (folder / f"{book.row}.png").exists()]
    if missing:
        draw_covers(options, subject, folder, missing[state.process_index :: state.num_processes], len(books))
    state.wait_for_everyone()
    if not state.is_main_process:
        return

    # Score
    images = metrics.folder_images(folder, [book.row for book in books])
    moments = metrics.moments(images, extractor, total=len(books), desc="features")
    distance = metrics.frechet_distance(reference.mu, reference.sigma, moments.mu, moments.sigma)
    files.write_json(
        folder / "metrics.json",
        {
            "score": extractor.score_name,
            "distance": distance,
            "n": moments.n,
            "n_reference": reference.n,
            "fid_resize": options.fid_resize,
            "weights_hash": extractor.weights_hash,
            **settings_of(options, subject),
        },
    )
    for warning in {metrics.warn_small(n, extractor.dims) for n in (moments.n, reference.n)} - {None}:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{extractor.score_name} = {distance:.4f} ({moments.n} covers of {subject['version']}, {reference.n} real)")
    print(f"covers, settings.json and metrics.json in {folder}")


def draw_covers(options, subject, folder, books, total):
    """Draw one cover for each of the books, in batches; every picture is on disk as soon as it is drawn."""
    from tqdm import tqdm

    import dataset
    import sampling

    parts = load(options, subject["pretrained_model"])
    covers = dataset.BookCoverDataset(books, config.size(options), parts.tokenizer, options)
    with tqdm(total=total, initial=total - len(books), desc=f"drawing {subject['version']}", unit="cover") as bar:
        for first in range(0, len(books), options.batch_size):
            batch = books[first : first + options.batch_size]
            texts = [covers.prompt(book) for book in batch]
            images = sampling.draw(parts, texts, [book.row for book in batch], options)
            for book, image in zip(batch, images, strict=True):
                sampling.save_png(folder / f"{book.row}.png", image)
            bar.update(len(batch))


def require_same_settings(path, settings):
    """Write the settings of a folder of covers, or UserError if covers were drawn there with others."""
    import files

    if not path.exists():
        files.write_json(path, settings)
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise config.UserError(f"can't read {path}: {problem}; delete {path.parent} to draw again") from None
    for name, value in settings.items():
        if there.get(name) != value:
            raise config.UserError(
                f"the covers in {path.parent} were drawn with {name} {there.get(name)}, and now it is {value}: "
                "choose another --save_dir, or delete that folder"
            )


if __name__ == "__main__":
    command_line.run_script(main)
