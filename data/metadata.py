"""Reads a folder of pictures with a table of captions, metadata.csv or metadata.jsonl, as Hugging Face's ImageFolder.

The columns file_name (path of the picture from the table's folder) and text must be there. title, author or authors,
genre or genres are read if they are; others are not.
"""

from __future__ import annotations

import json
import os
import pathlib
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from common.errors import UserError
from data.book import normalize_whitespace
from data.csv_file import open_text, read_csv
from data.file_tree import FileTree
from data.goodreads import split_list
from data.pictures import Collection, Picture
from data.table import find_column

EXAMPLE = 'each line must be an object, {"file_name": "a.jpg", "text": "..."}'
REQUIRED = ("file_name", "text")
LISTS = {"authors": ("authors", "author"), "genres": ("genres", "genre")}  # Book's field: names of columns
ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
NOT_UTF8 = "bytes that are not UTF-8"


class Row(NamedTuple):
    """A row of a table."""

    line: int
    values: dict[str, Any]  # by column
    damage: str  # why it can't be used; '' if it can


def read_metadata(root: pathlib.Path, tree: FileTree) -> Collection:
    """The pictures that the tables of a folder name, with their captions. UserError if a table can't be read, or names
    a file twice or one outside of the folder."""
    on_disk = {unicodedata.normalize("NFC", path): path for path in tree.pictures}
    found: dict[str, Picture] = {}
    orphans = []
    for table in tree.tables:
        rows = list(read_jsonl_rows(root / table) if table.endswith(".jsonl") else read_csv_rows(root / table))
        sound = [row for row in rows if not row.damage]
        paths = dict(zip((row.line for row in sound), paths_of(root / table, sound), strict=True))
        orphans += [(f"line {row.line} of {table}", f"damaged row: {row.damage}") for row in rows if row.damage]
        for row in sound:
            file = on_disk.get(posixpath.join(os.path.dirname(table), paths[row.line]))
            if file is None:
                where = f"line {row.line} of {table}, and there is no picture of this name"
                orphans.append((row.values["file_name"], f"caption without a picture: {where}"))
            else:
                require_inside(root, tree, table, row.line, file)
                found[file] = to_picture(file, row, table)
    missing = f"no caption: no row of {' or '.join(tree.tables)}"
    return Collection([found.get(file) or Picture(file, problem=missing) for file in tree.pictures], orphans)


def paths_of(path: pathlib.Path, rows: Sequence[Row]) -> list[str]:
    """For each row the path of its picture from the table's folder, in one way of writing its letters. UserError if
    one has none, leads out of the folder or repeats."""
    paths, unnamed, outside, repeated, lines = [], [], [], [], {}
    for row in rows:
        name = row.values.get("file_name")
        if not isinstance(name, str) or not name.strip():
            unnamed.append(f"line {row.line}")
            continue
        file = posixpath.normpath(unicodedata.normalize("NFC", name.strip()))
        if ABSOLUTE.match(name.strip()) or ".." in re.split(r"[/\\]", name):
            outside.append(f"line {row.line}: {name!r}")
        if lines.setdefault(file, row.line) != row.line:
            repeated.append(f"lines {lines[file]} and {row.line}: {name!r}")
        paths.append(file)
    for problems, what in (
        (unnamed, "have no file_name: give each row the name of its picture"),
        (outside, "name files outside of the folder: file_name is the path of a picture from the table's folder"),
        (repeated, "name one file twice: keep one row for each picture"),
    ):
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise UserError(f"{path}: rows {what}; {'; '.join(problems[:3])}{more}")
    return paths


def require_inside(root: pathlib.Path, tree: FileTree, table: str, line: int, file: str) -> None:
    """UserError if a picture is a link that leads out of the data folder."""
    if file in tree.links and not (root / file).resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{root / table}, line {line}: {file!r} is a link that leads out of the folder: copy the files (cp -rL)"
        )


def to_picture(file: str, row: Row, table: str) -> Picture:
    """The picture of a row."""
    text, title = row.values.get("text"), row.values.get("title")
    problem = ""
    if text is None:
        problem = f"no caption: line {row.line} of {table} has no text"
    elif not isinstance(text, str):
        problem = f"no caption: the text in line {row.line} of {table} is not a string"
    elif not normalize_whitespace(text):
        problem = "empty caption"
    lists = {
        name: next((to_list(row.values[column]) for column in columns if row.values.get(column)), ())
        for name, columns in LISTS.items()
    }
    return Picture(
        file,
        "" if problem else normalize_whitespace(text),
        problem,
        title=normalize_whitespace(title) if isinstance(title, str) else "",
        **lists,
    )


def to_list(value: Any) -> tuple[str, ...]:
    """The entries of a list of texts, or of a text in which | joins them."""
    parts = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(entry for part in parts if isinstance(part, str) for entry in split_list(part)))


# ---------------------------------------------------------------------------------------------------------------------
# Files -> rows


def read_csv_rows(path: pathlib.Path) -> Iterator[Row]:
    """The rows of metadata.csv. UserError as read_csv."""
    file = read_csv(path, REQUIRED)
    known = {*REQUIRED, "title", *(name for names in LISTS.values() for name in names)}
    columns = {name: find_column(file, name) for name in file.header if name in known}
    for row in file.rows:
        yield Row(row.line, {name: row.cells[column] for name, column in columns.items()}, row.damage)


def read_jsonl_rows(path: pathlib.Path) -> Iterator[Row]:
    """The rows of metadata.jsonl, one JSON object a line. UserError names a line that is something else."""
    names: dict[str, None] = {}  # of all columns
    rows = []
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as problem:
                raise UserError(f"{path}, line {number} is not JSON ({problem}): {EXAMPLE}") from None
            if not isinstance(values, dict):
                raise UserError(f"{path}, line {number} is not a JSON object: {EXAMPLE}")
            names |= dict.fromkeys(values)
            rows.append(Row(number, values, "" if is_utf8(values) else NOT_UTF8))
    if missing := [name for name in REQUIRED if name not in names]:
        columns = ", ".join(map(repr, names))[:100] or "no rows"
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {columns}: rename the one that is meant")
    return iter(rows)


def is_utf8(values: dict[str, Any]) -> bool:
    """Whether the texts can be written as UTF-8: open_text makes lone surrogates of bytes that are not."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
