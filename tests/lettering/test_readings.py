"""The glyph pages of training covers: read once, kept, and drawn where the letters stand."""

import dataclasses
import pickle
import re

import accelerate
import numpy as np
import pytest
from PIL import Image

import config
from common.errors import UserError
from common.hashing import content_hash
from data.book import Book
from demo_data import books as demo_books
from demo_data import folder
from lettering import readings
from ocr.engine import Line, OCRUnavailable

BOX = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.3), (0.1, 0.3))
COLOURS = ("red", "lime", "blue")
TITLES = ("The Lost World", "Moby Dick", "Emma")


def make_book(path, row, title, *authors):
    """The book of an image file."""
    with Image.open(path) as image:
        return Book(row, title, authors, (), "", str(path), content_hash(path), *image.size)


@pytest.fixture
def shelf(tmp_path):
    """Three books, whose covers have a colour each."""
    for colour in COLOURS:
        Image.new("RGB", (64, 96), colour).save(tmp_path / f"{colour}.png")
    pairs = enumerate(zip(COLOURS, TITLES, strict=True))
    return [make_book(tmp_path / f"{colour}.png", row, title, "Ann Lee") for row, (colour, title) in pairs]


@pytest.fixture
def read(tmp_path, monkeypatch):
    """read(books) -> their pages, with OCR that finds title and a false line by the cover's colour, counted in
    read.seen; read.stop_at: the colour at which it is stopped."""

    def read_text(image):
        colour = COLOURS[int(image[0, 0].argmax())]
        if colour == read.stop_at:
            raise KeyboardInterrupt
        read.seen.append(colour)
        return [Line(TITLES[COLOURS.index(colour)].upper(), 0.9, BOX, 0.2), Line("O", 0.8, BOX)]

    def read(books, workers=0):
        options = config.DatasetOptions(data_root="demo", cache_dir=str(tmp_path / "cache"), num_workers=workers)
        return readings.read_layouts(books, options, accelerate.Accelerator(cpu=True))

    monkeypatch.setattr(readings, "read_text", read_text)
    monkeypatch.setattr(readings, "engine_hash", lambda: "engine")
    read.seen, read.stop_at = [], ""
    return read


@pytest.mark.slow
def test_letters_of_the_pages_are_where_the_covers_have_them(tmp_path, capsys):
    shelf = []
    for row in (1, 17):
        record = demo_books.book_record(row)
        folder.draw_row(row)[0].save(tmp_path / f"{row}.png")
        shelf.append(make_book(tmp_path / f"{row}.png", row, record["book_title"], *record["book_authors"].split("|")))
    options = config.DatasetOptions(data_root="demo", cache_dir=str(tmp_path), num_workers=0)
    pages = readings.read_layouts(shelf, options, accelerate.Accelerator(cpu=True))
    said = capsys.readouterr().out
    assert re.fullmatch(
        r"letters: 0 of 2 covers are in the cache; 2 to read\nletters: 2 read in .*\n"
        r"letters: 2 of 2 covers show their title, 2 an author\n",
        said,
    )
    for book in shelf:
        lettered, bare = (np.asarray(folder.draw_row(book.row, lettering=each)[0], int) for each in (True, False))
        changed = np.abs(lettered - bare).max(2) > 30
        letters = pages(book, (book.width, book.height)) > 127
        overlap = (letters & changed).sum() / (letters | changed).sum()
        elsewhere = (letters & np.roll(changed, 40, axis=0)).sum() / (letters | changed).sum()
        assert overlap > 0.4 > 2 * elsewhere  # another font, in the same places


