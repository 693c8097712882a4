"""How far the letters of a line lean: the slant of italics, from its pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

HEIGHT = 24  # px that a line is reduced or enlarged to
LONGEST = 480  # px: of a longer line its beginning is enough
SLANTS = np.linspace(-0.4, 0.4, 41)  # horizontal shear, dx for each pixel upwards
CLEARER = 1.25  # by how much a slant must sharpen the columns, against none and against its mirror image
SMALLEST = 0.08  # that is worth drawing: serifs and the letters A, V and W alone give less


def slant_of(grey: Image.Image, corners: np.ndarray) -> float:
    """The slant of the letters in a quadrilateral of a picture: one of SLANTS, 0 where it isn't clear.

    corners: (4, 2) in pixels, clockwise from the upper left of the text. Leaning letters have their stems in the same
    columns once the line is sheared back: of all slants, the one whose columns' mean brightness varies most from each
    column to the next (Vinciarelli & Luettin, "A new normalization technique for cursive handwritten words", Pattern
    Recognition Letters 22, 2001, do so with the columns' density).
    """
    sides = np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1)
    width, height = max(sides[0], sides[2]), max(sides[1], sides[3])
    if height < 4 or width < height / 2:
        return 0.0
    size = (round(min(LONGEST, HEIGHT * width / height)), HEIGHT)
    first, second, third, fourth = corners
    share = size[0] / (HEIGHT * width / height)  # of the line's length
    second, third = first + share * (second - first), fourth + share * (third - fourth)
    quad = [float(v) for corner in (first, fourth, third, second) for v in corner]
    line = grey.transform(size, Image.Transform.QUAD, quad, Image.Resampling.BILINEAR)
    pixels = np.asarray(line, np.float32)
    return clearest_slant(pixels)


def clearest_slant(pixels: np.ndarray) -> float:
    """slant_of a line that was cut out, (H, W), of any brightness."""
    height, width = pixels.shape
    pixels = pixels - np.median(pixels)
    rise = (height - 1) / 2 - np.arange(height)  # of each row above the middle
    shift = SLANTS[:, None] * rise  # (slants, H): how far a row is moved back
    whole = np.floor(shift).astype(int)
    margin = int(np.abs(whole).max()) + 1
    padded = np.pad(pixels, ((0, 0), (margin, margin)), mode="edge")
    columns = np.arange(width) + margin + whole[:, :, None]  # (slants, H, W)
    rows = np.arange(height)[None, :, None]
    part = (shift - whole)[:, :, None].astype(np.float32)
    profiles = ((1 - part) * padded[rows, columns] + part * padded[rows, columns + 1]).mean(1)
    sharpness = (np.diff(profiles, axis=1) ** 2).sum(1)
    best = int(sharpness.argmax())
    slant = round(float(SLANTS[best]), 2)
    others = max(sharpness[len(SLANTS) // 2], sharpness[len(SLANTS) - 1 - best])  # W and A have both slants
    clear = sharpness[best] > CLEARER * others and 0 < best < len(SLANTS) - 1
    return slant if clear and abs(slant) >= SMALLEST else 0.0
