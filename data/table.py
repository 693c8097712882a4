"""Reads book_data.csv: the rows by their numbers, and whether these can be the numbers of the images.

A row has no other tie to its image than the number. Where a column has the numbers they are certain. Where rows are
counted, one row too many or too few gives all rows after it another row's image, so that is refused wherever it shows.
"""

from __future__ import annotations

import itertools
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
PANDAS_LEVEL = re.compile(r"|index|level_\d+|unnamed: \d+(\.\d+)*")  # of the columns of an index, which come first
PANDAS_INDEX = re.compile(r"unnamed: 0(\.\d+)*")  # what pandas calls a column without a name when it reads one
WHOLE_NUMBER = re.compile(r"([0-9]{1,18})(\.0*)?")  # pandas writes 2.0 where a column had gaps
FEW_DAMAGED, MAX_DAMAGED = 3, 0.01  # number and fraction of damaged rows; beyond both the file as a whole is in doubt


@dataclass(frozen=True)
class DroppedRow:
    """A row of book_data.csv that cannot be used, or a picture of a folder of pictures."""

    row: int  # -1: something that has no picture
    kind: str  # of reason, for counting
    reason: str  # in full, for quarantine.csv
    file: str = ""  # of a folder of pictures: what it is about


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
    file = read_csv(path, COLUMNS)
    columns = [find_column(file, name) for name in COLUMNS]
    for row in file.rows:
        names = {column_name(cell) for cell in row.cells if len(cell) < 20}
        if len(names.intersection(COLUMNS)) > 1:  # the joined files may have had other columns, or in another order
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
    """The place of a column that is in the header. UserError if it is there twice."""
    if file.header.count(name) > 1:
        raise UserError(f"{file.path} has the column {name} twice: take one of them out")
    return file.header.index(name)


def read_numbers(file: CsvFile) -> list[int] | None:
    """The row numbers in the column that pandas writes its index to; None if there is none.

    That is a first column without a name or called "index", or one that is called "Unnamed: 0", with whole numbers; an
    index of several levels has several first columns. UserError if only a part of it has whole numbers, if they are not
    distinct, if two such columns differ, or if there is none, but a column that may be meant for one.
    """
    found = None
    levels = len(list(itertools.takewhile(PANDAS_LEVEL.fullmatch, file.header)))
    for column, name in enumerate(file.header):
        if not (PANDAS_INDEX.fullmatch(name) or column < levels):
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
                raise UserError(
                    f"{where} is {number}, as in line {line_of[number]}: take one of the two rows out, or "
                    "if tables were joined, number their rows and images anew"
                )
        if found not in (None, numbers):
            raise UserError(f"{file.path} has two columns of row numbers, and they differ: keep that of the images")
        found = numbers
    if found is None:
        refuse_other_numbers(file)
    return found


def refuse_other_numbers(file: CsvFile) -> None:
    """UserError if a column has the numbers 0, 1, 2 ..., in the first one also 1, 2, 3 ..., and they are out of order.

    The rows were numbered once and moved since. Nobody can tell whether the images were named before or after that.
    """
    count = len(file.rows)
    for column, name in enumerate(file.header):
        cells = (row.cells[column] for row in file.rows)
        numbers = list(
            itertools.takewhile(lambda number: number is not None and number <= count, map(whole_number, cells))
        )
        low = min(numbers, default=0)
        if len(numbers) < max(count, 3) or low > (column == 0) or numbers == sorted(numbers):
            continue
        if set(numbers) == set(range(low, low + count)):
            raise UserError(
                f"{file.path}: the column {name!r} has the numbers {low} to {low + count - 1}, but not in order: if "
                "they are the numbers of the images, make it the first and call it index; if not, take it out"
            )


def whole_number(cell: str) -> int | None:
    """The number, 0 or more, that a cell has, as 7 or 7.0; None if it has something else."""
    match = WHOLE_NUMBER.fullmatch(cell.strip())
    return int(match[1]) if match else None


def require_pairing(table: Table, images: Set[int], allow_extra_images: bool) -> None:
    """UserError if the rows may not be those of the images, which have these numbers.

    A row without an image is nothing unusual. An image without a row is, where rows are counted: a row was deleted.
    Numbers without a gap, as after pandas' reset_index or R's filter, say no more than counting does.
    """
    numbers = table.numbers
    count, last_image = len(numbers), max(images, default=-1)
    first, last = (numbers[0], numbers[-1]) if numbers else (0, -1)
    if table.numbered and first == 1 and last == count not in images:
        if 0 in images:
            raise UserError(
                f"{table.path} numbers its rows 1 to {count}, and the images begin at 0: number the rows from 0, or if "
                "row 0 was dropped, remove its image"
            )
        if last_image == count - 1:
            raise UserError(
                f"{table.path} numbers its rows 1 to {count}, and the last image is {last_image}: number the rows from "
                f"0 as the images are, or if the images are numbered from 1, remove row {count}, which has none"
            )
    extra = sorted(image for image in images if image > last)
    if extra and not allow_extra_images and (not table.numbered or (first < 2 and last - first == count - 1)):
        rows = f"its rows are {first} to {last}" if count else "it has no rows"
        mend = "give its rows back the numbers they had" if table.numbered else "number its rows"
        raise UserError(
            f"images that have no row in {table.path}: {len(extra)}, first {extra[0]}.jpg ({rows}). If rows were "
            f"deleted, those after them have other rows' images: get the file anew, or {mend} in a first "
            "column without a name. If only the images are too many: --allow_extra_images True"
        )
    if table.numbered:
        return
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
