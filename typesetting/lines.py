"""Line breaking: balanced lines in the largest font size that fits a box, and the font's metrics."""

from __future__ import annotations

import functools

from PIL import ImageFont

LEADING = 1.08  # distance of baselines, in font sizes


@functools.lru_cache(maxsize=256)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Aileron, the font bundled with Pillow, at `size` pixels, with Pillow's basic layout (no system font, no Raqm)."""
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=4096)
def advance(character: str) -> float:
    """Advance width of a character, in font sizes."""
    return font(100).getlength(character) / 100


def line_width(text: str, tracking: float) -> float:
    """Width of a line, in font sizes. tracking: extra space between letters, in font sizes."""
    return sum(map(advance, text)) + tracking * (len(text) - 1)


def break_lines(text: str, width: float, height: float, tracking: float, largest: int) -> tuple[list[str], int]:
    """(lines, font size in pixels): the line breaks that allow the largest letters in a box of width x height pixels.

    largest: upper bound on the font size. Among equal sizes the fewest lines win. ([], 0) if nothing fits.
    """
    words = text.split()
    spans = {
        line_width(" ".join(words[i:j]), tracking) for i in range(len(words)) for j in range(i + 1, len(words) + 1)
    }
    longest = max(line_width(word, tracking) for word in words)
    best = (0, 0, [])
    for limit in sorted(span for span in spans if span >= longest):
        lines = [words[0]]
        for word in words[1:]:
            joined = f"{lines[-1]} {word}"
            fits = line_width(joined, tracking) <= limit + 1e-6
            lines[-1:] = [joined] if fits else [lines[-1], word]
        size = int(min(width / limit, height / (LEADING * len(lines)), largest))
        best = max(best, (size, -len(lines), lines))
    return best[2], best[0]