def test_each_cover_is_read_once_and_pages_are_drawn_from_its_own_lines(shelf, read, capsys):
    again = dataclasses.replace(shelf[0], row=7)  # another row with the same picture
    pages = pickle.loads(pickle.dumps(read([*shelf, again], workers=2)))
    assert sorted(read.seen) == sorted(COLOURS)
    assert "letters: 0 of 3 covers are in the cache; 3 to read\n" in capsys.readouterr().out
    for book, size in zip(shelf, [(64, 96), (48, 96), (96, 96)], strict=True):
        page = pages(book, size)
        assert page.shape == size[::-1] and page.dtype == np.uint8 and page.max() > 200
        assert not page[size[1] // 3 + 1 :].any()
    assert (pages(again, (64, 96)) == pages(shelf[0], (64, 96))).all()
    assert [line.text for line in pages.layout(shelf[1], (64, 96)).lines] == ["MOBY DICK"]
    with pytest.raises(KeyError):
        pages(dataclasses.replace(shelf[0], row=8), (64, 96))

    corrected = [dataclasses.replace(shelf[0], title="The Löst World"), *shelf[1:]]
    pages = read(corrected)
    assert len(read.seen) == 3
    assert [line.text for line in pages.layout(corrected[0], (64, 96)).lines] == ["THE LÖST WORLD"]
    said = capsys.readouterr().out
    assert said == "letters: 3 of 3 covers are in the cache\nletters: 3 of 3 covers show their title, 0 an author\n"


def test_what_was_read_is_kept_when_it_is_stopped_or_damaged(shelf, read, capsys):
    read.stop_at = "blue"
    with pytest.raises(KeyboardInterrupt):
        read(shelf)
    read.stop_at = ""
    read(shelf)
    assert read.seen == ["red", "lime", "blue"]
    assert "letters: 2 of 3 covers are in the cache; 1 to read\n" in capsys.readouterr().out

    (path,) = (readings.pathlib.Path(shelf[0].image).parent / "cache" / "letters").iterdir()
    path.write_bytes(path.read_bytes().replace(b"MOBY", b"MOBI")[:-20])  # a flipped bit, and a torn end
    read(shelf)
    assert read.seen[3:] == ["lime", "blue"]


def test_covers_without_their_title_train_with_a_blank_page(shelf, read, capsys):
    odd = ["!!!", "🚀🚀", "word " * 1000]
    books = [shelf[0], *(dataclasses.replace(shelf[1], row=9 + i, title=title) for i, title in enumerate(odd))]
    books.append(dataclasses.replace(shelf[2], title="", authors=()))  # as of a picture with a caption alone
    pages = read(books)
    line = "letters: 1 of 5 covers show their title, 0 an author; 4 show neither and train with a blank page\n"
    assert line in capsys.readouterr().out
    assert pages(books[0], (64, 96)).any() and not any(pages(book, (64, 96)).any() for book in books[1:])


def test_mistakes_are_told_in_one_line(shelf, read, monkeypatch):
    def refused(books, match):
        with pytest.raises(UserError, match=match) as caught:
            read(books)
        assert "\n" not in str(caught.value)

    refused(
        [dataclasses.replace(book, title="Another One", authors=()) for book in shelf],
        "title on none of the 3.*start from a model without",
    )
    refused([dataclasses.replace(book, title="") for book in shelf], "captions alone.*start from a model without")
    changed = dataclasses.replace(shelf[0], content="0" * 32)
    refused([changed, *shelf], r"row 0: .*red\.png was changed just now")
    gone = dataclasses.replace(shelf[0], content="1" * 32, image=f"{shelf[0].image}.gone")
    refused([gone, *shelf], r"row 0: can't read .*gone: No such file")
    readings.pathlib.Path(gone.image).write_bytes(b"GIF89a")
    refused([gone, *shelf], r"row 0: .*gone: ")
    monkeypatch.setattr(readings, "require_free_space", refuse_space)
    refused([dataclasses.replace(shelf[0], content="2" * 32), *shelf], "what is read on 1 covers.*--cache_dir")

    def no_ocr():
        raise OCRUnavailable("covers can't be read by OCR: no rapidocr")

    monkeypatch.setattr(readings, "engine_hash", no_ocr)
    refused(shelf, "no rapidocr")


def refuse_space(folder, needed, what, hint):
    assert folder.is_dir() and needed > 0
    raise UserError(f"{what}: {hint}")
