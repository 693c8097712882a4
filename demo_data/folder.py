"""The demo data: invented books with covers drawn by code, in the Goodreads layout, the same bytes every time.

    folder = ensure(cache_dir)      # draws them once, in seconds

Row i is a function of (SEED, i) alone, so any number of workers writes the same files, and the first rows of a large
set are those of a small one. Ten genres take turns in shuffled blocks of ten. Nothing is said about ratings.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import hashlib
import os
import pathlib
import secrets
import shutil
import time

import PIL
from PIL import features
from tqdm import tqdm

from common.errors import UserError
from demo_data import jacket
from demo_data.books import COLUMNS, NUM_BOOKS, book, genre_of, stream

JPEG = {"quality": 92, "subsampling": 0, "optimize": False, "progressive": False}


def draw(row, lettering=True):
    """The row's cover, an RGB image, and the boxes of its title and authors (see jacket.draw_cover)."""
    record = book(row)
    authors = record["book_authors"].split("|")
    return jacket.draw_cover(genre_of(row), record["book_title"], authors, stream(row, "cover"), lettering)


def save_cover(folder, row):
    draw(row)[0].save(folder / "images" / "images" / f"{row}.jpg", **JPEG)


# ---------------------------------------------------------------------------------------------------------------------
# Folder


def fingerprint(count):
    """12 hex digits of all that the files' bytes depend on: this code, the number of books and the drawing library."""
    here = pathlib.Path(__file__).parent
    digest = hashlib.sha256(f"{count} {PIL.__version__}".encode())
    for library in ("freetype2", "jpg", "libjpeg_turbo"):
        digest.update(f" {features.version(library)}".encode())
    for source in sorted(here.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def write(folder, count, workers):
    """Draw `count` covers and their table into the new folder `folder`."""
    (folder / "images" / "images").mkdir(parents=True)
    pool = concurrent.futures.ThreadPoolExecutor(max(1, workers))
    try:
        jobs = pool.map(save_cover, [folder] * count, range(count))
        for _ in tqdm(jobs, total=count, desc="drawing demo covers", unit="cover"):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error the rest need not be drawn
    with open(folder / "book_data.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(book(row) for row in range(count))


def clear_leftovers(folder):
    """Remove what killed processes left of `folder` an hour ago or more; younger ones may be in the making."""
    for unfinished in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - unfinished.stat().st_mtime > 3600:
                shutil.rmtree(unfinished)


def ensure(cache_dir: pathlib.Path, count: int = NUM_BOOKS, workers: int = 1) -> pathlib.Path:
    """Path of the demo data folder below cache_dir, drawn when it is not there yet.

    count: number of books; workers: threads that draw (they change the time, not the bytes). The folder gets its name
    only when it is complete, so what a killed process leaves behind never counts, and of several processes that start
    at once the first to finish wins. UserError if the folder can't be written.
    """
    folder = pathlib.Path(cache_dir) / f"demo-{count}-{fingerprint(count)}"
    if os.path.isdir(folder):
        return folder
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        clear_leftovers(folder)
        write(unfinished, count, workers)
        os.rename(unfinished, folder)
    except OSError as problem:
        if not os.path.isdir(folder):  # else another process was faster, and its folder has the same bytes
            raise UserError(
                f"can't draw the demo data in {cache_dir}: {problem.strerror or problem}; "
                "choose a folder that can be written, and has room, with --cache_dir"
            ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
