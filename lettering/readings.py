"""Where the letters of the training covers stand: each cover is read by OCR once, and what was read is kept.

    <cache_dir>/letters/readings-<key>.jsonl    a line for each cover: hash of its file, and the lines on it

The key is a hash of all else that a reading depends on: how covers are enlarged or reduced, OCR's networks, libraries.
Which of the lines show title and author is found at each start (see matching.py): titles may be corrected meanwhile.
"""

from __future__ import annotations

import collections
import json
import pathlib
import time
from collections.abc import Mapping, Sequence

import accelerate
import numpy as np
from PIL import Image
from tqdm import tqdm

import config
from common.errors import UserError
from common.files import require_free_space
from common.hashing import content_hash
from common.prefetch import read_ahead
from data.book import Book
from data.images import BadImage, decode_image
from lettering.matching import TrueLine, main_letters, match_lines
from lettering.page import draw_page
from lettering.records import Layout, LetterLine, Size, ink_corners
from ocr.engine import Line, engine_hash, read_text
from ocr.readings import ReadingsCache

VERSION = 1  # raise it when the same cover would be read in another way, see read_cover_text
LARGE = 1200  # px: covers whose long side has more are reduced to it, which is enough for letters that can be drawn
SHOWN = 0.8  # share of a title's letters that lines have to show, as evaluation.legibility's READ
RECORD = 2000  # bytes that a cover's lines take in the file, or less
WITHOUT = "leave --train_lettering out and start from a model without lettering"  # which always trains with pages
HINT = "free some space there, or choose another folder with --cache_dir"


class CoverPages:
    """pages(book, size) -> the glyph page of a training cover, uint8 (H, W), size (width, height): black if OCR found
    neither its title nor an author. KeyError for a book that was not read. It can be pickled."""

    def __init__(self, lines: Mapping[int, Sequence[TrueLine]]) -> None:
        """lines: {row of a book: those of its cover that show title or author}."""
        # As JSON they take a twentieth of the memory, and workers of a DataLoader are started sooner
        self.lines = {row: json.dumps(found) for row, found in lines.items()}

    def __call__(self, book: Book, size: Size) -> np.ndarray:
        return draw_page(self.layout(book, size), size)

    def layout(self, book: Book, size: Size) -> Layout:
        """Where title and author stand on the cover when it is resized to `size` (see data.images.fit_image)."""
        return fitted_layout([TrueLine(*line) for line in json.loads(self.lines[book.row])], book, size)


def fitted_layout(found: Sequence[TrueLine], book: Book, size: Size) -> Layout:
    """The layout of a cover's lines when the cover is resized to `size`."""
    whole = (book.width, book.height)
    lines = [LetterLine(line.text, ink_corners(line.corners, whole), line.slant, line.part) for line in found]
    return Layout(tuple(lines)).fitted(whole, size)


def read_layouts(books: Sequence[Book], options: config.DataOptions, accelerator: accelerate.Accelerator) -> CoverPages:
    """The glyph pages of these books' covers; those that were not read yet are read first, by all processes.

    A stopped or killed call keeps what it has read. UserError if OCR does not work here, an image can't be read, the
    disk is full, no book has a title, or no cover shows its title.
    """
    require_readable(books)
    path = readings_path(options)
    by_content = {book.content: book for book in books}  # equal images once
    missing: list[str] = []
    if accelerator.is_main_process:
        cache = ReadingsCache(path)  # drops what is damaged
        missing = [content for content in by_content if content not in cache]
        require_free_space(path.parent, len(missing) * RECORD, f"what is read on {len(missing)} covers", HINT)
        line = f"letters: {len(by_content) - len(missing)} of {len(by_content)} covers are in the cache"
        print(f"{line}; {len(missing)} to read" if missing else line)
    (missing,) = accelerate.utils.broadcast_object_list([missing])
    if not accelerator.is_main_process:
        cache = ReadingsCache(path)
    if missing:
        accelerator.wait_for_everyone()  # so that nobody opens the file while others write to it
        began = time.monotonic()
        share = missing[accelerator.process_index :: accelerator.num_processes]
        read_covers([by_content[content] for content in share], cache, options, accelerator)
        accelerator.wait_for_everyone()
        seconds = time.monotonic() - began
        accelerator.print(f"letters: {len(missing)} read in {seconds:.1f} s, {len(missing) / seconds:.1f} covers/s")
        if accelerator.num_processes > 1:
            cache = ReadingsCache(path)  # with what the others have read
    return find_letters(books, cache, accelerator)


