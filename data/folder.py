"""Opens a data folder: checks its table and images, and gives its usable books in a stable order."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Sequence

import config
from common.errors import UserError
from common.terminal import printable
from data import goodreads, pictures
from data.book import Book
from data.captions import read_captions
from data.image_files import ImageFiles, describe_missing, image_numbers
from data.image_index import check_folder, check_images, write_csv
from data.layout import CAPTIONS, GOODREADS, Layout, find_layout
from data.metadata import read_metadata
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
    layout: str = GOODREADS  # see data.layout
    notes: Sequence[str] = ()  # lines to print when training starts

    @property
    def index_path(self) -> pathlib.Path:
        return self.cache / INDEX

    @property
    def quarantine_path(self) -> pathlib.Path:
        return self.cache / "quarantine.csv"

    @property
    def numbers_path(self) -> pathlib.Path:
        """Which picture has which number; not of the layout of Goodreads, where file names have them."""
        return self.cache / "pictures.csv"

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
            texts += [book.caption] if book.caption else []  # without it the hash is that of earlier releases
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
    layout = find_layout(root)
    data = open_goodreads(root, options) if layout.kind == GOODREADS else open_pictures(layout, root, options)
    for split in ("train", "test"):
        if not data.books(split):
            raise UserError(explain_empty_split(data, split))
    return data


def open_goodreads(root: pathlib.Path, options: config.DataOptions) -> Data:
    """open_data of the layout of Goodreads best books; a split may be empty."""
    # Which image is whose, before any is decoded
    table = read_table(root)
    images = root / IMAGES
    require_pairing(table, image_numbers(images), options.allow_extra_images)
    splits, split_rule = goodreads.read_splits(root, table, options)

    cache = cache_folder(root, options)
    names = [f"{row}.jpg" for row in table.numbers]
    entries, unmatched = check_folder(images, names, cache / INDEX, config.num_workers(options))

    kept, dropped = goodreads.select_books(table, images, entries, splits, options)
    data = Data(options, root, cache, kept, dropped, len(unmatched), table.numbered, split_rule)
    files = {row.row: entries[name].file for row in dropped if (name := f"{row.row}.jpg") in entries}
    lines = [(row.row, f"{IMAGES}/{files.get(row.row, f'{row.row}.jpg')}", row.reason) for row in dropped]
    write_csv(data.quarantine_path, ("row", "file", "reason"), lines)
    return data


def open_pictures(layout: Layout, root: pathlib.Path, options: config.DataOptions) -> Data:
    """open_data of a folder of pictures with captions; a split may be empty."""
    refuse_options_of_books(options)
    collection = read_captions(root, layout.tree) if layout.kind == CAPTIONS else read_metadata(root, layout.tree)
    pictures.require_captions(root, collection, options)
    folders, split_rule = pictures.split_rule(collection, options)

    cache = cache_folder(root, options)
    stamps = {file: stamp for file, stamp in layout.tree.pictures.items() if not pictures.NOT_A_NAME.search(file)}
    files = ImageFiles({file: file for file in stamps}, {}, stamps)
    entries, _ = check_images(root, files, cache / INDEX, config.num_workers(options))

    kept, dropped = pictures.select_books(root, collection, entries, folders, options)
    data = Data(options, root, cache, kept, dropped, 0, False, split_rule, layout.kind, collection.notes)
    lines = [("" if row.row < 0 else row.row, row.file, row.reason) for row in dropped]
    lines = [[as_utf8(cell) for cell in line] for line in lines]
    write_csv(data.quarantine_path, ("row", "file", "reason"), lines)
    write_csv(data.numbers_path, pictures.NUMBERS_HEADER, sorted((book.row, book.file) for book in kept))
    return data


def as_utf8(text: object) -> str:
    """A name or message, with what can't be printed or is not UTF-8 as escapes."""
    return printable(text).encode(errors="backslashreplace").decode()


def cache_folder(root: pathlib.Path, options: config.DataOptions) -> pathlib.Path:
    """Where the files that are derived from a data folder go."""
    key = hashlib.blake2b(str(root.resolve()).encode(), digest_size=6).hexdigest()
    return config.cache_dir(options) / "index" / f"{root.resolve().name}-{key}"


def refuse_options_of_books(options: config.DataOptions) -> None:
    """UserError if options are given that need what captions don't say."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for name, needs in (("include_desc", "descriptions"), ("min_ascii", "titles and descriptions of books")):
        if getattr(options, name) != defaults[name]:
            raise UserError(f"--{name} is about {needs}, and {options.data_root} has captions: leave it out")


def explain_empty_split(data: Data, split: str) -> str:
    """The error message for a split without books: what was found, and which option to change."""
    thing = "book" if data.layout == GOODREADS else "picture"
    if not data.kept:
        counts = collections.Counter(row.kind for row in data.dropped).most_common()
        counts = ", ".join(f"{kind} {count}" for kind, count in counts) or "book_data.csv has no rows"
        hint = "; --min_ascii 0 keeps every language" if "not English" in counts else ""
        missing = [row.row for row in data.dropped if row.kind == "no image file"]
        there = f"; {describe_missing(data.root / IMAGES, f'{missing[0]}.jpg')}" if missing else ""
        reasons = f"each {'row' if thing == 'book' else 'picture'}'s reason is in {data.quarantine_path}"
        return f"no usable {thing} in {data.root}: {counts}{there}; {reasons}{hint}"
    if "--test_fraction" not in data.split_rule:
        where = f"the {split} split, {data.split_rule}"
        return f"no usable {thing} in {where}: mend these files or take them out of {data.root}"
    change = "raise" if split == "test" else "lower"
    return (
        f"the {split} split is empty: all {len(data.kept)} usable {thing}s of {data.root} fall on the other side; "
        f"{change} --test_fraction (now {data.options.test_fraction}), or add {thing}s"
    )
