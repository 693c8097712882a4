"""Reads a CSV file strictly: UserError names the line where one row cannot be told from the next with certainty.

A lenient reader mends a file in silence: it fills up short rows, takes text after a closing quote, skips empty lines.
From there on each row would have another row's image, because the two are paired by number alone.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TextIO

from common.errors import UserError

DELIMITERS = ",;\t"
OTHER_FORMATS = {  # by the first bytes of the file
    b"\x1f\x8b": "is compressed with gzip: unpack it",
    b"PK\x03\x04": "is a zip archive or a spreadsheet: unpack it, or export it as CSV",
    b"\xff\xfe": "is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text: save it as UTF-8",
}
MAX_CELL = 2**31 - 1  # characters; the csv module's own limit is 131072


class Row(NamedTuple):
    """A row of a CSV file, the header excepted."""

    line: int  # the line of the file where it begins; the header's is 1
    cells: tuple[str, ...]  # verbatim ("NA" and "None" are titles of books), at least one for each column
    damage: str = ""  # why the cells cannot be trusted; '' if they can


@dataclass(frozen=True)
class CsvFile:
    """The contents of a CSV file."""

    path: pathlib.Path
    header: list[str]  # the names of the columns, see column_name
    rows: list[Row]
    repeated: list[int]  # the lines where rows begin that are the same as an earlier row
    doubt: str  # the first place where rows may have been joined or parted unnoticed, in words; '' if there is none


def read_csv(path: pathlib.Path, required: Sequence[str] = ()) -> CsvFile:
    """Reads UTF-8 text with a header, separated by commas, semicolons or tabs; double quotes enclose texts with these.

    Empty lines are not rows. UserError if it is another format, or if it is damaged so that rows may be joined or
    parted: text after a closing quote, a quote that is never closed, too few fields, NUL bytes. Or if a required
    column is missing: that comes first, as under a wrong first line every row has a wrong number of fields.
    """
    header: list[str] = []
    rows: list[Row] = []
    repeated: list[int] = []
    seen: set[int] = set()  # hashes of rows
    doubt, pending = "", ""  # pending: no doubt before another row follows, as at the end of the file it means nothing
    for line, end, cells, text in read_records(path):
        if len(cells) < 2 and not text.strip():
            pending = pending or f"line {line} is empty"
        elif not header:
            header, pending = list(map(column_name, cells)), ""
            if missing := ", ".join(name for name in required if name not in header):
                begin = ", ".join(header)[:100]
                raise UserError(f"{path} has no column {missing}: its first line must name them, but begins {begin!r}")
        else:
            if problem := find_break(header, cells, end > line):
                raise UserError(f"{path}, line {line} {problem}")
            rows.append(Row(line, tuple(cells), find_damage(header, cells, text)))
            key = hash(text.rstrip("\r\n"))
            if key in seen:
                repeated.append(line)
            seen.add(key)
            same = cells[0].strip(" -=")
            if len(cells) > 1 and all(cell.strip(" -=") == same for cell in reversed(cells)):
                # A row put in by a spreadsheet, a rule under the header, a header's second line
                pending = pending or f"line {line} has {cells[0][:50]!r} in every field"
            else:
                doubt = doubt or pending
            if not doubt and len(cells) > len(header):
                doubt = f"line {line} has {rows[-1].damage}"
            if not doubt and text.count('"') % 2:
                doubt = f"line {line} has a quote without a partner"
    if not header:
        raise UserError(f"{path} is empty: get it anew, or take it out of the folder")
    return CsvFile(path, header, rows, repeated, doubt)


def column_name(cell: str) -> str:
    """The name of a column as it is compared: without spaces around it, in lower case."""
    return cell.strip("\ufeff \t").lower()


def find_break(header: Sequence[str], cells: Sequence[str], several_lines: bool) -> str:
    """Why a record cannot be exactly one row, and what to do; '' if it can."""
    if len(cells) < len(header):
        return (
            f"has only {len(cells)} of the header's {len(header)} fields: a text with line breaks must be in quotes, "
            "and quotes in it doubled; if the file ends there, it was cut: get it anew"
        )
    if len(cells) > len(header) and several_lines:
        return (
            f"begins a row of several lines with {len(cells)} fields where the header has {len(header)}: a text with "
            "commas must be in quotes, and quotes in it doubled"
        )
    return ""


def find_damage(header: Sequence[str], cells: Sequence[str], text: str) -> str:
    """Why the cells of a whole row cannot be trusted; '' if they can."""
    if len(cells) > len(header):
        return f"{len(cells)} fields where the header has {len(header)}"
    try:
        text.encode()
    except UnicodeEncodeError:  # open_text made lone surrogates of bytes that are not UTF-8
        return "bytes that are not UTF-8"
    return ""


def read_records(path: pathlib.Path) -> Iterator[tuple[int, int, list[str], str]]:
    """(first line, last line, cells, text) of each record of a CSV file, its header too. UserError: see read_csv."""
    lines: list[str] = []  # of the current record

    def collect(file: Iterable[str]) -> Iterator[str]:
        for line in file:
            if "\0" in line:
                raise UserError(
                    f"{path}, line {reader.line_num + 1} has NUL bytes: the file is damaged or not UTF-8; get it anew"
                )
            lines.append(line)
            yield line

    with open_text(path) as file, unlimited_cells():
        first = file.readline()
        delimiter = max(DELIMITERS, key=first.count)
        reader = csv.reader(collect(itertools.chain([first], file)), delimiter=delimiter, strict=True)
        begin = 1
        try:
            for cells in reader:
                yield begin, reader.line_num, cells, "".join(lines)
                begin = reader.line_num + 1
                lines.clear()
        except csv.Error as problem:
            end = reader.line_num
            if "end of data" in str(problem):
                text = f"line {begin} begins a row with a quote that is never closed"
            else:
                text = f"line {end} has text after a closing quote ({problem})"
                text += f", in the row that begins in line {begin}" if begin < end else ""
            raise UserError(f"{path}, {text}: close each quote, and double those within a text") from None


@contextlib.contextmanager
def open_text(path: pathlib.Path) -> Iterator[TextIO]:
    """The file as text, its line ends untouched. UserError if it cannot be read or is in another format."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        for mark, problem in OTHER_FORMATS.items():
            if start.startswith(mark):
                raise UserError(f"{path} {problem}")
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield file
    except OSError as problem:
        raise UserError(f"can't read {path}: {problem.strerror or problem}") from None


@contextlib.contextmanager
def unlimited_cells() -> Iterator[None]:
    """The csv module takes cells of any length; its limit is one for the whole process."""
    limit = csv.field_size_limit(MAX_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
