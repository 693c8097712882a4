"""One book, as prompts and images need it."""

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
    content: str = ""  # hash of the image file's bytes
    width: int = 0  # of the cover as it is seen (after EXIF rotation), pixels
    height: int = 0
    split: str = ""  # 'train' or 'test'


def tidy(text):
    """The text in one line: every run of whitespace, control and zero-width characters becomes one space."""
    if not text.isprintable():
        text = re.sub(r"[\s\x00-\x1f\x7f-\x9f\u200b\u2060\ufeff]", " ", text)
    return " ".join(text.split())
