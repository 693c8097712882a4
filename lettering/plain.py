"""The plain font of glyph pages, and which texts it can set.

It is decided here alone: a model has learned its letters from pages in this font; another one needs another training.
"""

from __future__ import annotations

import functools

from common.errors import UserError
from typesetting.faces import REFERENCE, Face, can_shape, clean, find_face, missing, names_of, needs_shaping

FONT, WEIGHT = "sans", 700  # Source Sans 3, bold: fine strokes are lost in the autoencoder


@functools.cache
def plain_face() -> Face:
    """The face of all pages. UserError if its package is not installed."""
    return find_face(FONT, WEIGHT)


@functools.lru_cache(maxsize=10_000)
def plain_text(text: str) -> str:
    """The text as it is set: on one line, composed, without invisible characters; "" if the font can't set it."""
    text = clean(text, plain_face())
    return "" if unsettable(text) else text


@functools.lru_cache(maxsize=10_000)
def ink_size(text: str) -> tuple[float, float]:
    """(width, height) of a text's ink, in font sizes. text: see plain_text; at least one letter."""
    left, top, right, bottom = plain_face().at(REFERENCE).getbbox(text, anchor="ls")
    return max(right - left, 1) / REFERENCE, max(bottom - top, 1) / REFERENCE


def unsettable(text: str) -> list[str]:
    """The characters of a clean text that can't be set: the font has none, or they need Raqm, which is missing."""
    shaped = [] if can_shape() else [c for c in dict.fromkeys(text) if needs_shaping(c)]
    return missing(text, plain_face()) or shaped


def require_plain(text: str, what: str) -> str:
    """The text as it is set, which may be empty. UserError names what can't be set. what: "the title", for example."""
    text = clean(text, plain_face())
    if characters := unsettable(text):
        raise UserError(
            f"{what} can't be drawn: the font of glyph pages, {plain_face().name}, has no {names_of(characters)}; "
            "write it in Latin, Greek or Cyrillic letters"
        )
    return text
