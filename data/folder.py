"""A data folder -> Data: checked books in a stable order, and why others were left out."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib

import config
from common.errors import UserError
from data import goodreads
from data.book import Book
from data.image_index import check_folder, write_csv
from data.summary import report_prompts, report_rows, report_shapes
from demo_data import folder

# ---------------------------------------------------------------------------------------------------------------------
# Data folder -> Data


@dataclasses.dataclass
class Data:
    """What a data folder holds. `kept` is in the stable order; `dropped` has (row, kind, reason) in row order."""

    options: config.DataOptions
    root: pathlib.Path
    cache: pathlib.Path  # where index and quarantine.csv lie
    kept: list[Book]
    dropped: list[tuple[int, str, str]]
    num_strays: int  # image files without a row
    split_rule: str

    def books(self, split):
        """The usable books of 'train', 'test' or 'all', in the stable order: any first N are a fair sample."""
        if split not in ("train", "test", "all"):
            raise ValueError(f"no split {split!r}")
        return [book for book in self.kept if split in (book.split, "all")]

    @staticmethod
    def fingerprint(books):
        """Hash (hex) of what these books contain, in this order: rows, texts, image contents; not where they lie."""
        total = hashlib.blake2b(digest_size=16)
        for book in books:
            texts = [book.row, book.title, book.authors, book.genres, book.desc, book.content]
            total.update(json.dumps(texts).encode())
        return total.hexdigest()

    def report(self, count_tokens=None):
        """A printable table of what was found. count_tokens(text) counts a prompt's tokens, start and end included."""
        return "\n".join(
            f"{label:<34}{value:>9}   {note}".rstrip()
            for label, value, note in report_rows(self)
            + report_shapes(self.kept, self.options)
            + (report_prompts(self.kept, count_tokens, self.options.include_desc) if count_tokens else [])
            + [("index", "", self.cache / "images.csv"), ("quarantine", "", self.cache / "quarantine.csv")]
        )


def open_data(options):
    """The Data of options.data_root ('demo': the bundled demo set). Decodes each new or changed image file once.

    options: any options class that has DataOptions' fields. Nothing is written outside the cache folder. UserError if
    folder, CSV, columns or images are missing or broken, or if a split would be empty.
    """

    if options.data_root == "demo":
        root = folder.ensure(config.cache_dir(options), workers=config.num_workers(options))
    else:
        root = pathlib.Path(options.data_root).expanduser()
    table = goodreads.read_table(root)
    splits, split_rule = goodreads.read_splits(root, len(table), options)

    key = hashlib.blake2b(str(root.resolve()).encode(), digest_size=6).hexdigest()
    cache = config.cache_dir(options) / "index" / f"{root.resolve().name}-{key}"
    images = root / goodreads.IMAGES
    names = [f"{row}.jpg" for row in range(len(table))]
    entries, strays = check_folder(images, names, cache / "images.csv", config.num_workers(options))

    kept, dropped = goodreads.sort_out(table, images, entries, splits, options)
    rows = [(row, f"{goodreads.IMAGES}/{row}.jpg", reason) for row, _, reason in dropped]
    write_csv(cache / "quarantine.csv", ("row", "file", "reason"), rows)
    data = Data(options, root, cache, kept, dropped, len(strays), split_rule)
    for split in ("train", "test"):
        if not data.books(split):
            raise UserError(empty_split(data, split))
    return data


def empty_split(data, split):
    """The message for a split without books."""
    if not data.kept:
        counts = collections.Counter(kind for _, kind, _ in data.dropped).most_common()
        counts = ", ".join(f"{kind} {count}" for kind, count in counts) or "book_data.csv has no rows"
        hint = "; --min_ascii 0 keeps every language" if "not English" in counts else ""
        return f"no usable book in {data.root}: {counts}; each row's reason is in {data.cache / 'quarantine.csv'}{hint}"
    if "--test_fraction" not in data.split_rule:
        return (
            f"no usable book in the {split} split, {data.split_rule}: mend these files or take them out of {data.root}"
        )
    change = "raise" if split == "test" else "lower"
    return (
        f"the {split} split is empty: all {len(data.kept)} usable books of {data.root} fall on the other side; "
        f"{change} --test_fraction (now {data.options.test_fraction}), or add books"
    )
