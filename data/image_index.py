"""The image index: what each cover file of a folder was when it was last decoded, and whether it can be used.

The index is a CSV file in the cache folder; each line has a checksum. Only files that are new or changed since, and
those whose line is damaged, are decoded again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tqdm import tqdm

from common.files import remove_dead_temporary_files, write_text
from data.image_files import ImageFiles, Stamp, find_images
from data.images import INDEX_VERSION, BadImage, decode_image
from data.near_duplicates import same_pictures, signature

MAX_BYTES = 2**28  # of a file
CACHE_HINT = "free some space there or choose another folder with --cache_dir"
SAVE_SECONDS = 30  # a check that is killed loses at most this much work


class Entry(NamedTuple):
    """The index entry of one file; a line of the CSV file has these fields in this order, and then a checksum."""

    file: str  # path relative to the folder
    size: int  # bytes
    mtime_ns: int
    content: str = ""  # hash (hex) of the file's bytes: blake2b, 128 bits; '' if it could not be read
    width: int = 0  # pixels, after EXIF rotation
    height: int = 0
    problem: str = ""  # why the file cannot be used; '' if it can
    signature: str = ""  # see data.near_duplicates; '' if it cannot be used
    picture: str = ""  # the same text for all files that show the same picture: the content of one of them

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.size, self.mtime_ns)


def check_folder(
    folder: pathlib.Path, names: Sequence[str], index_path: pathlib.Path, workers: int
) -> tuple[dict[str, Entry], set[str]]:
    """Brings the index of the files for `names` in `folder` up to date: ({name: Entry}, other image files).

    Which file belongs to a name, see data.image_files. Names without a file get no entry. Files that are new or changed
    are decoded, in `workers` threads. The index is saved every SAVE_SECONDS, at the end and when an exception ends the
    check, so that an interrupted check continues where it stopped. UserError if the folder cannot be read or the index
    not be written.
    """
    return check_images(folder, find_images(folder, names), index_path, workers)


def check_images(
    folder: pathlib.Path, images: ImageFiles, index_path: pathlib.Path, workers: int
) -> tuple[dict[str, Entry], set[str]]:
    """check_folder of files that were found already."""
    remove_dead_temporary_files(index_path.parent)
    saved = read_index(index_path)
    files = list(images.chosen.values())
    index = {file: saved[file] for file in files if file in saved and saved[file].stamp == images.stamps[file]}
    # An entry without content is of a file that could not be read; the cause may be gone
    outdated = [file for file in files if file not in index or not index[file].content]
    if outdated:
        check_files(folder, {file: images.stamps[file] for file in outdated}, index, index_path, workers)
    if outdated or index.keys() != saved.keys() or any(e.signature and not e.picture for e in index.values()):
        index = with_pictures(folder, {file: index[file] for file in files})
        write_index(index_path, index)
    entries = {name: index[file] for name, file in images.chosen.items()}
    for name, several in images.ambiguous.items():
        entries[name] = Entry(
            several[0], 0, 0, problem=f"several files: {', '.join(several)}; keep one, or name it {name}"
        )
    used = {*files, *(file for several in images.ambiguous.values() for file in several)}
    return entries, images.stamps.keys() - used


def check_files(
    folder: pathlib.Path,
    stamps: Mapping[str, Stamp],
    index: dict[str, Entry],
    index_path: pathlib.Path,
    workers: int,
) -> None:
    """Decodes these files, puts their entries into `index`, and saves it on the way and at the end."""
    pool = ThreadPoolExecutor(max(1, workers))  # threads suffice: Pillow releases the GIL while decoding
    try:
        entries = pool.map(lambda file: check_file(os.path.join(folder, file), file, stamps[file]), stamps)
        last_save = time.monotonic()
        for entry in tqdm(entries, "checking covers", len(stamps), unit=" covers"):
            index[entry.file] = entry
            if time.monotonic() - last_save > SAVE_SECONDS:
                write_index(index_path, index)
                last_save = time.monotonic()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after an error, a read that hangs is not waited for
        write_index(index_path, index)


def check_file(path: str | pathlib.Path, file: str, stamp: Stamp) -> Entry:
    """Decodes one file completely. Whatever is wrong with it becomes the entry's `problem`."""
    if stamp.size > MAX_BYTES:
        return Entry(file, *stamp, problem=f"too large: {stamp.size / 1e6:.0f} MB")
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as problem:
        return Entry(file, *stamp, problem=f"can't be read: {problem.strerror}")
    content = hashlib.blake2b(data, digest_size=16).hexdigest()
    try:
        image = decode_image(data)
    except BadImage as problem:
        return Entry(file, *stamp, content, problem=str(problem))
    return Entry(file, *stamp, content, *image.size, signature=signature(image))


def with_pictures(folder: pathlib.Path, index: Mapping[str, Entry]) -> dict[str, Entry]:
    """The index with the `picture` of each usable file."""
    signatures = {entry.content: entry.signature for entry in index.values() if entry.signature}
    paths = {entry.content: folder / entry.file for entry in index.values()}
    pictures = same_pictures(signatures, paths)
    return {file: entry._replace(picture=pictures.get(entry.content, "")) for file, entry in index.items()}


def read_index(path: pathlib.Path) -> dict[str, Entry]:
    """{file: Entry} from the sound lines of the index file; empty if there is none that this code can use."""
    index = {}
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            if next(csv.reader(file), None) != index_header():
                return {}
            for line in file:  # one by one: a damaged one must not swallow the next
                *fields, line_checksum = next(csv.reader([line]), [""])
                if line_checksum == checksum(fields):
                    name, size, mtime_ns, content, width, height, *texts = fields
                    index[name] = Entry(name, int(size), int(mtime_ns), content, int(width), int(height), *texts)
    except (OSError, csv.Error):  # missing or damaged: what was not read is checked again
        pass
    return index


def write_index(path: pathlib.Path, index: dict[str, Entry]) -> None:
    """Writes the index file atomically. UserError if it cannot be written."""
    write_csv(path, index_header(), ((*entry, checksum(entry)) for entry in index.values()))


def index_header() -> list[str]:
    return [f"file v{INDEX_VERSION}", *Entry._fields[1:], "checksum"]


def checksum(fields: Iterable[object]) -> str:
    """Checksum (8 hex digits) of the fields of a line."""
    return hashlib.blake2b("\0".join(map(str, fields)).encode(), digest_size=4).hexdigest()


def write_csv(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a CSV file of the cache folder atomically. UserError if it cannot be written."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue(), CACHE_HINT)
