"""Layouts for the letters of a cover: by rule, like a training cover, or from a file.

    layout = layout_by_rule("The Glass Crown", "Ada Fenwick", (512, 768))
    page = draw_page(layout, (512, 768))  # see page.py

What a layout is: records.py.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import read_json, write_json
from lettering.filling import fill_lines, letter_size
from lettering.plain import plain_face, plain_text, require_plain
from lettering.records import Corners, Layout, LetterLine, Size, to_corners
from typesetting.fitting import Setting, Style, fit, split_words
from typesetting.layout import Line, place_lines

PLACES = ("auto", "top", "bottom")
# The rule's lengths, in fractions of the width
LARGEST = 0.2  # font size of the title at most
READABLE = 11 / 128  # font size that survives the autoencoder: the title gets more of the height until it has it
LEAST = 1 / 32  # font size below which nothing is set
WHOLE = 0.05  # down to this size words are not broken
MARGIN = 0.08
BANDS = (0.34, 0.5, 0.75)  # height of the title, in fractions of the height between the margins
AUTHOR = 11 / 128  # font size of the author at most; it is never larger than the title
AUTHOR_BAND = 0.2  # height of the author, in fractions of the height between the margins, at most
MOST = 2000  # characters: more do not fit in letters of LEAST
NEAREST = 8  # training covers that a layout is taken from
GRID = 1024  # pixels of width in which the rule sets type: letters stand to a thousandth of the width


# ---------------------------------------------------------------------------------------------------------------------
# By rule


def layout_by_rule(title: str, author: str, size: Size, place: str = "auto") -> Layout:
    """Title at one end of a picture of size (width, height), author (may be empty) at the other, in large letters.

    place: of the title: top, bottom, or auto: one of them by the title's hash, since covers have both. The author is
    in capitals, in letters no larger than the title's. UserError if there is no title, or a character that can't be
    set, or more text than fits.
    """
    style, grid = Style(plain_face()), (GRID, max(1, round(GRID * size[1] / size[0])))
    title, author = settable(title, "title", size), settable(author, "author", size).upper()
    if place == "auto":
        place = "top" if hashlib.sha256(title.encode()).digest()[0] % 2 else "bottom"
    edge = round(MARGIN * min(grid))
    width, height = grid[0] - 2 * edge, grid[1] - 2 * edge

    def fitted_in(text: str, share: float, largest: float) -> Setting | None:
        found = fit(split_words(text), style, (width, round(share * height)), round(largest), round(WHOLE * GRID))
        return found if found and found.size >= LEAST * GRID else None

    for share in BANDS:
        heading = fitted_in(title, share, LARGEST * GRID)
        if heading and heading.size >= READABLE * GRID:
            break
    names = fitted_in(author, AUTHOR_BAND, min(heading.size, AUTHOR * GRID)) if author and heading else None
    if heading is None or (author and names is None):
        raise too_long("the author", author, size) if heading else too_long("the title", title, size)
    lines = placed(heading, style, grid, edge, place == "top", "title")
    if names:
        lines += placed(names, style, grid, edge, place != "top", "author")
    return in_order(lines)


def settable(text: str, part: str, size: Size) -> str:
    """Title or author as it is set. UserError if there is no title, or if it has a character that can't be set."""
    if len(text) > MOST:
        raise too_long(f"the {part}", text, size)
    text = require_plain(text, f"the {part}")
    if part == "title" and not text:
        raise UserError("there is no title to draw: give --title, or fill in the column title")
    return text


def too_long(what: str, text: str, size: Size) -> UserError:
    """The error for a text that does not fit."""
    return UserError(f"{what}, {len(text)} characters, does not fit on {size[0]}x{size[1]} pixels: shorten it")


def placed(setting: Setting, style: Style, grid: Size, edge: int, top: bool, part: str) -> list[LetterLine]:
    """The lines at the top or the bottom of the grid, `edge` pixels from it."""
    lines, bottom = place_lines(setting, style, edge, grid[0])
    down = 0 if top else grid[1] - edge - bottom
    return [LetterLine(line.text, corners_of(line, down, grid), part=part) for line in lines]


def corners_of(line: Line, down: int, grid: Size) -> Corners:
    """The corners of a line's ink, `down` pixels further down, in fractions of the grid."""
    left, top, right, bottom = line.box
    top, bottom = top + down, bottom + down
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return to_corners(np.round(corners / grid, 5))


# ---------------------------------------------------------------------------------------------------------------------
# Like a training cover


