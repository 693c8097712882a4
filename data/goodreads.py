"""A data folder in the layout of Kaggle's Goodreads best books -> the books that can be used, and why others can't.

DIR/book_data.csv                       columns COLUMNS and others; authors and genres joined by |
DIR/images/images/<row index>.jpg       row index: 0 for the first row after the header
DIR/df_train.csv, DIR/df_test.csv       optional: the split; first column = row index
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata

import pandas as pd

from common.errors import UserError
from data.book import Book, tidy

COLUMNS = ["book_title", "book_authors", "genres", "book_desc"]  # those that are needed
IMAGES = "images/images"
WHERE_TO_GET = (
    "download kaggle.com/datasets/meetnaren/goodreads-best-books, unpack it so that DIR/book_data.csv and "
    "DIR/images/images/0.jpg ... are there, and give --data_root DIR; or try --data_root demo"
)
# Characters that are not ASCII, less typographic punctuation: hyphens and dashes, quotes, primes, ellipsis, spaces.
FOREIGN = re.compile(
    r"[^\x00-\x7f\u00a0\u00ad\u2000-\u200b\u2010-\u2015\u2018-\u201f\u2026\u2028\u2029\u202f\u2032\u2033\u2060\u2212\ufeff]"
)
REMARK = re.compile(r"[([][^()[]*[])]$")  # at the end of a title: (The Hunger Games, #1)
NO_WORD = re.compile(r"[\W_]+")


# ---------------------------------------------------------------------------------------------------------------------
# Files -> rows


def read_table(root):
    """The COLUMNS of root/book_data.csv as a DataFrame of str; an empty cell is ''. UserError if it can't be had."""
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


def read_csv(path, **kwargs):
    """A CSV file as a DataFrame of str, cells as they stand ("NA" and "None" are titles of books), or UserError."""
    try:
        table = pd.read_csv(path, dtype=str, na_filter=False, encoding="utf-8", **kwargs)
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty: get it anew, or take it out of the folder") from None
    except UnicodeDecodeError as problem:
        raise UserError(f"{path} is not UTF-8 text ({problem.reason}): save it as UTF-8, or get it anew") from None
    except (pd.errors.ParserError, OSError, ValueError) as problem:
        raise UserError(f"can't read {path} as CSV: {problem}; mend it, or get it anew") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus first fields for an index
        raise UserError(f"{path} has more fields in its rows than in its header: put fields with commas in quotes")
    return table


def read_splits(root, num_rows, options):
    """({row: split} or None, the rule in words). df_train.csv/df_test.csv win over the rule of split_of.

    If only one of the files is there, the other split has all other rows.
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


def sort_out(table, images, entries, splits, options):
    """(books in the stable order, dropped rows as (row, kind, reason)).

    images: the folder of the covers. entries: {file name: covers.Entry}. splits: {row: split}, or None for split_of.
    Of several rows whose image files are the same, byte for byte, the first usable one is kept.
    """
    kept, dropped, first_row = [], [], {}
    for row, (title, authors, genres, desc) in enumerate(zip(*(table[name].tolist() for name in COLUMNS), strict=True)):
        name = f"{row}.jpg"
        title, authors, genres = tidy(title), split_list(authors), split_list(genres)
        key, entry = book_key(title, authors), entries.get(name)
        split = split_of(key, options.test_fraction) if splits is None else splits.get(row)
        if not title:
            dropped.append((row, "no title", "no title"))
        elif (share := ascii_share(title, desc)) < options.min_ascii:
            reason = f"not English: {share:.1%} of title and description is ASCII, --min_ascii {options.min_ascii}"
            dropped.append((row, "not English", reason))
        elif entry is None:
            dropped.append((row, "no image file", "no image file"))
        elif entry.problem:
            dropped.append((row, f"image: {entry.problem.partition(':')[0]}", f"image: {entry.problem}"))
        elif split is None:
            dropped.append((row, "in no split", "neither in df_train.csv nor in df_test.csv"))
        elif (first := first_row.setdefault(entry.content, row)) != row:
            dropped.append((row, "same picture as an earlier row", f"same picture as row {first}"))
        else:
            image = (f"{images}/{name}", entry.content, entry.width, entry.height)
            place = digest("order", key, str(row))
            kept.append((place, row, Book(row, title, authors, genres, desc, *image, split)))
    return [book for _, _, book in sorted(kept)], dropped


def split_list(text):
    """'Ann Lee|Bo  Ray|' -> ('Ann Lee', 'Bo Ray')"""
    return tuple(dict.fromkeys(filter(None, map(str.strip, tidy(text).split("|")))))


def ascii_share(title, desc):
    """Share of ASCII characters in title and description together; typographic punctuation counts as ASCII."""
    if title.isascii() and desc.isascii():
        return 1.0
    foreign = sum(len(FOREIGN.findall(text)) for text in (title, desc))
    return 1 - foreign / (len(title) + len(desc))


def book_key(title, authors):
    """The same text for all editions of one book: title, less a remark in brackets at its end, and first author."""
    short = REMARK.sub("", title)
    return f"{normalise(short) or normalise(title)}/{normalise(''.join(authors[:1]))}"


def normalise(text):
    """Letters and digits alone, without accents and case; of a text that has none, the text itself."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
    return NO_WORD.sub("", text.casefold()) or text


def split_of(key, test_fraction):
    """'train' or 'test': a function of book_key alone, so that editions of one book stay together."""
    return "test" if digest("split", key) < test_fraction * 2**64 else "train"


def digest(*parts):
    """A whole number in 0 .. 2^64-1 that looks random but is a function of the strings."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")
