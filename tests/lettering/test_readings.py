"""The glyph pages of training covers: read once, kept, and drawn where the letters stand."""

import pickle
import re

import accelerate
import numpy as np
import pytest

import config
from common.hashing import content_hash
from data.book import Book
from demo_data import books as demo_books
from demo_data import folder
from lettering import readings
from ocr.engine import Line


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """The books of two demo covers."""
    path, found = tmp_path_factory.mktemp("covers"), []
    for row in (1, 17):
        image, record = folder.draw_row(row)[0], demo_books.book_record(row)
        image.save(path / f"{row}.png")
        authors, content = tuple(record["book_authors"].split("|")), content_hash(path / f"{row}.png")
        found.append(Book(row, record["book_title"], authors, (), "", f"{path}/{row}.png", content, *image.size))
    return found


@pytest.fixture
def read(shelf, tmp_path, monkeypatch):
    """read(books) -> their pages, with OCR as it would read the demo covers; read.calls counts it."""
    calls = []

    def read_text(image):
        calls.append(image.shape)
        (book,) = [book for book in shelf if (book.height, book.width) == image.shape[:2]]
        box = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.2), (0.1, 0.2))
        return [Line(book.title.upper(), 0.9, box, 0.2), Line("O", 0.8, box)]

    def pages(books, **options):
        options = config.DatasetOptions(data_root="demo", cache_dir=str(tmp_path), num_workers=0, **options)
        return readings.read_layouts(books, options, accelerate.Accelerator(cpu=True))

    monkeypatch.setattr(readings, "read_text", read_text)
    monkeypatch.setattr(readings, "engine_hash", lambda: "engine")
    pages.calls = calls
    return pages


@pytest.mark.slow
def test_pages_of_real_readings(shelf, tmp_path, capsys):
    options = config.DatasetOptions(data_root="demo", cache_dir=str(tmp_path), num_workers=0)
    pages = readings.read_layouts(shelf, options, accelerate.Accelerator(cpu=True))
    said = capsys.readouterr().out
    assert re.fullmatch(
        r"letters: 0 of 2 covers are in the cache; 2 to read\nletters: 2 read in .*\n"
        r"letters: 2 of 2 covers show their title, 2 an author\n",
        said,
    )
    pages = pickle.loads(pickle.dumps(pages))
    for book in shelf:
        page = pages(book, (128, 192))
        assert page.shape == (192, 128) and page.dtype == np.uint8 and page.max() > 200
        # Nearly all of the page's letters are where the cover has its own
        lettered, bare = (np.asarray(folder.draw_row(book.row, lettering=each)[0], int) for each in (True, False))
        changed = np.abs(lettered - bare).max(2) > 30
        full = pages(book, (book.width, book.height)) > 127
        assert (full & changed).sum() > 0.6 * full.sum()
