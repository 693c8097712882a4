"""Opens a data folder: checks its table and images, and gives its usable books in a stable order."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable

import config
from common.errors import UserError
from data import goodreads
from data.book import Book
from data.image_files import describe_missing, image_numbers
from data.image_index import check_folder, write_csv
from data.table import IMAGES, DroppedRow, read_table, require_pairing
from demo_data.folder import ensure_demo_data

INDEX = "images.csv"  # file name in the cache folder


@dataclasses.dataclass(frozen=True)
class Data:
    """The contents of a data folder."""

    options: config.DataOptions
    root: pathlib.Path
    cache: pathlib.Path  # folder of the image index and of quarantine.csv
    kept: list[Book]  # the usable rows, in the stable order
    dropped: list[DroppedRow]  # the other rows, in row order
    num_unmatched_images: int  # image files without a row
    numbered: bool  # book_data.csv has a column of row numbers
    split_rule: str  # how books were split into train and test, in words

    @property
    def index_path(self) -> pathlib.Path:
        return self.cache / INDEX

    @property
    def quarantine_path(self) -> pathlib.Path:
        return self.cache / "quarantine.csv"

    def books(self, split: str) -> list[Book]:
        """The usable books of 'train', 'test' or 'all', in the stable order: any first N are a fair sample."""
        if split not in ("train", "test", "all"):
            raise ValueError(f"no split {split!r}")
        return [book for book in self.kept if split in (book.split, "all")]

    @staticmethod
    def fingerprint(books: Iterable[Book]) -> str:
        """Hash (hex) of the contents of these books, in this order: rows, texts, images; independent of file paths."""
        total = hashlib.blake2b(digest_size=16)
        for book in books:
            texts = [book.row, book.title, book.authors, book.genres, book.desc, book.content]
            total.update(json.dumps(texts).encode())
        return total.hexdigest()


def open_data(options: config.DataOptions) -> Data:
    """Opens options.data_root ('demo': the bundled demo set). Decodes each new or changed image file once.

    options: any options class with the fields of DataOptions. Nothing is written outside the cache folder. UserError if
    the folder, its table, a column or all images are missing or broken, or if a split would be empty.
    """
    if options.data_root == "demo":
        root = ensure_demo_data(config.cache_dir(options), workers=config.num_workers(options))
    else:
        root = pathlib.Path(options.data_root).expanduser()
    # Which image is whose, before any is decoded
    table = read_table(root)
    images = root / IMAGES
    require_pairing(table, image_numbers(images), options.allow_extra_images)
    splits, split_rule = goodreads.read_splits(root, table, options)

    key = hashlib.blake2b(str(root.resolve()).encode(), digest_size=6).hexdigest()
    cache = config.cache_dir(options) / "index" / f"{root.resolve().name}-{key}"
    names = [f"{row}.jpg" for row in table.numbers]
    entries, unmatched = check_folder(images, names, cache / INDEX, config.num_workers(options))

    kept, dropped = goodreads.select_books(table, images, entries, splits, options)
    data = Data(options, root, cache, kept, dropped, len(unmatched), table.numbered, split_rule)
    files = {row.row: entries[name].file for row in dropped if (name := f"{row.row}.jpg") in entries}
    lines = [(row.row, f"{IMAGES}/{files.get(row.row, f'{row.row}.jpg')}", row.reason) for row in dropped]
    write_csv(data.quarantine_path, ("row", "file", "reason"), lines)
    for split in ("train", "test"):
        if not data.books(split):
            raise UserError(explain_empty_split(data, split))
    return data


def explain_empty_split(data: Data, split: str) -> str:
    """The error message for a split without books: what was found, and which option to change."""
    if not data.kept:
        counts = collections.Counter(row.kind for row in data.dropped).most_common()
        counts = ", ".join(f"{kind} {count}" for kind, count in counts) or "book_data.csv has no rows"
        hint = "; --min_ascii 0 keeps every language" if "not English" in counts else ""
        missing = [row.row for row in data.dropped if row.kind == "no image file"]
        there = f"; {describe_missing(data.root / IMAGES, f'{missing[0]}.jpg')}" if missing else ""
        return f"no usable book in {data.root}: {counts}{there}; each row's reason is in {data.quarantine_path}{hint}"
    if "--test_fraction" not in data.split_rule:
        return (
            f"no usable book in the {split} split, {data.split_rule}: mend these files or take them out of {data.root}"
        )
    change = "raise" if split == "test" else "lower"
    return (
        f"the {split} split is empty: all {len(data.kept)} usable books of {data.root} fall on the other side; "
        f"{change} --test_fraction (now {data.options.test_fraction}), or add books"
    )
