"""Reads the layout of Kaggle's Goodreads best books: usable books, and the reason why each other row is dropped.

DIR/book_data.csv                       columns COLUMNS and others; authors and genres joined by |
DIR/images/images/<row index>.jpg       row index: 0 for the first row after the header
DIR/df_train.csv, DIR/df_test.csv       optional: the split; first column = row index
"""

from __future__ import annotations

import collections
import hashlib
import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

import config
from common.errors import UserError
from data.book import Book, normalize_whitespace
from data.image_index import Entry

COLUMNS = ["book_title", "book_authors", "genres", "book_desc"]  # required
IMAGES = "images/images"
WHERE_TO_GET = (
    "download kaggle.com/datasets/meetnaren/goodreads-best-books, unpack it so that DIR/book_data.csv and "
    "DIR/images/images/0.jpg ... are there, and give --data_root DIR; or try --data_root demo"
)
# Characters that are not ASCII, except typographic punctuation: hyphens and dashes, quotes, primes, ellipsis, spaces.
FOREIGN = re.compile(
    r"[^\x00-\x7f\u00a0\u00ad\u2000-\u200b\u2010-\u2015\u2018-\u201f\u2026\u2028\u2029\u202f\u2032\u2033\u2060\u2212\ufeff]"
)
SERIES_NOTE = re.compile(r"[([][^()[]*[])]$")  # at the end of a title: (The Hunger Games, #1)
NON_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class DroppedRow:
    """A row of book_data.csv that cannot be used."""

    row: int
    kind: str  # of reason, for counting
    reason: str  # in full, for quarantine.csv


# ---------------------------------------------------------------------------------------------------------------------
# Files -> rows


def read_table(root: pathlib.Path) -> pd.DataFrame:
    """The COLUMNS of root/book_data.csv as a DataFrame of str; an empty cell is ''. UserError if it is unusable."""
    path = root / "book_data.csv"
    if not os.path.isdir(root):
        raise UserError(f"there is no data folder {root}: {WHERE_TO_GET}")
    if not os.path.isfile(path):
        raise UserError(f"there is no book_data.csv in {root}: {WHERE_TO_GET}")
    if not os.path.isdir(root / IMAGES):
        raise UserError(f"there is no folder {IMAGES} in {root}: {WHERE_TO_GET}")
    table = read_csv(path)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}: it needs {', '.join(COLUMNS)}")
    return table[COLUMNS]


def read_csv(path: pathlib.Path, **kwargs) -> pd.DataFrame:
    """A CSV file as a DataFrame of str, cells verbatim ("NA" and "None" are titles of books). UserError if unreadable.

    kwargs: passed on to pandas.read_csv.
    """
    try:
        table = pd.read_csv(path, dtype=str, na_filter=False, encoding="utf-8", **kwargs)
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty: get it anew, or take it out of the folder") from None
    except UnicodeDecodeError as problem:
        raise UserError(f"{path} is not UTF-8 text ({problem.reason}): save it as UTF-8, or get it anew") from None
    except (pd.errors.ParserError, OSError, ValueError) as problem:
        raise UserError(f"can't read {path} as CSV: {problem}; mend it, or get it anew") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas makes an index of surplus leading fields
        raise UserError(f"{path} has more fields in its rows than in its header: put fields with commas in quotes")
    return table


def read_splits(root: pathlib.Path, num_rows: int, options: config.DataOptions) -> tuple[dict[int, str] | None, str]:
    """({row: split} or None, a description of the rule). df_train.csv/df_test.csv take precedence over split_of.

    If only one of the files exists, the other split has all other rows. UserError if they contradict each other or the
    table.
    """
    listed = {}
    for split in ("train", "test"):
        path = root / f"df_{split}.csv"
        if path.exists():
            column = read_csv(path).iloc[:, 0].tolist()
            for text in column:
                if not (re.fullmatch(r"\d{1,18}", text) and int(text) < num_rows):
                    raise UserError(
                        f"{path}: its first column must hold row indices of book_data.csv, 0 to {num_rows - 1}, "
                        f"but has {text[:50]!r}; mend the file, or take it out of the folder"
                    )
            listed[split] = {int(text) for text in column}
    if not listed:
        return None, f"by title and first author, --test_fraction {options.test_fraction}"
    rule = "by " + " and ".join(f"df_{split}.csv" for split in listed)
    if len(listed) == 1:
        (split,) = listed
        listed["test" if split == "train" else "train"] = set(range(num_rows)) - listed[split]
    both = listed["train"] & listed["test"]
    if both:
        raise UserError(f"row {min(both)} is in df_train.csv and in df_test.csv of {root}: take it out of one of them")
    return {row: split for split, rows in listed.items() for row in rows}, rule


