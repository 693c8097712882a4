"""The demo data folder: draws and writes invented books in the Goodreads layout, always with the same bytes.

    folder = ensure_demo_data(cache_dir)      # draws them once, in seconds

Row i is a function of (SEED, i) alone, so any number of workers writes the same files, and the first rows of a large
set are those of a small one. Each block of ten rows has the ten genres in random order. Ratings are empty (0).
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
from PIL import Image, features
from tqdm import tqdm

from common.errors import UserError
from demo_data import jacket
from demo_data.books import COLUMNS, NUM_BOOKS, book_record, genre_of, row_rng

JPEG = {"quality": 92, "subsampling": 0, "optimize": False, "progressive": False}


def draw_row(row: int, lettering: bool = True) -> tuple[Image.Image, tuple[jacket.Box, jacket.Box]]:
    """The row's cover, an RGB image, and the boxes of its title and authors (see jacket.draw_cover)."""
    record = book_record(row)
    authors = record["book_authors"].split("|")
    return jacket.draw_cover(genre_of(row), record["book_title"], authors, row_rng(row, "cover"), lettering)


def save_cover(folder: pathlib.Path, row: int) -> None:
    """Draws a row's cover and saves it under the data folder `folder`."""
    draw_row(row)[0].save(folder / "images" / "images" / f"{row}.jpg", **JPEG)


def fingerprint(count: int) -> str:
    """Hash (12 hex digits) of all that the files' bytes depend on: number of books, drawing library, drawing code."""
    here = pathlib.Path(__file__).parent
    sources = [*here.glob("*.py"), *(here.parent / "typesetting").glob("*.py")]
    digest = hashlib.sha256(f"{count} {PIL.__version__}".encode())
    for library in ("freetype2", "jpg", "libjpeg_turbo"):
        digest.update(f" {features.version(library)}".encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def write(folder: pathlib.Path, count: int, workers: int) -> None:
    """Writes `count` covers and their table into the new folder `folder`, drawn by `workers` threads."""
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
        table.writerows(book_record(row) for row in range(count))


def clear_leftovers(folder: pathlib.Path) -> None:
    """Removes unfinished copies of `folder` that killed processes left; one younger than an hour may be in use."""
    for unfinished in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - unfinished.stat().st_mtime > 3600:
                shutil.rmtree(unfinished)


def ensure_demo_data(cache_dir: pathlib.Path, count: int = NUM_BOOKS, workers: int = 1) -> pathlib.Path:
    """Path of the demo data folder under cache_dir; draws it if it does not exist.

    count: number of books; workers: threads that draw (the bytes do not depend on them). The folder gets its name only
    when complete, so what a killed process leaves is never used, and of several processes that start at once the first
    to finish wins. UserError if the folder can't be written.
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
                "choose a writable folder with enough free space with --cache_dir"
            ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
