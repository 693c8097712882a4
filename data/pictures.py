"""Pictures with captions: their numbers, which can be used, and the reason why each other one is left out.

data.captions and data.metadata read them from the two layouts. A picture is named by its path in the data folder, and
all that follows from its name, its number, its split and its place in the order, does not depend on what else is there.
"""

from __future__ import annotations

import collections
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import config
from common.errors import UserError
from data.book import Book
from data.goodreads import book_key, normalise, split_of, uniform_hash, work_key
from data.image_index import Entry
from data.table import DroppedRow

NUMBERS = 10**15  # a number is less; that two of 54,000 pictures get the same one has a chance of 1 in 700,000
MAX_UNPAIRED = 0.1  # fraction of pictures without a usable caption, beyond which it is an error; so for orphans
FEW_UNPAIRED, FEW_ORPHANS = 1, 3  # numbers that never are: orphans are most often README.txt and LICENSE.txt
NUMBERS_HEADER = ("row", "file")
NOT_A_NAME = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # what a line of a CSV file in UTF-8 can't hold


@dataclass(frozen=True)
class Picture:
    """A picture file, and what is said of it."""

    file: str  # path in the data folder, with / between its parts
    caption: str = ""  # on one line
    problem: str = ""  # why it has no usable caption; '' if it has one
    title: str = ""
    authors: tuple[str, ...] = ()
    genres: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collection:
    """What was read from a data folder."""

    pictures: list[Picture]
    orphans: list[tuple[str, str]] = field(default_factory=list)  # (what has no picture, why), as ("a.txt", "...")
    notes: list[str] = field(default_factory=list)  # lines to print when training starts


def number_of(file: str) -> int:
    """The number of a picture: a hash of its path, in which ways of writing the same letters (NFC, NFD) are one."""
    return uniform_hash("picture", unicodedata.normalize("NFC", file)) % NUMBERS


def quote(names: Iterable[str], most: int = 3) -> str:
    """The first of these names, for a message: "'a.jpg', 'b.jpg' and 5 more"."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def require_captions(root: pathlib.Path, collection: Collection, options: config.DataOptions) -> None:
    """UserError if more than a few pictures have no usable caption, or captions no picture, and --allow_unpaired is not
    given: most likely files are missing or were renamed."""
    if options.allow_unpaired:
        return
    total = len(collection.pictures)
    without = [picture for picture in collection.pictures if picture.problem]
    accept = "; to leave them out: --allow_unpaired True"
    if len(without) > max(FEW_UNPAIRED, MAX_UNPAIRED * total):
        counts = collections.Counter(picture.problem.partition(":")[0] for picture in without).most_common()
        raise UserError(
            f"{len(without)} of the {total} pictures in {root} have no usable caption "
            f"({', '.join(f'{kind} {count}' for kind, count in counts)}): "
            f"{quote(picture.file for picture in without)}{accept}"
        )
    if len(collection.orphans) > max(FEW_ORPHANS, MAX_UNPAIRED * total):
        raise UserError(
            f"{len(collection.orphans)} captions in {root} have no picture: "
            f"{quote(name for name, _ in collection.orphans)}{accept}"
        )


def split_rule(collection: Collection, options: config.DataOptions) -> tuple[dict[str, str], str]:
    """({first folder of a path: split} where folders decide it, a description of the rule).

    The folders train/ and test/ decide if both have pictures.
    """
    folders = {picture.file.split("/")[0] for picture in collection.pictures if "/" in picture.file}
    by_hash = "title and first author" if any(picture.title for picture in collection.pictures) else "file name"
    rule = f"by {by_hash}, --test_fraction {options.test_fraction}"
    if not {"train", "test"} <= folders:
        return {}, rule
    outside = any(picture.file.split("/")[0] not in ("train", "test") for picture in collection.pictures)
    return dict(train="train", test="test"), "by the folders train and test" + (f", others {rule}" if outside else "")


def select_books(
    root: pathlib.Path,
    collection: Collection,
    entries: Mapping[str, Entry],
    split_of_folder: Mapping[str, str],
    options: config.DataOptions,
) -> tuple[list[Book], list[DroppedRow]]:
    """(usable pictures in their stable order, what is left out in the order of names).

    entries: {path: image_index.Entry}. Of several files that show the same picture, saved anew or not, the first is
    kept if all have one caption; if they have several, or are of several books, none: nobody can tell which is right.
    UserError if two pictures have one number.
    """
    file_of: dict[int, str] = {}
    same = collections.defaultdict(list)  # {Entry.picture: the pictures with a caption that show it}
    for picture in collection.pictures:
        other = file_of.setdefault(number_of(picture.file), picture.file)
        if other != picture.file:
            raise UserError(f"{root}: {other!a} and {picture.file!a} come to one number: rename one of them")
        if not picture.problem and picture.file in entries and entries[picture.file].picture:
            same[entries[picture.file].picture].append(picture)

    kept, dropped = [], [DroppedRow(-1, reason.partition(":")[0], reason, name) for name, reason in collection.orphans]
    for number, picture in zip(file_of, collection.pictures, strict=True):
        entry = entries.get(picture.file)
        reason = why_not(picture, entry, same[entry.picture] if entry else [])
        if reason or entry is None:
            kind = ": ".join(reason.split(": ")[:2]) if reason.startswith("image") else reason.partition(":")[0]
            dropped.append(DroppedRow(number, kind, reason, picture.file))
            continue
        key = work_key(picture.title, picture.authors, picture.file)
        book = Book(
            number,
            picture.title,
            picture.authors,
            picture.genres,
            image=f"{root}/{picture.file}",
            content=entry.content,
            width=entry.width,
            height=entry.height,
            split=split_of_folder.get(picture.file.split("/")[0]) or split_of(key, options.test_fraction),
            caption=picture.caption,
            file=picture.file,
        )
        kept.append((uniform_hash("order", key, str(number)), number, book))
    return [book for _, _, book in sorted(kept, key=lambda one: one[:2])], sorted(dropped, key=lambda row: row.file)


def why_not(picture: Picture, entry: Entry | None, same: list[Picture]) -> str:
    """Why a picture is left out; '' if it is not. same: all that show the same, itself too, if it has a caption."""
    if picture.problem:
        return picture.problem
    if entry is None:
        return "name: has control characters or is not UTF-8"
    if entry.problem:
        return f"image: {entry.problem}"
    if len(same) > 1 and len(set(map(key_of_caption, same))) > 1:
        what = "books" if any(other.title for other in same) else "captions"
        return f"picture with several {what}: {quote(other.file for other in same)}"
    if same and picture.file != same[0].file:
        return f"same picture as an earlier one: {same[0].file}"
    return ""


def key_of_caption(picture: Picture) -> str:
    """The same text for pictures that may be one: of editions of one book, or with the same caption."""
    return book_key(picture.title, picture.authors) if picture.title else normalise(picture.caption)
