"""Tells which layout a data folder has, by what is there."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

from common.errors import UserError
from data.captions import has_pairs
from data.file_tree import FileTree, list_tree
from data.pictures import quote
from data.table import WHERE_TO_GET

GOODREADS, CAPTIONS, METADATA = "goodreads", "captions", "metadata"
EXPECTED = (
    "expected pictures that each have a .txt caption of the same name beside them; or metadata.csv or metadata.jsonl "
    "with the columns file_name and text; or book_data.csv and images/images/0.jpg ... (see docs/data.md; "
    "--data_root demo needs no data)"
)


class Layout(NamedTuple):
    """How a data folder is to be read."""

    kind: str  # GOODREADS, CAPTIONS or METADATA
    tree: FileTree  # of a folder in the layout GOODREADS: its uppermost level alone


def find_layout(root: pathlib.Path) -> Layout:
    """The layout of a data folder. UserError if there is none, or more than one."""
    if not os.path.isdir(root):
        raise UserError(f"there is no data folder {root}: {WHERE_TO_GET}")
    has_books = os.path.isfile(root / "book_data.csv")
    tree = list_tree(root, recursive=not has_books)  # 54,000 covers need not be listed twice
    pairs = has_pairs(tree)
    found = ["book_data.csv"] * has_books + tree.tables + ["pictures with .txt captions"] * pairs
    folders = [os.path.dirname(path) for path in tree.tables]
    if len(found) > 1 and (has_books or pairs or len(set(folders)) < len(folders)):
        raise UserError(
            f"{root} has {' and '.join(found[:4])}, and only one of them can be read: take the others out, or give the "
            "folder of one as --data_root (docs/data.md)"
        )
    if has_books:
        return Layout(GOODREADS, tree)
    if set(folders) - {"", "train", "test"} or ("" in folders and len(folders) > 1):
        raise UserError(
            f"{root} has {quote(tree.tables)}: there must be one at the top, or one in each of the folders train and "
            "test (a validation set can be called test)"
        )
    if folders:
        return Layout(METADATA, tree)
    if pairs:
        return Layout(CAPTIONS, tree)
    raise UserError(f"{root} has {describe(tree)}: {EXPECTED}")


def describe(tree: FileTree) -> str:
    """What was found in a folder that has no layout, in words."""
    parts = []
    if tree.pictures:
        parts.append(f"{len(tree.pictures)} pictures such as {next(iter(tree.pictures))!r}")
    if tree.texts:
        parts.append(f"{len(tree.texts)} .txt files such as {tree.texts[0]!r}")
    parts += [f"{count} {suffix}" for suffix, count in tree.others.most_common(3)]
    if tree.folder_links:
        parts.append(f"links to folders, which are not followed, such as {tree.folder_links[0]!r}")
    missing = "no .txt of the same name" if tree.texts else "no captions"
    if not tree.pictures:
        missing = "no pictures" if tree.texts or tree.others else "nothing in it"
    return ", ".join([*parts, missing])
