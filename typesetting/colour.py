"""Colours of letters: relative luminance and contrast, as WCAG 2.2 defines them."""

from __future__ import annotations

import numpy as np


def rgb(colour):
    """'#rrggbb' or an (r, g, b) tuple -> (r, g, b)."""
    return tuple(bytes.fromhex(colour[1:])) if isinstance(colour, str) else colour


LINEAR = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in range(256))])


def luminance(pixels):
    """WCAG relative luminance in [0, 1] of uint8 pixels (..., 3)."""
    return LINEAR[np.asarray(pixels)] @ np.array([0.2126, 0.7152, 0.0722])


def contrast(ink, pixels):
    """WCAG contrast, 1 to 21, of an ink to the 2 % and 98 % luminance of uint8 pixels (..., 3), the worse of the two.

    1 when the ink lies between them.
    """
    low, high = np.percentile(luminance(pixels), (2, 98))
    mine = luminance(rgb(ink))
    if low <= mine <= high:
        return 1.0
    return float(min((max(mine, y) + 0.05) / (min(mine, y) + 0.05) for y in (low, high)))
