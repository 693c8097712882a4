"""Draws layouts as glyph pages: white letters in one plain font on black, which the model is shown.

Each line's letters are drawn larger and mapped into the line's box in the picture, at OVERSAMPLING times the page's
size, so that small letters have smooth edges.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageChops

from lettering.plain import ink_size, plain_face, plain_text
from lettering.records import Layout, LetterLine, Size
from typesetting.fitting import Style
from typesetting.layout import line_mask

OVERSAMPLING = 4
DRAWN = (16, 32, 64, 128)  # font sizes in which letters are drawn before they are mapped: few, so that fonts stay open


def draw_page(layout: Layout, size: Size) -> np.ndarray:
    """The glyph page of a layout: uint8 (H, W), 0 = nothing, 255 = letter, in between at edges. size: (width, height).

    The letters' ink fills their line's box; where lines overlap, the lighter pixel counts. A line whose text the font
    can't set is left out (see plain.plain_text); what lies outside the picture is cut off.
    """
    page = Image.new("L", size)
    for line in layout.lines:
        draw_line(page, line)
    return np.asarray(page)


def draw_line(page: Image.Image, line: LetterLine) -> None:
    """Draws one line on the page."""
    text = plain_text(line.text)
    corners = np.array(line.corners) * page.size  # (4, 2), in pixels
    low = np.floor(corners.min(0)).astype(int).clip(0, page.size)
    high = np.ceil(corners.max(0)).astype(int).clip(0, page.size)
    if not text or (high <= low).any():
        return
    letters = line_mask(text, Style(plain_face()), font_size(text, corners))[0]
    if line.slant:
        letters = sheared(letters, line.slant, corners)
    target = (corners - low) * OVERSAMPLING
    coefficients = perspective(target, letters.size)
    if coefficients is None:  # the box is a line or a point
        return
    width, height = ((high - low) * OVERSAMPLING).tolist()
    mapped = letters.transform((width, height), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    box = (*low.tolist(), *high.tolist())
    page.paste(ImageChops.lighter(page.crop(box), mapped.reduce(OVERSAMPLING)), box)


def font_size(text: str, corners: np.ndarray) -> int:
    """The least of DRAWN in which the letters have as many pixels as they are mapped to; corners in pixels."""
    wide, high = sides(corners)
    ink_width, ink_height = ink_size(text)
    needed = OVERSAMPLING * math.sqrt(wide * high / (ink_width * ink_height))
    return next((size for size in DRAWN if size >= needed), DRAWN[-1])


def sides(corners: np.ndarray) -> tuple[float, float]:
    """(width, height) of a box by its upper and its left side."""
    return float(np.linalg.norm(corners[1] - corners[0])), float(np.linalg.norm(corners[3] - corners[0]))


def sheared(letters: Image.Image, slant: float, corners: np.ndarray) -> Image.Image:
    """The letters, sheared so that they have the slant when they are mapped to the corners (pixels), cropped to ink."""
    width, height = letters.size
    wide, high = sides(corners)
    # Mapped from (width + |shear| * height, height) to (wide, high), a shear s becomes
    # slant = s * (wide / (width + |s| * height)) / (high / height), which is solved for s
    room = wide - abs(slant) * high
    shear = slant * high * width / (height * max(room, 0.1 * wide))
    extra = math.ceil(abs(shear) * height)
    matrix = (1, shear, -max(shear, 0) * height, 0, 1, 0)  # from the place in the result to that in the letters
    leaning = letters.transform((width + extra, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return leaning.crop(leaning.getbbox() or (0, 0, 1, 1))


def perspective(corners: np.ndarray, size: Size) -> tuple[float, ...] | None:
    """Pillow's coefficients that map the four corners (4, 2) to those of an image of this size; None if it is flat."""
    width, height = size
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, ((0, 0), (width, 0), (width, height), (0, height)), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    try:
        solution = np.linalg.solve(np.array(rows, float), np.array(values, float))
    except np.linalg.LinAlgError:
        return None
    return tuple(solution.tolist())


def letter_area(layout: Layout, size: Size) -> np.ndarray:
    """Whether each pixel's centre lies inside a line's box: bool (H, W). size: (width, height)."""
    width, height = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    area = np.zeros((height, width), bool)
    for line in layout.lines:
        corners = np.array(line.corners) * size
        turns = []
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            turns.append((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0)
        area |= np.all(turns, axis=0) | ~np.any(turns, axis=0)
    return area
