"""The record of one book, and the cleaning of its texts."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Book:
    """One usable row of book_data.csv. `row` is its index there and names the image file."""

    row: int
    title: str
    authors: tuple[str, ...] = ()
    genres: tuple[str, ...] = ()
    desc: str = ""
    image: str = ""  # path of the cover
    content: str = ""  # hash (hex) of the image file's bytes
    width: int = 0  # of the cover after EXIF rotation, in pixels
    height: int = 0
    split: str = ""  # 'train' or 'test'


def normalize_whitespace(text: str) -> str:
    """The text on one line: every run of whitespace, control and zero-width characters becomes one space."""
    if not text.isprintable():
        text = re.sub(r"[\s\x00-\x1f\x7f-\x9f\u200b\u2060\ufeff]", " ", text)
    return " ".join(text.split())
