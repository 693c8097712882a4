"""A folder of covers that one version drew: <row>.png for each book, and settings.json, which says how."""

from __future__ import annotations

import pathlib

from tqdm import tqdm

import config
import dataset
from common.errors import UserError
from common.files import read_json, write_json
from common.png import save_png
from diffusion import sampling
from generation.version import SETTING_OPTIONS, drawing_settings, load_version

SETTINGS = "settings.json"


def covers_folder(options, version):
    """The folder under which the covers of a version are kept: --save_dir, else 'covers' in its run, else here."""
    return pathlib.Path(options.save_dir or (version.run / "covers" if version.run else "covers")).expanduser()


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"can't make {folder}: {problem}; choose another --save_dir") from None


def draw_covers(options, version, folder, books, state):
    """Have a cover of each of `books` in `folder`; those that are there are not drawn again. Returns settings_of them.

    state: accelerate's, with the processes that draw together. A cover is a function of its row: who draws it, and
    beside which others, changes nothing. UserError if covers that are there were drawn otherwise.
    """

    make_folder(folder)
    parts, parts_hash = load_version(options, version.source, state.device)
    covers = dataset.BookCoverDataset(books, config.size(options), parts.tokenizer, options)
    settings = drawing_settings(options, version, parts_hash)
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

    missing = [book for book in books if not (folder / f"{book.row}.png").exists()]
    done = len(books) - len(missing)
    with tqdm(total=len(books), initial=done, desc=f"drawing {folder.name}", unit="cover") as bar:
        for first in range(0, len(missing), options.batch_size):
            rows = [book.row for book in missing[first : first + options.batch_size]]
            images = sampling.draw_images(parts, [texts[str(row)] for row in rows], rows, options)
            for row, image in zip(rows, images, strict=True):
                save_png(folder / f"{row}.png", image)
            bar.update(len(rows))


def require_same_settings(path, settings, texts):
    """Note settings and {row: prompt} of a folder of covers. UserError if covers there were drawn otherwise."""
    strange = [row for row in texts if not path.exists() and (path.parent / f"{row}.png").exists()]
    if strange:
        raise UserError(
            f"{path.parent} has covers, such as {strange[0]}.png, and no {path.name} that says how they were drawn: "
            "choose another --save_dir, or delete that folder"
        )
    there = read_json(path) if path.exists() else {**settings, "prompts": {}}
    known = there.get("prompts") or {}
    for name, value in settings.items():
        if there.get(name) != value:
            before = there.get(name)
            option = (
                f"--{SETTING_OPTIONS[name]} {False if before is None else before}" if name in SETTING_OPTIONS else None
            )
            raise UserError(
                f"the covers in {path.parent} were drawn with {name} {before}, and now it is {value}: "
                + (f"give {option}, " if option and name in there else "")
                + "choose another --save_dir, or delete that folder"
            )
    for row, text in texts.items():
        if known.get(row, text) != text:
            raise UserError(
                f"the cover of row {row} in {path.parent} was drawn from another prompt, {known[row]!r}: "
                "choose another --save_dir, or delete that folder"
            )
    if known | texts != known or not path.exists():
        write_json(path, {**settings, "prompts": known | texts})
