"""Where title and author of a cover stand: their lines, one above the other, as a block that can stand anywhere."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageDraw

from common.errors import UserError
from typesetting.faces import Face, clean, letter_offsets, require_settable
from typesetting.fitting import SMALLEST, Setting, Style, Word, fit, line_width, split_words

MARGIN = 0.1  # in fractions of the shorter side
BANDS = (0.34, 0.5, 0.7, 1.0)  # height of the title, in fractions of the height between the margins: the first in which
READABLE = 0.075  # the title gets letters of this size, in fractions of the width
LARGEST = 0.22  # size of the title, in fractions of the width
AUTHOR = 0.068  # size of the author, in fractions of the width,
HIERARCHY = 1.4  # and at least so many times smaller than the title,
LEAST_AUTHOR = 0.04  # but not smaller than this, in fractions of the width
LONG = 0.05  # titles in smaller letters than this, in fractions of the width, get the leading of running text

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


class Line(NamedTuple):
    """A line of text on a picture; lengths in pixels."""

    text: str
    style: Style
    size: int
    x: int  # where it begins
    baseline: int

    @property
    def box(self) -> Box:
        """The least box of its ink."""
        mask, left, top = line_mask(self.text, self.style, self.size)
        left, top = self.x + left, self.baseline + top
        return left, top, left + mask.width, top + mask.height


@functools.lru_cache(maxsize=256)
def line_mask(text: str, style: Style, size: int) -> tuple[Image.Image, int, int]:
    """(L image of a line's letters, cropped to its ink; how far its left and upper edge are from the line's origin)."""
    font, pad = style.face.at(size), 2 * size  # some letters reach beyond their advance width
    mask = Image.new("L", (math.ceil(line_width(text, style, size)) + 2 * pad, 2 * pad + size))
    draw, baseline = ImageDraw.Draw(mask), 2 * size
    if style.tracking:
        for letter, offset in zip(text, letter_offsets(style.face, text, style.tracking), strict=False):
            draw.text((pad + round(offset * size), baseline), letter, fill=255, font=font, anchor="ls")
    else:
        draw.text((pad, baseline), text, fill=255, font=font, anchor="ls")
    box = mask.getbbox() or (pad, baseline - 1, pad + 1, baseline)
    return mask.crop(box), box[0] - pad, box[1] - baseline


@dataclass(frozen=True)
class Block:
    """Title and author, centred on a picture of size (width, height), from y = 0 down to `height`."""

    lines: tuple[Line, ...]
    height: int

    def moved(self, dy: int) -> Block:
        """The block, dy pixels further down."""
        return Block(tuple(line._replace(baseline=line.baseline + dy) for line in self.lines), self.height)


def author_style(face: Face) -> Style:
    """Capitals, letterspaced."""
    return Style(face, tracking=0.07, leading=1.25)


def margin(size: tuple[int, int]) -> int:
    """Space between type and the edges of a picture of this size, in pixels."""
    return round(MARGIN * min(size))


def set_block(title: str, author: str, face: Face, size: tuple[int, int]) -> Block:
    """Title and author (may be empty) for a picture of size (width, height).

    UserError if there is no title, or if the face can't set a character, or if the text does not fit in letters of 8
    pixels.
    """
    title, author = clean(title, face), clean(author, face).upper()
    if not title:
        raise UserError("there is no title: give --title, or fill in the column title")
    require_settable(title, face, "the title")
    require_settable(author, face, "the author")
    width, height = (side - 2 * margin(size) for side in size)

    # The author first, as large as may be; the title in the rest; then the author smaller than the title
    name, room = None, height
    if author:
        name = fit_author(author, face, (width, round(0.2 * height)), AUTHOR * size[0], size[0])
        room -= name.height + name.size if name else height
    while True:
        heading, style = fit_title(title, face, (width, room), size)
        if heading is None:
            what = f"the author, {len(author)}" if author and name is None else f"the title, {len(title)}"
            raise UserError(
                f"{what} characters, does not fit on {size[0]}x{size[1]} pixels in letters of {SMALLEST} pixels: raise "
                "--typeset_width, or shorten it"
            )
        lines, bottom = place_lines(heading, style, 0, size[0])
        if name:
            smaller = min(name.size, max(heading.size / HIERARCHY, LEAST_AUTHOR * size[0]))
            below = fit_author(author, face, (width, name.height), smaller, size[0]) or name
            gap = max(0.3 * heading.size, bottom - lines[-1].baseline) + 0.5 * below.size  # from the last baseline
            names, bottom = place_lines(below, author_style(face), lines[-1].baseline + round(gap), size[0])
            lines += names
        if bottom <= height:
            return Block(tuple(lines), bottom)
        room -= bottom - height  # a flat picture: the gap between the two was more than was left for it


def fit_author(author: str, face: Face, box: tuple[int, int], largest: float, width: int) -> Setting | None:
    """The author, each name on one line if that leaves letters of LEAST_AUTHOR. width: of the picture, in pixels."""
    style, least = author_style(face), round(LEAST_AUTHOR * width)
    names = [Word(name, bool(i)) for i, name in enumerate(re.split(r"(?<=[&,;]) ", author))]
    for words in (names, split_words(author)):
        setting = fit(words, style, box, max(round(largest), SMALLEST), least)
        if setting and (setting.size >= least or words is not names):
            return setting
    return None


def fit_title(title: str, face: Face, box: tuple[int, int], size: tuple[int, int]) -> tuple[Setting | None, Style]:
    """The title in the least band that lets it be read from afar; a long one in as much as it needs."""
    width, height = box
    words, style, heading = split_words(title), Style(face), None
    largest, whole = round(LARGEST * size[0]), round(LONG * size[0])
    for share in BANDS:
        heading = fit(words, style, (width, round(share * height)), max(largest, SMALLEST), whole)
        if heading and heading.size >= READABLE * size[0]:
            return heading, style
    if heading and heading.size < LONG * size[0]:
        airy = Style(face, leading=1.25)
        if long := fit(words, airy, box, heading.size, whole):
            return long, airy
    return heading, style


def place_lines(setting: Setting, style: Style, top: int, width: int) -> tuple[list[Line], int]:
    """The lines, centred, with the ink of the first one at `top`; and where the ink of the last one ends."""
    step = math.ceil(setting.leading * setting.size)
    lines = []
    for text in setting.lines:
        length = line_width(text, style, setting.size) - style.tracking * setting.size
        lines.append(Line(text, style, setting.size, round((width - length) / 2), len(lines) * step))
    drop = top - lines[0].box[1]
    lines = [line._replace(baseline=line.baseline + drop) for line in lines]
    return lines, max(line.box[3] for line in lines)


def letters(lines: tuple[Line, ...], size: tuple[int, int]) -> Image.Image:
    """An L image of size (width, height): 255 where the letters are."""
    page = Image.new("L", size)
    for line in lines:
        page.paste(255, line.box, line_mask(line.text, line.style, line.size)[0])
    return page
