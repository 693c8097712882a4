"""Where the lines of a cover's title and author stand.

layout = layout_by_rule("The Glass Crown", "Ada Fenwick", (512, 768))
page = draw_page(layout, (512, 768))  # see page.py
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from data.images import fitted_size
from lettering.plain import plain_face, require_plain
from typesetting.fitting import Setting, Style, fit, split_words
from typesetting.layout import Line, place_lines

Size = tuple[int, int]  # width, height in pixels
Point = tuple[float, float]  # x, y in fractions of the picture's width and height

PLACES = ("auto", "top", "bottom")
# The rule's lengths, in fractions of the width
LARGEST = 0.2  # font size of the title at most
READABLE = 11 / 128  # font size that survives the autoencoder: the title gets more of the height until it has it
LEAST = 1 / 32  # font size below which nothing is set
WHOLE = 0.05  # down to this size words are not broken
MARGIN = 0.08
BANDS = (0.34, 0.5, 0.75)  # height of the title, in fractions of the height between the margins
AUTHOR_BAND = 0.2  # likewise of the author, at most
GRID = 1024  # pixels of width in which the rule sets type: letters stand to a thousandth of the width


@dataclass(frozen=True)
class LetterLine:
    """A line of text on a cover."""

    text: str
    # The box of its letters' ink: upper left, upper right, lower right, lower left of the text as it is read
    corners: tuple[Point, Point, Point, Point]
    slant: float = 0.0  # horizontal shear of the letters, dx per dy in pixels; positive leans right, as italics do
    part: str = ""  # title or author; "" if that is not known


@dataclass(frozen=True)
class Layout:
    """The lines of a cover."""

    lines: tuple[LetterLine, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object, see from_json."""
        return {"lines": [line_to_json(line) for line in self.lines]}

    def fitted(self, source: Size, target: Size) -> Layout:
        """Where the lines of a cover of size `source` stand in a picture of size `target` (data.images.fit_image)."""
        inner = fitted_size(source, target)
        start = [(whole - part) // 2 for whole, part in zip(target, inner, strict=True)]

        def place(point: Point) -> Point:
            x, y = ((start[i] + point[i] * inner[i]) / target[i] for i in (0, 1))
            return x, y

        return Layout(tuple(moved(line, [place(corner) for corner in line.corners]) for line in self.lines))


def moved(line: LetterLine, corners: Sequence[Point]) -> LetterLine:
    """The line with other corners."""
    first, second, third, fourth = corners
    return LetterLine(line.text, (first, second, third, fourth), line.slant, line.part)


def line_to_json(line: LetterLine) -> dict[str, Any]:
    """The JSON object of a line; what is at its default is left out."""
    value: dict[str, Any] = {"text": line.text, "corners": [list(corner) for corner in line.corners]}
    if line.slant:
        value["slant"] = line.slant
    if line.part:
        value["part"] = line.part
    return value


# ---------------------------------------------------------------------------------------------------------------------
# By rule


def layout_by_rule(title: str, author: str, size: Size, place: str = "auto") -> Layout:
    """Title at one end of a picture of size (width, height), author (may be empty) at the other, in large letters.

    place: of the title: top, bottom, or auto: one of them by the title's hash, since covers have both. The author is
    in capitals, in letters no larger than the title's. UserError if there is no title, or a character that can't be
    set, or more text than fits.
    """
    style, grid = Style(plain_face()), (GRID, max(1, round(GRID * size[1] / size[0])))
    title, author = require_plain(title, "the title"), require_plain(author, "the author").upper()
    if not title:
        raise UserError("there is no title to lay out: give --title, or fill in the column title")
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
    names = fitted_in(author, AUTHOR_BAND, min(heading.size, READABLE * GRID)) if author and heading else None
    if heading is None or (author and names is None):
        what = f"the author, {len(author)}" if heading else f"the title, {len(title)}"
        raise UserError(f"{what} characters, does not fit on {size[0]}x{size[1]} pixels: shorten it")
    lines = placed(heading, style, grid, edge, place == "top", "title")
    if names:
        lines += placed(names, style, grid, edge, place != "top", "author")
    return Layout(tuple(sorted(lines, key=lambda line: line.corners[0][1])))


def placed(setting: Setting, style: Style, grid: Size, edge: int, top: bool, part: str) -> list[LetterLine]:
    """The lines at the top or the bottom of the grid, `edge` pixels from it."""
    lines, bottom = place_lines(setting, style, edge, grid[0])
    down = 0 if top else grid[1] - edge - bottom
    return [LetterLine(line.text, corners_of(line, down, grid), part=part) for line in lines]


def corners_of(line: Line, down: int, grid: Size) -> tuple[Point, Point, Point, Point]:
    """The corners of a line's ink, `down` pixels further down, in fractions of the grid."""
    left, top, right, bottom = line.box
    left, right, top, bottom = left / grid[0], right / grid[0], (top + down) / grid[1], (bottom + down) / grid[1]
    return (left, top), (right, top), (right, bottom), (left, bottom)