def require_readable(books: Sequence[Book]) -> None:
    """UserError if OCR does not work here, or if no book has a title."""
    engine_hash()
    if not any(book.title for book in books):
        raise UserError(
            "letters are learned from titles, and the data has captions alone: give the pictures titles in a "
            f"metadata file (docs/data.md), or {WITHOUT}"
        )


def readings_path(options: config.DataOptions) -> pathlib.Path:
    """The file of what was read. UserError if its folder can't be made, or OCR does not work here."""
    return config.cache_dir(options) / "letters" / f"readings-{engine_hash()}-{VERSION}.jsonl"


def known_layouts(books: Sequence[Book], options: config.DataOptions, size: Size) -> dict[str, Layout]:
    """{hash of a cover's file: where title and author stand on it, resized to `size`}, of those of the books whose
    covers were read before and show their title. UserError if there are none."""
    path = readings_path(options)
    cache = ReadingsCache(path) if path.exists() else {}
    read = {book.content: book for book in books if book.content in cache}
    if not read:
        raise UserError(
            f"none of the {len(books)} training covers was read by OCR with this --cache_dir, as training with "
            "--train_lettering True does: give the training's --cache_dir"
        )
    found = {}
    for content, book in tqdm(read.items(), "finding titles", unit=" covers", delay=3):
        lines = match_lines(cache[content], book.title, book.authors)
        if shows_title(lines, book.title):
            found[content] = fitted_layout(lines, book, size)
    if not found:
        raise UserError(f"OCR found the title on none of the {len(read)} training covers that were read")
    return found


def read_covers(
    books: Sequence[Book], cache: ReadingsCache, options: config.DataOptions, accelerator: accelerate.Accelerator
) -> None:
    """Read covers and add their lines to the cache, each as soon as it is read."""

    def read(book: Book) -> None:
        cache.add(book.content, read_cover_text(book))

    done = read_ahead(read, books, config.num_workers(options))
    quiet = not accelerator.is_main_process
    collections.deque(tqdm(done, "reading letters", len(books), unit=" covers", disable=quiet), maxlen=0)


def read_cover_text(book: Book) -> list[Line]:
    """The lines on a book's cover, at its own size. UserError if it can't be read, or has changed since it was hashed:
    its lines would be kept as another image's."""
    try:
        image = decode_image(pathlib.Path(book.image).read_bytes())
    except OSError as problem:
        raise UserError(f"{book.name}: can't read {book.image}: {problem.strerror or problem}") from None
    except BadImage as problem:
        raise UserError(f"{book.name}: {book.image}: {problem}; start again when it is right") from None
    if content_hash(book.image) != book.content:
        raise UserError(f"{book.name}: {book.image} was changed just now: start again when it stays as it is")
    if max(image.size) > LARGE:
        image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
    return read_text(np.asarray(image))


def find_letters(books: Sequence[Book], cache: ReadingsCache, accelerator: accelerate.Accelerator) -> CoverPages:
    """The glyph pages of these books, from the lines that were read. UserError if no cover shows its title."""
    lines, titles, authors, blank = {}, 0, 0, 0
    quiet = not accelerator.is_main_process
    for book in tqdm(books, "finding titles", unit=" covers", delay=3, disable=quiet):
        found = match_lines(cache[book.content], book.title, book.authors)
        lines[book.row] = found
        titles += shows_title(found, book.title)
        authors += any(line.part == "author" for line in found)
        blank += not found
    line = f"letters: {titles} of {len(books)} covers show their title, {authors} an author"
    accelerator.print(f"{line}; {blank} show neither and train with a blank page" if blank else line)
    if not titles:
        raise UserError(
            f"OCR found the title on none of the {len(books)} covers: look whether titles and images belong together "
            f"(python -m dataset prints a summary), or {WITHOUT}"
        )
    return CoverPages(lines)


def shows_title(found: Sequence[TrueLine], title: str) -> bool:
    """Whether lines show at least SHOWN of a title's letters, without subtitle and series."""
    letters = sum(line.letters for line in found if line.part == "title")
    return letters > 0 and letters >= SHOWN * main_letters(title)
