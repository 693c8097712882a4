"""The layout of Kaggle's Goodreads best books: usable books, and the reason why each other row is dropped.

DIR/book_data.csv                       columns data.table.COLUMNS and others; authors and genres joined by |
DIR/images/images/<row number>.jpg      row number: 0 for the first row after the header, if no column has the numbers
DIR/df_train.csv, DIR/df_test.csv       optional: the split; first column = row number
"""

from __future__ import annotations

import collections
import hashlib
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Set

import config
from common.errors import UserError
from data.book import Book, normalize_whitespace
from data.csv_file import CsvFile, read_csv
from data.image_index import Entry
from data.table import DroppedRow, Table, whole_number

# Characters that are not ASCII, except typographic punctuation: hyphens and dashes, quotes, primes, ellipsis, spaces.
FOREIGN = re.compile(
    r"[^\x00-\x7f\u00a0\u00ad\u2000-\u200b\u2010-\u2015\u2018-\u201f\u2026\u2028\u2029\u202f\u2032\u2033\u2060\u2212\ufeff]"
)
SERIES_NOTE = re.compile(r"[([][^()[]*[])]$")  # at the end of a title: (The Hunger Games, #1)
NON_WORD = re.compile(r"[\W_]+")


# ---------------------------------------------------------------------------------------------------------------------
# Split files -> rows


def read_splits(root: pathlib.Path, table: Table, options: config.DataOptions) -> tuple[dict[int, str] | None, str]:
    """({row number: split} or None, a description of the rule). df_train.csv/df_test.csv take precedence over split_of.

    If only one of the files exists, the other split has all other rows. UserError if they contradict each other or the
    table.
    """
    files = [(split, root / f"df_{split}.csv") for split in ("train", "test")]
    files = [(split, read_csv(path)) for split, path in files if path.exists()]
    listed = {split: read_split(file, table) for split, file in files}
    for _, file in files:
        require_header(file, set().union(*listed.values()))
    if not listed:
        return None, f"by title and first author, --test_fraction {options.test_fraction}"
    rule = "by " + " and ".join(f"df_{split}.csv" for split in listed)
    if len(listed) == 1:
        (split,) = listed
        listed["test" if split == "train" else "train"] = set(table.numbers) - listed[split]
    both = listed["train"] & listed["test"]
    if both:
        raise UserError(f"row {min(both)} is in df_train.csv and in df_test.csv of {root}: take it out of one of them")
    return {row: split for split, rows in listed.items() for row in rows}, rule


def read_split(file: CsvFile, table: Table) -> set[int]:
    """The row numbers in the first column of a split file. UserError if there are others, or other titles than in the
    table: then one of the two files has been changed, and its numbers may be those of other rows."""
    known = set(table.numbers)
    title_column = file.header.index("book_title") if "book_title" in file.header[1:] else None
    numbers, others = set(), []
    for line, cells, damage in file.rows:
        number = whole_number(cells[0])
        if number is None or (number not in known and not table.numbered):  # rows with numbers may have been dropped
            raise UserError(
                f"{file.path}, line {line}: its first column must hold row numbers of book_data.csv, "
                f"{min(known, default=0)} to {max(known, default=0)}, and {cells[0][:50]!r} is none; mend the file, or "
                "take it out of the folder"
            )
        if damage:
            raise UserError(f"{file.path}, line {line} has {damage}: mend it, or take the file out of the folder")
        if number in known:
            numbers.add(number)
        if title_column is not None and number in table.cells:
            ours, theirs = table.cells[number][0], cells[title_column]
            # pandas reads titles like NA and None as missing, and writes them as empty
            if theirs and normalise(normalize_whitespace(ours)) != normalise(normalize_whitespace(theirs)):
                others.append(f"row {number} is {theirs[:50]!r} there and {ours[:50]!r} in book_data.csv")
    if others:
        raise UserError(
            f"{file.path} does not fit book_data.csv: {len(others)} of its {len(file.rows)} titles differ, "
            f"{'; '.join(others[:3])}. Get the right file, or take it out of the folder; if its numbers are right, "
            "delete its column book_title"
        )
    return numbers


def require_header(file: CsvFile, listed: Set[int]) -> None:
    """UserError if the first line of a split file may be a row. listed: the rows in all split files.

    pandas writes 0 above a column that has no name. Then row 0 is listed besides, in one file or the other.
    """
    name = file.header[0]
    if whole_number(name) is not None and not (name == "0" and 0 in listed):
        raise UserError(
            f"{file.path} begins with the number {name} where the header must be: write 'row' above it if it is a row, "
            "or in its place if it is not"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Rows -> books


def select_books(
    table: Table,
    images: pathlib.Path,
    entries: Mapping[str, Entry],
    splits: Mapping[int, str] | None,
    options: config.DataOptions,
) -> tuple[list[Book], list[DroppedRow]]:
    """(usable books in their stable order, dropped rows in row order).

    images: the folder of the covers; entries: {file name: image_index.Entry}; splits: {row number: split}, or None for
    split_of. A picture that several books have is of none of them (a "no cover" picture, most often): all are dropped.
    Of several rows of one book with identical image files (byte for byte), the first usable one is kept.
    """
    kept, dropped, first_row = [], list(table.damaged), {}
    shared = pictures_of_several_books(table, entries)

    def drop(row: int, kind: str, reason: str = "") -> None:
        dropped.append(DroppedRow(row, kind, reason or kind))

    for row, (title, authors, genres, desc) in table.cells.items():
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
    return [book for _, _, book in sorted(kept)], sorted(dropped, key=lambda row: row.row)


def pictures_of_several_books(table: Table, entries: Mapping[str, Entry]) -> dict[str, list[int]]:
    """{Entry.picture: its rows} for pictures of rows of different books. Rows without a title do not count."""
    rows = collections.defaultdict(list)
    for row, (title, *_) in table.cells.items():
        entry = entries.get(f"{row}.jpg")
        if normalize_whitespace(title) and entry and entry.picture:
            rows[entry.picture].append(row)

    def key(row: int) -> str:
        title, authors, *_ = table.cells[row]
        return book_key(normalize_whitespace(title), split_list(authors))

    return {
        picture: group for picture, group in rows.items() if len(group) > 1 and len({key(row) for row in group}) > 1
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


def work_key(title: str, authors: tuple[str, ...], file: str) -> str:
    """book_key of a book; of a captioned picture without a title its file, in one way of writing its letters."""
    return book_key(title, authors) if title else unicodedata.normalize("NFC", file)


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
