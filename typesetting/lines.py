"""Text -> balanced lines of the largest size that fits a box."""

from __future__ import annotations

import functools

from PIL import ImageFont

LEADING = 1.08  # line distance in font sizes


# ---------------------------------------------------------------------------------------------------------------------
# Lettering


@functools.lru_cache(maxsize=256)
def font(size):
    """Pillow's own Aileron at `size` pixels, laid out by Pillow itself (no system font, no Raqm)."""
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=4096)
def advance(character):
    """Width of a character in font sizes."""
    return font(100).getlength(character) / 100


def line_width(text, tracking):
    """Width of a line in font sizes."""
    return sum(map(advance, text)) + tracking * (len(text) - 1)


def break_lines(text, width, height, tracking, largest):
    """(lines, size in pixels): the line breaks that allow the largest letters in a box of width x height pixels."""
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
