"""Reads book_data.csv: the rows by their numbers, and whether these can be the numbers of the images.

A row has no other tie to its image than the number. Where a column has the numbers they are certain. Where rows are
counted, one row too many or too few gives all rows after it another row's image, so that is refused wherever it shows.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Set
from dataclasses import dataclass

from common.errors import UserError
from data.csv_file import CsvFile, column_name, read_csv

COLUMNS = ["book_title", "book_authors", "genres", "book_desc"]  # required
IMAGES = "images/images"
WHERE_TO_GET = (
    "download kaggle.com/datasets/meetnaren/goodreads-best-books, unpack it so that DIR/book_data.csv and "
    "DIR/images/images/0.jpg ... are there, and give --data_root DIR; or try --data_root demo"
)
PANDAS_INDEX = re.compile(r"unnamed: 0(\.\d+)*")  # what pandas calls a column without a name when it reads one
WHOLE_NUMBER = re.compile(r"([0-9]{1,18})(\.0*)?")  # pandas writes 2.0 where a column had gaps
FEW_DAMAGED, MAX_DAMAGED = 3, 0.01  # number and fraction of damaged rows; beyond both the file as a whole is in doubt


@dataclass(frozen=True)
class DroppedRow:
    """A row of book_data.csv that cannot be used."""

    row: int
    kind: str  # of reason, for counting
    reason: str  # in full, for quarantine.csv


@dataclass(frozen=True)
class Table:
    """The rows of book_data.csv by number: row N has the image N.jpg."""

    path: pathlib.Path
    cells: dict[int, tuple[str, ...]]  # {row number: the COLUMNS, verbatim}, ascending; without damaged rows
    damaged: list[DroppedRow]  # ascending
    numbered: bool  # a column of the file has the numbers; else the rows are counted, from 0
    repeated: list[int]  # see CsvFile, as is doubt
    doubt: str

    @property
    def numbers(self) -> list[int]:
        """The numbers of all rows, ascending."""
        return sorted([*self.cells, *(row.row for row in self.damaged)])


def read_table(root: pathlib.Path) -> Table:
    """Reads root/book_data.csv. UserError if a file, folder or column is missing, or if the CSV file is damaged.

    A few damaged rows are set aside, if they cannot have changed the numbers of the others: see require_pairing.
    """
    path = root / "book_data.csv"
    if not os.path.isdir(root):
        raise UserError(f"there is no data folder {root}: {WHERE_TO_GET}")
    if not os.path.isfile(path):
        raise UserError(f"there is no book_data.csv in {root}: {WHERE_TO_GET}")
    if not os.path.isdir(root / IMAGES):
        raise UserError(f"there is no folder {IMAGES} in {root}: {WHERE_TO_GET}")
    file = read_csv(path)
    columns = [find_column(file, name) for name in COLUMNS]
    for row in file.rows:
        if all(column_name(row.cells[column]) == name for column, name in zip(columns, COLUMNS, strict=True)):
            raise UserError(
                f"{path}, line {row.line} is the header again: if files were joined, take them apart, as images are "
                "numbered by the rows of one file"
            )
    numbers = read_numbers(file)

    cells, damaged = {}, []
    for number, row in sorted(zip(numbers or range(len(file.rows)), file.rows, strict=True)):
        if row.damage:
            damaged.append(DroppedRow(number, "damaged row", f"line {row.line} of book_data.csv has {row.damage}"))
        else:
            cells[number] = tuple(row.cells[column] for column in columns)
    if len(damaged) > max(FEW_DAMAGED, MAX_DAMAGED * len(file.rows)):
        raise UserError(
            f"{path} is damaged in {len(damaged)} of {len(file.rows)} rows: {damaged[0].reason}; save it as UTF-8, "
            "put texts that have commas in quotes, name each column in the header, or get it anew"
        )
    return Table(path, cells, damaged, numbers is not None, file.repeated, file.doubt)


def find_column(file: CsvFile, name: str) -> int:
    """The place of a column in the header. UserError unless it is there once."""
    if file.header.count(name) > 1:
        raise UserError(f"{file.path} has the column {name} twice: take one of them out")
    if name not in file.header:
        missing = ", ".join(name for name in COLUMNS if name not in file.header)
        begin = ", ".join(file.header)[:100]
        raise UserError(f"{file.path} has no column {missing}: its first line must name them, but begins {begin!r}")
    return file.header.index(name)


def read_numbers(file: CsvFile) -> list[int] | None:
    """The row numbers in the column that pandas writes its index to; None if there is none.

    That is a first column without a name or called "index", or one that is called "Unnamed: 0", with whole numbers.
    UserError if only a part of it has whole numbers, if they are not distinct, or if two such columns differ.
    """
    found = None
    for column, name in enumerate(file.header):
        if not (PANDAS_INDEX.fullmatch(name) or (column == 0 and name in ("", "index"))):
            continue
        numbers = [whole_number(row.cells[column]) for row in file.rows]
        if all(number is None for number in numbers):  # it is for something else
            continue
        line_of: dict[int, int] = {}
        for number, row in zip(numbers, file.rows, strict=True):
            where = f"{file.path}, line {row.line}: in the column of row numbers"
            if number is None:
                raise UserError(f"{where} is {row.cells[column][:50]!r}: mend this row, or get the file anew")
            if line_of.setdefault(number, row.line) != row.line:
                raise UserError(f"{where} is {number}, as in line {line_of[number]}: take one of the two rows out")
        if found not in (None, numbers):
            raise UserError(f"{file.path} has two columns of row numbers, and they differ: keep that of the images")
        found = numbers
    return found


def whole_number(cell: str) -> int | None:
    """The number, 0 or more, that a cell has, as 7 or 7.0; None if it has something else."""
    match = WHOLE_NUMBER.fullmatch(cell.strip())
    return int(match[1]) if match else None


def require_pairing(table: Table, images: Set[int], allow_extra_images: bool) -> None:
    """UserError if the rows may not be those of the images, which have these numbers.

    A row without an image is nothing unusual. An image without a row is, where rows are counted: a row was deleted.
    """
    numbers = table.numbers
    count, last_image = len(numbers), max(images, default=-1)
    if table.numbered:
        if count and numbers == list(range(1, count + 1)) and 0 in images and count not in images:
            raise UserError(
                f"{table.path} numbers its rows 1 to {count}, and the images begin at 0: number the rows from 0, or if "
                "row 0 was dropped, remove its image"
            )
        return
    extra = sorted(image for image in images if image >= count)
    if extra and not allow_extra_images:
        rows = f"its rows are 0 to {count - 1}" if count else "it has no rows"
        raise UserError(
            f"images that have no row in {table.path}: {len(extra)}, first {extra[0]}.jpg ({rows}). If rows were "
            "deleted, those after them have other rows' images: get the file anew, or number its rows in a first "
            "column without a name. If only the images are too many: --allow_extra_images True"
        )
    # Rows that have come in unnoticed are as many as lack an image at the end
    doubt = table.doubt
    if table.repeated and len(table.repeated) == count - 1 - last_image:
        doubt = doubt or f"line {table.repeated[0]} repeats an earlier row"
    if doubt and images and last_image != count - 1:
        raise UserError(
            f"{table.path}: {doubt}. If this added or removed a row, those after it have other rows' images, and the "
            f"last row is {count - 1} where the last image is {last_image}: mend that line, or number the rows in a "
            "first column without a name"
        )
