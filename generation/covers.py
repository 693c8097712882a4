"""Draws a folder of covers with one version: <row>.png for each book, and settings.json with how they were drawn.

The row of a captioned picture is a number made from its name: pictures.csv says which is whose.
"""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence

import accelerate
from tqdm import tqdm

import config
import dataset
from common.errors import UserError
from common.files import remove_dead_temporary_files, write_text
from common.locks import locked
from common.png import save_png
from data.book import Book
from diffusion.parts import Parts
from diffusion.sampling import draw_images
from generation.glyph_pages import GlyphPages, letters_of, make_pages
from generation.settings import SETTINGS, WRITE_HINT, DrawingSettings, read_settings, require_same_settings
from generation.type_on_covers import require_font, require_titles, typeset_covers
from generation.version import Version, load_version

NAMES = "pictures.csv"  # in a folder of covers of captioned pictures
NAMES_HEADER = ("row", "file")


def covers_folder(options: config.InferenceOptions, version: Version) -> pathlib.Path:
    """Where a version's covers are saved: under --save_dir, else in 'covers' of its run, else of the working folder."""
    return pathlib.Path(options.save_dir or (version.run.covers if version.run else "covers")).expanduser()


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder for covers, if it does not exist, and removes what killed processes have left in it.

    UserError if it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"can't make {folder}: {problem}; choose another --save_dir") from None
    remove_dead_temporary_files(folder)


def draw_covers(
    options: config.InferenceOptions,
    version: Version,
    folder: pathlib.Path,
    books: Sequence[Book],
    state: accelerate.state.AcceleratorState,
) -> DrawingSettings:
    """Draws the cover of each book to <folder>/<row>.png, except those that exist; returns how they were drawn.

    state: of the processes that share the drawing. A cover is a function of its row: it does not depend on the process
    that draws it, nor on the batch. UserError if existing covers were drawn in another way.
    """
    make_folder(folder)
    if (folder / SETTINGS).exists():
        read_settings(folder / SETTINGS)  # a damaged file is reported before the model is loaded
    require_font(options)
    require_titles(options, books)
    pages = make_pages(options, version)
    parts, weights = load_version(options, version.source, state.device)
    covers = dataset.BookCoverDataset(books, config.size(options), parts.tokenizer, options)
    settings = DrawingSettings.from_options(options, version, weights, pages.layout if pages else None)
    prompts = {str(book.row): covers.prompt(book) for book in books}
    letters = {str(book.row): letters_of(book) for book in books} if pages else {}
    with state.main_process_first():
        require_same_settings(folder / SETTINGS, settings, prompts, letters)
        if state.is_main_process:
            list_names(folder / NAMES, books)
    mine = books[state.process_index :: state.num_processes]
    draw_missing(options, parts, folder, mine, prompts, pages)
    if options.typeset:
        typeset_covers(options, folder, {f"{book.row}.png": book for book in mine})
    state.wait_for_everyone()
    return settings


def list_names(path: pathlib.Path, books: Sequence[Book]) -> None:
    """Writes which picture of the data folder each <row>.png is for, as lines of row and file, beside those that are
    there. Nothing for books, whose rows are those of their table."""
    known = read_names(path)
    if known | (names := {str(book.row): book.file for book in books if book.file}) == known:
        return
    with locked(path, WRITE_HINT):
        text = io.StringIO(newline="")
        names = read_names(path) | names
        csv.writer(text, lineterminator="\n").writerows(
            [NAMES_HEADER, *sorted(names.items(), key=lambda name: name[1])]
        )
        write_text(path, text.getvalue(), WRITE_HINT)


def read_names(path: pathlib.Path) -> dict[str, str]:
    """{str(row): file} as list_names writes it; empty if there is no such file, or a damaged one."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return {line[0]: line[1] for line in list(csv.reader(file))[1:]}
    except (OSError, ValueError, IndexError, csv.Error):
        return {}


def draw_missing(
    options: config.InferenceOptions,
    parts: Parts,
    folder: pathlib.Path,
    books: Sequence[Book],
    prompts: Mapping[str, str],
    pages: GlyphPages | None = None,
) -> None:
    """Draws the covers of the books that have none in `folder`, and saves each batch as soon as it is drawn.

    prompts: {str(row): prompt}; pages: of a version with lettering.
    """
    missing = [book for book in books if not (folder / f"{book.row}.png").exists()]
    done = len(books) - len(missing)
    with tqdm(total=len(books), initial=done, desc=f"drawing {folder.name}", unit="cover") as bar:
        for first in range(0, len(missing), options.batch_size):
            batch = missing[first : first + options.batch_size]
            rows = [book.row for book in batch]
            images = draw_images(
                *(parts, [prompts[str(row)] for row in rows], rows, options, folder.name, options.negative_prompt),
                pages=[pages.of_book(book) for book in batch] if pages else None,
            )
            for row, image in zip(rows, images, strict=True):
                save_png(folder / f"{row}.png", image)
            bar.update(len(rows))
    if pages:
        pages.tell_problems()
