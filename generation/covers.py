"""A folder of covers that one version drew: <row>.png for each book, and settings.json, which says how."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import NamedTuple

import config
from checkpoints import catalog
from cli import parser
from common import files

SETTINGS = "settings.json"
GIVEN = {"precision": "mixed_precision"} | {  # setting -> its option
    name: name for name in ("seed", "resolution", "steps", "guidance_scale", "scheduler", "vae_tiling")
}


class Version(NamedTuple):
    """What to draw with."""

    name: str  # v0, v1, ... or a folder's name
    source: str  # for models.load_parts
    run: pathlib.Path | None  # its run's folder


# ---------------------------------------------------------------------------------------------------------------------
# Options -> Version


def find(options, given):
    """(options, Version) of options.run_id and options.version; what was not given comes from the run.

    options: config.InferenceOptions; given: those that the user typed. A version that is not on disk is fetched from
    the run's tracker. UserError if there is no such version, or if it started from another model than was asked for.
    """
    if options.run_id:
        options = bring(options, given)
    name, source, run = catalog.resolve_version(
        options.output_dir, options.run_id, options.version, options.pretrained_model
    )
    if run:
        started_from = files.read_json(run / "config.json").get("pretrained_model")
        if given.get("pretrained_model", started_from) == started_from:
            options = parser.inherit(config.InferenceOptions, run / "config.json", given, inherited())
        elif name == "v0" and not options.run_id:
            source, run = options.pretrained_model, None  # the model itself was asked for, not the newest run's start
        else:
            raise config.UserError(
                f"run {run.name} started from {started_from}, not from --pretrained_model {options.pretrained_model}: "
                "leave it out, or draw with that model itself by --version v0 without --run_id"
            )
    return options, Version(name, source, run)


def bring(options, given):
    """The options, with the tracker that the run was started with; a version that is not on disk is fetched from it."""
    from tracking import artifacts

    saved = catalog.run_folder(options.output_dir, options.run_id) / "config.json"
    options = parser.inherit_tracker(config.InferenceOptions, saved, given)
    if config.tracker(options) in config.STORES and re.fullmatch(catalog.NAMES, options.version):
        artifacts.bring_version(options, options.run_id, options.version)
    return options


def inherited():
    """Names of the options that come from the run unless they are given: its data, its previews and its tracker.

    Not vae_tiling, which changes pictures: what a small card needed in training must not show in the scores.
    """
    groups = (config.DataOptions, config.DrawingOptions, config.TrackingOptions)
    return {field.name for group in groups for field in dataclasses.fields(group)} - {"vae_tiling"} | {"seed"}


def home_of(options, version):
    """The folder under which the covers of a version are kept: --save_dir, else 'covers' in its run, else here."""
    return pathlib.Path(options.save_dir or (version.run / "covers" if version.run else "covers")).expanduser()


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise config.UserError(f"can't make {folder}: {problem}; choose another --save_dir") from None


# ---------------------------------------------------------------------------------------------------------------------
# Version -> covers


def load(options, source, device):
    """(models.Parts of the version, ready to draw: half precision on a GPU; the hash of its weights)."""
    from diffusion import pipeline

    precision = pipeline.pick_precision(options.mixed_precision)
    parts = pipeline.load_parts(source)
    parts_hash = pipeline.weights_hash(parts)
    return pipeline.place(parts, device, precision), parts_hash


def settings_of(options, version, parts_hash):
    """What determines a picture, less its prompt and its row. parts_hash: models.weights_hash."""
    from diffusion import pipeline

    return {
        "version": version.name,
        "run_id": version.run.name if version.run else None,
        "weights": parts_hash,
        "precision": pipeline.pick_precision(options.mixed_precision),
        **{name: getattr(options, name) for name in GIVEN if name not in ("precision", "vae_tiling")},
        "vae_tiling": options.vae_tiling or None,  # as in settings that were kept before there was this option
    }


def draw(options, version, folder, books, state):
    """Have a cover of each of `books` in `folder`; those that are there are not drawn again. Returns settings_of them.

    state: accelerate's, with the processes that draw together. A cover is a function of its row: who draws it, and
    beside which others, changes nothing. UserError if covers that are there were drawn otherwise.
    """
    import dataset

    make_folder(folder)
    parts, parts_hash = load(options, version.source, state.device)
    covers = dataset.BookCoverDataset(books, config.size(options), parts.tokenizer, options)
    settings = settings_of(options, version, parts_hash)
    texts = {str(book.row): covers.prompt(book) for book in books}
    with state.main_process_first():
        require_same_settings(folder / SETTINGS, settings, texts)
    draw_missing(options, parts, folder, books[state.process_index :: state.num_processes], texts)
    state.wait_for_everyone()
    return settings


def draw_missing(options, parts, folder, books, texts):
    """Draw the covers of those books that have none in `folder`; each is on disk as soon as it is drawn.

    texts: {str(row): prompt}.
    """
    from tqdm import tqdm

    from diffusion import sampling

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
    strange = [row for row in texts if not path.exists() and (path.parent / f"{row}.png").exists()]
    if strange:
        raise config.UserError(
            f"{path.parent} has covers, such as {strange[0]}.png, and no {path.name} that says how they were drawn: "
            "choose another --save_dir, or delete that folder"
        )
    there = files.read_json(path) if path.exists() else {**settings, "prompts": {}}
    known = there.get("prompts") or {}
    for name, value in settings.items():
        if there.get(name) != value:
            before = there.get(name)
            option = f"--{GIVEN[name]} {False if before is None else before}" if name in GIVEN else None
            raise config.UserError(
                f"the covers in {path.parent} were drawn with {name} {before}, and now it is {value}: "
                + (f"give {option}, " if option and name in there else "")
                + "choose another --save_dir, or delete that folder"
            )
    for row, text in texts.items():
        if known.get(row, text) != text:
            raise config.UserError(
                f"the cover of row {row} in {path.parent} was drawn from another prompt, {known[row]!r}: "
                "choose another --save_dir, or delete that folder"
            )
    if known | texts != known or not path.exists():
        files.write_json(path, {**settings, "prompts": known | texts})
