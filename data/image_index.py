"""Many image files -> an index of what each was when it was last decoded, and what came of it.

The index of a folder of covers is a CSV in the cache. Only files that changed since are decoded again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tqdm import tqdm

from common.errors import UserError
from common.files import write_text
from data.images import INDEX_VERSION, BadImage, decode_image

MAX_BYTES = 2**28  # of a file
CACHE_HINT = "make room there or choose another folder with --cache_dir"
SAVE_SECONDS = 30  # a killed check loses at most this much


# ---------------------------------------------------------------------------------------------------------------------
# Many files -> index


class Entry(NamedTuple):
    """What is known of one file. `problem` is '' if it can serve; `content` is '' if its bytes were not read."""

    size: int  # bytes
    mtime_ns: int
    content: str = ""  # blake2b of the file's bytes, 128 bits
    width: int = 0  # pixels, upright
    height: int = 0
    problem: str = ""


def check_file(path, size, mtime_ns):
    """Entry of one file, fully decoded. Whatever is wrong with the file becomes the entry's problem."""
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


def check_folder(folder, names, index_path, workers):
    """Check those of the named files in `folder` that are new or changed. Returns {name: Entry}, {other .jpg names}.

    Names without a file are left out. The index is written every SAVE_SECONDS, at the end, and on the way out of any
    exception, so that a check which was stopped goes on where it was.
    """
    try:
        with os.scandir(folder) as files:
            found = {f.name: f.stat() for f in files if f.name.lower().endswith(".jpg") and f.is_file()}
    except OSError as problem:
        raise UserError(f"can't read the folder {folder}: {problem.strerror}") from None
    names = [name for name in names if name in found]
    stamps = {name: (found[name].st_size, found[name].st_mtime_ns) for name in names}
    index = read_index(index_path)
    index = {name: index[name] for name in names if name in index and index[name][:2] == stamps[name]}
    # An entry without content tells of a file that could not be read: that may be over.
    due = [name for name in names if name not in index or not index[name].content]
    if due:
        pool = ThreadPoolExecutor(max(1, workers))  # threads: Pillow decodes outside Python's global lock
        try:
            entries = pool.map(lambda name: check_file(os.path.join(folder, name), *stamps[name]), due)
            saved = time.monotonic()
            for name, entry in zip(due, tqdm(entries, "checking covers", len(due), unit=" covers"), strict=True):
                index[name] = entry
                if time.monotonic() - saved > SAVE_SECONDS:
                    write_index(index_path, index)
                    saved = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
            write_index(index_path, index)
    return index, set(found).difference(names)


def read_index(path):
    """{name: Entry} from the index file; empty if there is none that this version can use."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
            if header != index_header():
                return {}
            return {
                name: Entry(int(size), int(mtime_ns), content, int(width), int(height), problem)
                for name, size, mtime_ns, content, width, height, problem in lines
            }
    except (OSError, ValueError, csv.Error):  # not there or damaged: the files are simply checked again
        return {}


def write_index(path, index):
    write_csv(path, index_header(), ((name, *entry) for name, entry in index.items()))


def index_header():
    return [f"file v{INDEX_VERSION}", *Entry._fields]


def write_csv(path, header, rows):
    """Write a CSV file of the cache in one atomic step. UserError if that can't be done."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue(), CACHE_HINT)
