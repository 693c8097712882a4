"""Fills the lines of a layout with another text: each keeps its centre, its direction and the size of its letters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lettering.plain import ink_size, plain_face, plain_text
from lettering.records import LetterLine, Size, to_corners
from typesetting.fitting import Style, Word, split_words, word_width

MARGIN = 0.03  # least space to the picture's edges, in fractions of its sides
STEPS = 20  # of bisection


def fill_lines(lines: Sequence[LetterLine], text: str, size: Size) -> list[LetterLine]:
    """The lines, filled with `text`, which has letters (see plain.require_plain), on a picture of this size.

    The text is broken where the lines' widths ask; lines that it does not need are left out, the smallest first. A line
    gets as wide as its text, up to the picture's margin; then its letters get smaller. One in capitals stays so.
    """
    words = split_words(text)
    if not lines:
        return []
    sizes = [letter_size(line, text, size) for line in lines]
    largest = sorted(range(len(lines)), key=lambda i: -sizes[i])[: len(words)]
    chosen = sorted(largest)
    measures = [width_of(lines[i], size) / sizes[i] for i in chosen]
    parts = break_evenly(words, measures)
    return [filled_line(lines[i], part, sizes[i], size) for i, part in zip(chosen, parts, strict=True) if part]


def frame(line: LetterLine, size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centre, side along the text, side down) of a line, in pixels; of a box that is no parallelogram, on average."""
    first, second, third, fourth = np.array(line.corners) * size
    along, down = (second - first + third - fourth) / 2, (fourth - first + third - second) / 2
    return (first + second + third + fourth) / 4, along, down


def width_of(line: LetterLine, size: Size) -> float:
    """Width of a line's box in pixels."""
    return float(np.linalg.norm(frame(line, size)[1]))


def letter_size(line: LetterLine, text: str, size: Size) -> float:
    """Font size of a line in pixels: by its own text; if it has none, that in which `text` has the box's height."""
    return float(np.linalg.norm(frame(line, size)[2])) / ink_size(plain_text(line.text) or text)[1]


def break_evenly(words: Sequence[Word], measures: Sequence[float]) -> list[str]:
    """The words in len(measures) lines, so that the fullest line, its width against its measure, is least full.

    Lines at the end may stay empty.
    """
    style = Style(plain_face())
    widths, space = [word_width(word.text, style) for word in words], word_width(" ", style)

    def filled(fullness: float) -> list[str] | None:
        lines, i, used = [""] * len(measures), 0, 0.0
        for word, width in zip(words, widths, strict=True):
            gap = space if word.spaced and lines[i] else 0.0
            while used + gap + width > fullness * measures[i]:
                i, used, gap = i + 1, 0.0, 0.0
                if i == len(measures):
                    return None
            lines[i] += (" " if gap else "") + word.text
            used += gap + width
        return lines

    low, high = 0.0, 1.01 * (sum(widths) + space * len(words)) / measures[0]
    lines = filled(high) or []
    for _ in range(STEPS):
        middle = (low + high) / 2
        fuller = filled(middle)
        lines, low, high = (lines, middle, high) if fuller is None else (fuller, low, middle)
    return lines


def filled_line(line: LetterLine, text: str, letters: float, size: Size) -> LetterLine:
    """The line with another text in letters of this font size, in pixels, or smaller ones if it gets too wide."""
    text = text.upper() if line.text.isupper() else text
    centre, along, down = frame(line, size)
    wide, high = (letters * side for side in ink_size(text))
    wide += abs(line.slant) * high
    along, down = along / np.linalg.norm(along) * wide / 2, down / np.linalg.norm(down) * high / 2
    corners = np.array([-along - down, along - down, along + down, down - along])
    room = np.minimum(centre, size - centre) - MARGIN * np.array(size)
    shrink = min(1.0, (room.clip(0) / np.maximum(np.abs(corners).max(0), 1e-9)).min())
    return dataclasses.replace(line, text=text, corners=to_corners(np.round((centre + corners * shrink) / size, 5)))
