"""What type stands on: the quieter end of a picture, the ink that contrasts with it, and a veil where neither does."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from typesetting.colour import RGB, contrast
from typesetting.layout import Box

LEGIBLE = 4.5  # contrast ratio of text to its background: WCAG 2.2, success criterion 1.4.3 (level AA)
INKS: tuple[RGB, ...] = ((255, 253, 247), (20, 17, 13))  # light and dark; each is the other's veil
VEILS = tuple(round(0.35 + 0.05 * k, 2) for k in range(14))  # opacities of a veil
FADE = 0.12  # height over which a veil vanishes, in fractions of the picture's


class Ground(NamedTuple):
    """A picture that is ready for type."""

    picture: Image.Image
    ink: RGB
    contrast: float  # the least of all lines
    veil: float  # its opacity; 0 = none


def quieter(picture: Image.Image, height: int) -> str:
    """'top' or 'bottom': the band of this height with the smaller mean gradient of lightness; 'top' if equal."""
    grey = np.asarray(picture.convert("L").resize((256, max(2, round(256 * picture.height / picture.width)))), float)
    rows = min(max(2, round(height * len(grey) / picture.height)), len(grey))
    down, right = np.gradient(grey)
    steepness = np.hypot(down, right)
    return "top" if steepness[:rows].mean() <= steepness[-rows:].mean() else "bottom"


def prepare(picture: Image.Image, boxes: Sequence[Box], place: str, pad: int) -> Ground:
    """The picture with an ink that is legible in every box; under the veil that changes it least, if one is needed.

    boxes: of the lines. The veil covers the picture from the edge at `place` ('top' or 'bottom') to `pad` pixels beyond
    the boxes, and fades from there.
    """
    crops = [np.asarray(picture.crop(box)) for box in boxes]
    best, ink = max((least_contrast(ink, crops), ink) for ink in INKS)
    if best >= LEGIBLE:
        return Ground(picture, ink, best, 0.0)
    found = []
    for ink, colour in zip(INKS, reversed(INKS), strict=True):

        def ratio_under(opacity: float, ink: RGB = ink, colour: RGB = colour) -> float:
            return least_contrast(ink, [veiled(crop, colour, opacity) for crop in crops])

        opacity = VEILS[bisect.bisect_left(VEILS[:-1], LEGIBLE, key=ratio_under)]  # the ratio grows with the opacity
        distance = np.mean([np.abs(crop - np.array(colour, np.float32)).mean() for crop in crops])
        found.append((float(opacity * distance), opacity, ink, colour, ratio_under(opacity)))
    _, opacity, ink, colour, ratio = min(found)
    end = max(box[3] for box in boxes) + pad if place == "top" else min(box[1] for box in boxes) - pad
    return Ground(with_veil(picture, colour, opacity, place, end), ink, ratio, opacity)


def least_contrast(ink: RGB, crops: Sequence[np.ndarray]) -> float:
    """The least contrast of the ink to one of the backgrounds."""
    return min(contrast(ink, crop) for crop in crops)


def veiled(pixels: np.ndarray, colour: RGB, opacity: float | np.ndarray) -> np.ndarray:
    """uint8 pixels (H, W, 3) under a veil. opacity: a number, or one for each row (H, 1, 1)."""
    return np.rint(pixels + (np.array(colour, np.float32) - pixels) * np.float32(opacity)).astype(np.uint8)


def with_veil(picture: Image.Image, colour: RGB, opacity: float, place: str, end: int) -> Image.Image:
    """A copy of the picture under a veil from the edge at `place` to the row `end`, which fades beyond it."""
    rows = np.arange(picture.height)
    beyond = (rows - end if place == "top" else end - rows) / (FADE * picture.height)
    falling = np.clip(1 - beyond, 0, 1)
    strength = opacity * falling**2 * (3 - 2 * falling)  # smoothstep
    return Image.fromarray(veiled(np.asarray(picture), colour, strength[:, None, None]))
