"""Fits a text into a box: the largest size at which its lines fit, then the narrowest lines of about equal length.

The size is found by bisection, lines are filled greedily, so 5,000 characters take a fraction of a second. Words are
broken only where they would otherwise make the letters small, or never fit.
"""

from __future__ import annotations

import bisect
import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from typesetting.faces import Face, extent, letter_offsets

SMALLEST = 8  # pixels: smaller letters are no letters
AIR = 0.04  # least space between the ink of two lines, in em


@dataclass(frozen=True)
class Style:
    """How a text is set; lengths in em."""

    face: Face
    tracking: float = 0.0  # space added between letters
    leading: float = 1.06  # least distance of baselines


class Word(NamedTuple):
    """A part of a text that lines are not broken in, if possible."""

    text: str
    spaced: bool  # whether a space stands before it


class Setting(NamedTuple):
    """A text that fits: its lines, the font size in pixels, and ascent, descent, leading in em."""

    lines: tuple[str, ...]
    size: int
    ascent: float
    descent: float
    leading: float

    @property
    def height(self) -> int:
        """From the highest to the lowest ink that lines can have, in pixels, rounded up."""
        return text_height(self, len(self.lines), self.size)


def text_height(metrics: Setting, lines: int, size: int) -> int:
    """Height in pixels of so many lines."""
    return int(size * (metrics.ascent + metrics.descent + (lines - 1) * metrics.leading)) + 1


def fit(words: Sequence[Word], style: Style, box: tuple[int, int], largest: int, whole: int) -> Setting | None:
    """A text in the largest letters that fit into box = (width, height) in pixels; None if 8 pixels are too large.

    words: at least one; largest: upper bound on the size, in pixels; whole: down to this size words are not broken.
    """
    width, height = box
    extents = [extent(style.face, word.text) for word in words]
    ascent, descent = max(ink[1] for ink in extents), max(0.0, *(ink[2] for ink in extents))
    metrics = Setting((), 0, ascent, descent, max(style.leading, ascent + descent + AIR))
    longest = max(word_width(word.text, style) for word in words)

    def filled(size: int, limit: float) -> list[str] | None:
        """The lines, none longer than `limit` em; None if they do not fit at this size."""
        if longest > limit and size > whole:
            return None
        lines = fill_lines(words, limit, style)
        return lines if text_height(metrics, len(lines), size) <= height else None

    sizes = range(SMALLEST, largest + 1)
    while sizes:
        size = sizes[0] - 1 + bisect.bisect_left(sizes, True, key=lambda size: filled(size, width / size) is None)
        if size < SMALLEST:
            return None
        lines = filled(size, width / size)
        assert lines is not None  # it is one of those that fit
        if longest <= width / size:
            lines = balance(words, lines, longest, width / size, style)
        if all(line_width(line, style, size) <= width for line in lines):
            return metrics._replace(lines=tuple(lines), size=size)
        sizes = range(SMALLEST, size)  # rounding has made a line a pixel too long
    return None


def balance(words: Sequence[Word], lines: list[str], longest: float, limit: float, style: Style) -> list[str]:
    """As many lines of the narrowest equal measure, in em, from `longest` (the longest word) up to `limit`."""
    low, high = longest, limit
    for _ in range(20):
        middle = (low + high) / 2
        narrower = fill_lines(words, middle + 1e-6, style)
        if len(narrower) <= len(lines):
            lines, high = narrower, middle
        else:
            low = middle
    return lines


def fill_lines(words: Sequence[Word], limit: float, style: Style) -> list[str]:
    """Fills lines with words from first to last, none longer than `limit` em; longer words are broken."""
    space = extent(style.face, " ")[0] + style.tracking
    lines, line, used = [], "", 0.0
    for word in words:
        width = word_width(word.text, style)
        gap = space if word.spaced and line else 0.0
        if line and used + gap + width > limit:
            lines.append(line)
            line, used, gap = "", 0.0, 0.0
        *broken, text = break_word(word.text, limit, style) if width > limit else [word.text]
        lines += broken
        width = word_width(text, style) if broken else width
        line, used = line + (" " if gap else "") + text, used + gap + width
    return [*lines, line]


def break_word(word: str, limit: float, style: Style) -> list[str]:
    """Parts of a word, each the longest that fits with its hyphen; of at least one character, no mark torn off."""
    offsets = word_offsets(word, style)
    hyphen = extent(style.face, "-")[0] + style.tracking
    parts, begin = [], 0
    while offsets[-1] - offsets[begin] > limit:
        end = bisect.bisect_right(offsets, offsets[begin] + limit - hyphen) - 1
        end = min(max(end, begin + 1), len(word) - 1)
        while end > begin + 1 and (unicodedata.category(word[end]) in ("Mn", "Mc", "Po", "Pe", "Pf")):
            end -= 1
        if end == begin:
            break
        hyphenated = word[end - 1].isalpha() and word[end].isalpha() and not is_wide(word[end])
        parts.append(word[begin:end] + ("-" if hyphenated else ""))
        begin = end
    return [*parts, word[begin:]]


@functools.lru_cache(maxsize=256)
def word_offsets(word: str, style: Style) -> Sequence[float]:
    """Where each letter of a word begins, and where the last one ends, in em."""
    return letter_offsets(style.face, word, style.tracking)


@functools.lru_cache(maxsize=100_000)
def word_width(word: str, style: Style) -> float:
    """Width of a word in em."""
    return letter_offsets(style.face, word, style.tracking)[-1] if style.tracking else extent(style.face, word)[0]


def line_width(line: str, style: Style, size: int) -> float:
    """Width of a line at a font size, in pixels."""
    if style.tracking:
        return letter_offsets(style.face, line, style.tracking)[-1] * size
    return style.face.at(size).getlength(line)


def split_words(text: str) -> list[Word]:
    """The parts of a text between which lines may be broken: at spaces, after hyphens and dashes, between CJK signs."""
    words: list[Word] = []
    for spaced in text.split():
        parts = re.findall(r"[^-–—/]+[-–—/]+(?=\w)|.+?$", spaced) if re.search(r"[-–—/]\w", spaced) else [spaced]
        first = True
        for part in parts:
            for piece in split_wide(part):
                words.append(Word(piece, first and bool(words)))
                first = False
    return words


def split_wide(text: str) -> list[str]:
    """Each CJK character by itself, with the punctuation that follows it; other text is left whole."""
    pieces: list[str] = []
    for character in text:
        joins = unicodedata.category(character) in ("Po", "Pe", "Pf", "Mn", "Mc", "Lm")
        opened = pieces and unicodedata.category(pieces[-1][-1]) in ("Ps", "Pi")
        if pieces and (joins or opened or not (is_wide(character) or is_wide(pieces[-1][-1]))):
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def is_wide(character: str) -> bool:
    """Whether it is a CJK character, which lines may be broken before and after."""
    return unicodedata.east_asian_width(character) in "WF"
