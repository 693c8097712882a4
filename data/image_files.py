"""Finds the image files of rows in a folder: 8.jpg for row 8, or 8.JPG, 8.png, 00008.jpg where only one fits."""

from __future__ import annotations

import collections
import os
import pathlib
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2")
NUMBERED = re.compile(f"([0-9]{{1,18}})({'|'.join(map(re.escape, SUFFIXES))})", re.IGNORECASE)
UNREADABLE_SIZE = -1


class Stamp(NamedTuple):
    """What tells that a file is still the same."""

    size: int  # bytes; UNREADABLE_SIZE if even that can't be read
    mtime_ns: int


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder; each is a path relative to it."""

    chosen: dict[str, str]  # {name that was looked for: its file}
    ambiguous: dict[str, list[str]]  # {name that was looked for: its files, where several fit}
    stamps: dict[str, Stamp]  # of all image files


def find_images(folder: pathlib.Path, names: Sequence[str]) -> ImageFiles:
    """The files for names like 8.jpg: the one of just this name, else of the same number with an image's suffix.

    If the folder has no numbered images but one folder, those in there are taken. UserError if it cannot be read.
    """
    stamps, folders = list_images(folder)
    if len(folders) == 1 and not any(map(NUMBERED.fullmatch, stamps)):
        stamps |= {f"{folders[0]}/{name}": stamp for name, stamp in list_images(folder / folders[0])[0].items()}
    by_number = collections.defaultdict(list)
    for file in sorted(stamps):
        if found := NUMBERED.fullmatch(file.rpartition("/")[2]):
            by_number[int(found[1])].append(file)
    chosen, ambiguous = {}, {}
    for name in names:
        found = NUMBERED.fullmatch(name)
        files = [name] if name in stamps else by_number.get(int(found[1]), []) if found else []
        if len(files) == 1:
            chosen[name] = files[0]
        elif files:
            ambiguous[name] = files
    return ImageFiles(chosen, ambiguous, stamps)


def image_numbers(folder: pathlib.Path) -> set[int]:
    """The numbers that image files of a folder have as their names. UserError if it cannot be read."""
    names = (file.rpartition("/")[2] for file in find_images(folder, []).stamps)
    return {int(found[1]) for name in names if (found := NUMBERED.fullmatch(name))}


def list_images(folder: pathlib.Path) -> tuple[dict[str, Stamp], list[str]]:
    """({name: Stamp} of the image files in a folder, names of its folders). UserError if it cannot be read.

    A link to nowhere counts as a file: reading it says what is wrong. Hidden folders (.x, __MACOSX) do not count.
    """
    files, folders = {}, []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_image = entry.name.lower().endswith(SUFFIXES)
                try:
                    status = entry.stat()
                except OSError:
                    if is_image:
                        files[entry.name] = Stamp(UNREADABLE_SIZE, 0)
                    continue
                if stat.S_ISDIR(status.st_mode) and not entry.name.startswith((".", "__")):
                    folders.append(entry.name)
                elif is_image and stat.S_ISREG(status.st_mode):
                    files[entry.name] = Stamp(status.st_size, status.st_mtime_ns)
    except OSError as problem:
        raise UserError(f"can't read the folder {folder}: {problem.strerror}") from None
    return files, sorted(name for name in folders if name.isprintable())


def describe_missing(folder: pathlib.Path, name: str) -> str:
    """What was looked for and what is there, for an error message: "looked for 8.jpg in DIR; it is empty"."""
    found = sorted(os.listdir(folder))
    if not found:
        there = "it is empty"
    elif len(found) == 1:
        there = f"there is only {found[0]!r}"
    else:
        there = f"there are {len(found)} files and folders, like {found[0]!r}"
    return f"looked for {name} in {folder}; {there}"
