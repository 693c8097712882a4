"""Legibility of text colours: relative luminance and contrast ratio as defined by WCAG 2.2.

https://www.w3.org/TR/WCAG22/#dfn-relative-luminance and https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
"""

from __future__ import annotations

import numpy as np

RGB = tuple[int, int, int]  # 0..255 each
Colour = str | RGB  # '#rrggbb' or RGB
# sRGB value 0..255 -> linear light in [0, 1]
LINEAR = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in range(256))])


def rgb(colour: Colour) -> RGB:
    """The colour as (r, g, b)."""
    return tuple(bytes.fromhex(colour[1:])) if isinstance(colour, str) else colour


def luminance(pixels: np.ndarray | RGB) -> np.ndarray:
    """WCAG relative luminance of uint8 sRGB pixels (..., 3): float64 (...) in [0, 1], black 0, white 1."""
    return LINEAR[np.asarray(pixels)] @ np.array([0.2126, 0.7152, 0.0722])


def contrast(ink: Colour, pixels: np.ndarray) -> float:
    """WCAG contrast ratio, 1 to 21, of a text colour to its background: uint8 pixels (..., 3).

    The background is not uniform, so this is the lower of the ratios to its 2nd and 98th percentile of luminance, and 1
    if the text colour lies between the two.
    """
    low, high = np.percentile(luminance(pixels), (2, 98))
    mine = luminance(rgb(ink))
    if low <= mine <= high:
        return 1.0
    return float(min((max(mine, y) + 0.05) / (min(mine, y) + 0.05) for y in (low, high)))