def layout_like(
    title: str,
    author: str,
    size: Size,
    examples: Mapping[Any, Layout] | Iterable[tuple[Any, Layout]],
    key: object,
) -> Layout:
    """The layout of a training cover, filled with title and author (may be empty).

    examples: (key, layout in pictures of this size) of training covers; lines of no part are left out. Of the NEAREST
    ones by the number of their title's letters, one is taken by the hash of `key`; if the title would be smaller than
    READABLE there, the next one, at worst the one where it is largest, or layout_by_rule if it fits nowhere. Those
    without an author where one is needed, or with more lines than the title has words, count only if there are no
    others. UserError as layout_by_rule, or if no example has a title.
    """
    title, author = settable(title, "title", size), settable(author, "author", size)
    letters, words = number_of_letters(title), len(title.split())

    def difference(example: tuple[Any, Layout]) -> tuple[bool, bool, int, str]:
        lines = [line.text for line in of_part(example[1], "title")]
        anonymous = bool(author) and not of_part(example[1], "author")
        return anonymous, len(lines) > words, abs(number_of_letters("".join(lines)) - letters), str(example[0])

    pairs = examples.items() if isinstance(examples, Mapping) else examples
    titled = (pair for pair in pairs if any(plain_text(line.text) for line in of_part(pair[1], "title")))
    nearest = heapq.nsmallest(NEAREST, titled, key=difference)
    if not nearest:
        raise UserError("no training cover has a title that OCR could read: leave --layout at rule")
    nearest = [pair for pair in nearest if difference(pair)[:2] == difference(nearest[0])[:2]]
    first = int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:4], "big") % len(nearest)
    found: list[tuple[float, Layout]] = []
    for _, example in nearest[first:] + nearest[:first]:
        lines = fill_lines(of_part(example, "title"), title, size)
        smallest = min(letter_size(line, title, size) for line in lines) / size[0]
        names = fill_lines(of_part(example, "author"), author, size) if author else []
        if any(letter_size(line, author, size) < LEAST * size[0] for line in names):
            smallest = 0.0
        found.append((smallest, in_order(lines + names)))
        if smallest >= READABLE:
            break
    smallest, layout = max(found, key=lambda pair: min(pair[0], READABLE))
    return layout if smallest >= LEAST else layout_by_rule(title, author, size)


def of_part(layout: Layout, part: str) -> list[LetterLine]:
    """The lines of a part: title or author."""
    return [line for line in layout.lines if line.part == part]


def number_of_letters(text: str) -> int:
    """How many characters a text has, spaces not counted."""
    return len("".join(text.split()))


def in_order(lines: Iterable[LetterLine]) -> Layout:
    """The layout of these lines, from top to bottom."""
    return Layout(tuple(sorted(lines, key=lambda line: sum(y for _, y in line.corners))))


# ---------------------------------------------------------------------------------------------------------------------
# From a file


def read_layout(path: str | os.PathLike[str]) -> Layout:
    """The layout in a JSON file, see Layout.from_json. Lines without text are there to be filled, see `filled`.

    UserError if there is no such file, or anything in it is wrong, or a line stands outside the picture.
    """
    value = read_json(path)
    try:
        layout = Layout.from_json(value)
        if not layout.lines:
            raise UserError("it has no lines")
        for i, line in enumerate(layout.lines):
            if not all(0 <= side <= 1 for corner in line.corners for side in corner):
                raise UserError(f"line {i + 1} stands outside the picture: its corners are fractions from 0 to 1")
            require_plain(line.text, f"line {i + 1}")
    except UserError as problem:
        raise UserError(f"{path}: {problem}; docs/lettering.md shows how a layout is written") from None
    return layout


def save_layout(layout: Layout, path: str | os.PathLike[str]) -> None:
    """Write a layout as a file that read_layout reads. UserError if it can't be written."""
    write_json(path, layout.to_json())


def filled(layout: Layout, title: str, author: str, size: Size) -> Layout:
    """The layout, its lines without text filled with title and author by their part; on a picture of this size.

    Lines of a text that is not needed are left out. UserError if title or author is needed and can't be drawn, or does
    not fit; one that no line waits for may be anything.
    """
    lines = [line for line in layout.lines if line.text]
    for part, text in (("title", title), ("author", author)):
        waiting = [line for line in of_part(layout, part) if not line.text]
        text = settable(text, part, size) if waiting else ""
        new = fill_lines(waiting, text, size) if text else []
        if new and min(letter_size(line, text, size) for line in new) < LEAST * size[0]:
            raise too_long(f"the {part}", text, size)
        lines += new
    return in_order(lines)
