"""The image index: what each cover file of a folder was when it was last decoded, and whether it can be used.

The index is a CSV file in the cache folder. Only files that are new or changed since are decoded again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pathlib
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tqdm import tqdm

from common.errors import UserError
from common.files import write_text
from data.images import INDEX_VERSION, BadImage, decode_image

MAX_BYTES = 2**28  # of a file
CACHE_HINT = "free some space there or choose another folder with --cache_dir"
SAVE_SECONDS = 30  # a check that is killed loses at most this much work


class Entry(NamedTuple):
    """The index entry of one file; a line of the CSV file has these fields in this order."""

    size: int  # bytes
    mtime_ns: int
    content: str = ""  # hash (hex) of the file's bytes: blake2b, 128 bits; '' if it could not be read
    width: int = 0  # pixels, after EXIF rotation
    height: int = 0
    problem: str = ""  # why the file cannot be used; '' if it can


def check_folder(
    folder: pathlib.Path, names: Sequence[str], index_path: pathlib.Path, workers: int
) -> tuple[dict[str, Entry], set[str]]:
    """Brings the index of the named files in `folder` up to date: ({name: Entry}, names of other .jpg files).

    Names without a file get no entry. Files that are new or changed are decoded, in `workers` threads. The index is
    saved every SAVE_SECONDS, at the end and when an exception ends the check, so that an interrupted check continues
    where it stopped. UserError if the folder cannot be read or the index not be written.
    """
    stamps = list_images(folder)
    saved = read_index(index_path)
    existing = [name for name in names if name in stamps]
    index = {name: saved[name] for name in existing if name in saved and saved[name][:2] == stamps[name]}
    # An entry without content is of a file that could not be read; the cause may be gone
    outdated = [name for name in existing if name not in index or not index[name].content]
    if outdated:
        pool = ThreadPoolExecutor(max(1, workers))  # threads suffice: Pillow releases the GIL while decoding
        try:
            entries = pool.map(lambda name: check_file(os.path.join(folder, name), *stamps[name]), outdated)
            last_save = time.monotonic()
            bar = tqdm(entries, "checking covers", len(outdated), unit=" covers")
            for name, entry in zip(outdated, bar, strict=True):
                index[name] = entry
                if time.monotonic() - last_save > SAVE_SECONDS:
                    write_index(index_path, index)
                    last_save = time.monotonic()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error, a read that hangs is not waited for
            write_index(index_path, index)
    return index, set(stamps).difference(existing)


def image_numbers(folder: pathlib.Path) -> set[int]:
    """The numbers that image files of a folder have as their names. UserError if it cannot be read."""
    try:
        names = os.listdir(folder)
    except OSError as problem:
        raise UserError(f"can't read the folder {folder}: {problem.strerror}") from None
    return {int(name[:-4]) for name in names if re.fullmatch(r"[0-9]{1,18}\.jpg", name, re.IGNORECASE)}


def list_images(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """{name: (size in bytes, mtime in ns)} of the .jpg files in a folder. UserError if it cannot be read."""
    try:
        with os.scandir(folder) as files:
            found = {f.name: f.stat() for f in files if f.name.lower().endswith(".jpg") and f.is_file()}
    except OSError as problem:
        raise UserError(f"can't read the folder {folder}: {problem.strerror}") from None
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def check_file(path: str | pathlib.Path, size: int, mtime_ns: int) -> Entry:
    """Decodes one file completely. Whatever is wrong with it becomes the entry's `problem`."""
    if size > MAX_BYTES:
        return Entry(size, mtime_ns, problem=f"too large: {size / 1e6:.0f} MB")
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as problem:
        return Entry(size, mtime_ns, problem=f"can't be read: {problem.strerror}")
    content = hashlib.blake2b(data, digest_size=16).hexdigest()
    try:
        image = decode_image(data)
    except BadImage as problem:
        return Entry(size, mtime_ns, content, problem=str(problem))
    return Entry(size, mtime_ns, content, *image.size)


def read_index(path: pathlib.Path) -> dict[str, Entry]:
    """{name: Entry} from the index file; empty if there is none that this version of the code can use."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
            if header != index_header():
                return {}
            return {
                name: Entry(int(size), int(mtime_ns), content, int(width), int(height), problem)
                for name, size, mtime_ns, content, width, height, problem in lines
            }
    except (OSError, ValueError, csv.Error):  # missing or damaged: all files are checked again
        return {}


def write_index(path: pathlib.Path, index: dict[str, Entry]) -> None:
    """Writes the index file atomically. UserError if it cannot be written."""
    write_csv(path, index_header(), ((name, *entry) for name, entry in index.items()))


def index_header() -> list[str]:
    return [f"file v{INDEX_VERSION}", *Entry._fields]


def write_csv(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a CSV file of the cache folder atomically. UserError if it cannot be written."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue(), CACHE_HINT)
