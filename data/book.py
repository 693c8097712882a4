"""The record of one book or captioned picture, and the cleaning of its texts."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Book:
    """One usable row of book_data.csv, whose index there is `row`; or one picture with a caption, see data.pictures."""

    row: int  # names the drawn cover, <row>.png, and decides which noise it starts from
    title: str  # '' if it isn't known, as of most pictures with captions
    authors: tuple[str, ...] = ()
    genres: tuple[str, ...] = ()
    desc: str = ""
    image: str = ""  # path of the cover
    content: str = ""  # hash (hex) of the image file's bytes
    width: int = 0  # of the cover after EXIF rotation, in pixels
    height: int = 0
    split: str = ""  # 'train' or 'test'
    caption: str = ""  # the whole prompt; '' for a book, whose prompts are built from the fields above
    file: str = ""  # path of a captioned picture in the data folder; '' for a book

    @property
    def name(self) -> str:
        """What tells the user which one it is, in messages."""
        return self.file or f"row {self.row}"

    @property
    def heading(self) -> str:
        """What stands over its picture."""
        return self.title or self.caption


def normalize_whitespace(text: str) -> str:
    """The text on one line: every run of whitespace, control and zero-width characters becomes one space."""
    if not text.isprintable():
        text = re.sub(r"[\s\x00-\x1f\x7f-\x9f\u200b\u2060\ufeff]", " ", text)
    return " ".join(text.split())