# ---------------------------------------------------------------------------------------------------------------------
# Rows -> books


def select_books(
    table: pd.DataFrame,
    images: pathlib.Path,
    entries: Mapping[str, Entry],
    splits: Mapping[int, str] | None,
    options: config.DataOptions,
) -> tuple[list[Book], list[DroppedRow]]:
    """(usable books in their stable order, dropped rows in row order).

    images: the folder of the covers; entries: {file name: image_index.Entry}; splits: {row: split}, or None for
    split_of. A picture that several books have is of none of them (a "no cover" picture, most often): all are dropped.
    Of several rows of one book with identical image files (byte for byte), the first usable one is kept.
    """
    kept, dropped, first_row = [], [], {}
    shared = pictures_of_several_books(table, entries)

    def drop(row: int, kind: str, reason: str = "") -> None:
        dropped.append(DroppedRow(row, kind, reason or kind))

    for row, (title, authors, genres, desc) in enumerate(zip(*(table[name].tolist() for name in COLUMNS), strict=True)):
        name = f"{row}.jpg"
        title, authors, genres = normalize_whitespace(title), split_list(authors), split_list(genres)
        key, entry = book_key(title, authors), entries.get(name)
        split = split_of(key, options.test_fraction) if splits is None else splits.get(row)
        if not title:
            drop(row, "no title")
        elif (share := ascii_share(title, desc)) < options.min_ascii:
            reason = f"not English: {share:.1%} of title and description is ASCII, --min_ascii {options.min_ascii}"
            drop(row, "not English", reason)
        elif entry is None:
            drop(row, "no image file")
        elif entry.problem:
            drop(row, f"image: {entry.problem.partition(':')[0]}", f"image: {entry.problem}")
        elif rows := shared.get(entry.picture):
            drop(row, "picture of several books", f"picture of several books: {len(rows)} rows, {rows[0]} the first")
        elif split is None:
            drop(row, "in no split", "neither in df_train.csv nor in df_test.csv")
        elif (first := first_row.setdefault(entry.content, row)) != row:
            drop(row, "same picture as an earlier row", f"same picture as row {first}")
        else:
            image = (f"{images}/{entry.file}", entry.content, entry.width, entry.height)
            order = uniform_hash("order", key, str(row))
            kept.append((order, row, Book(row, title, authors, genres, desc, *image, split)))
    return [book for _, _, book in sorted(kept)], dropped


def pictures_of_several_books(table: pd.DataFrame, entries: Mapping[str, Entry]) -> dict[str, list[int]]:
    """{Entry.picture: its rows} for pictures of rows of different books. Rows without a title do not count."""
    titles, authors = ([*map(normalize_whitespace, table[name])] for name in ("book_title", "book_authors"))
    rows = collections.defaultdict(list)
    for row, title in enumerate(titles):
        entry = entries.get(f"{row}.jpg")
        if title and entry and entry.picture:
            rows[entry.picture].append(row)
    shared = {picture: group for picture, group in rows.items() if len(group) > 1}
    return {
        picture: group
        for picture, group in shared.items()
        if len({book_key(titles[row], split_list(authors[row])) for row in group}) > 1
    }


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a list joined by |, each once: 'Ann Lee|Bo  Ray|' -> ('Ann Lee', 'Bo Ray')."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, normalize_whitespace(text).split("|")))))


def ascii_share(title: str, desc: str) -> float:
    """Share of ASCII characters in title and description together; typographic punctuation counts as ASCII."""
    if title.isascii() and desc.isascii():
        return 1.0
    foreign = sum(len(FOREIGN.findall(text)) for text in (title, desc))
    return 1 - foreign / (len(title) + len(desc))


def book_key(title: str, authors: tuple[str, ...]) -> str:
    """The same text for all editions of one book: title without a trailing note in brackets, and first author."""
    short = SERIES_NOTE.sub("", title)
    return f"{normalise(short) or normalise(title)}/{normalise(''.join(authors[:1]))}"


def normalise(text: str) -> str:
    """Letters and digits only, without accents and case; a text that has none is returned as it is."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
    return NON_WORD.sub("", text.casefold()) or text


def split_of(key: str, test_fraction: float) -> str:
    """'train' or 'test': a function of book_key alone, so that editions of one book stay in one split."""
    return "test" if uniform_hash("split", key) < test_fraction * 2**64 else "train"


def uniform_hash(*parts: str) -> int:
    """A hash of the strings, uniform in 0 .. 2^64 - 1."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")
