"""Real OCR of covers drawn here, with titles that are known; the values; what is kept on disk."""

import json
import logging
import pathlib
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from data.book import Book
from demo_data import books, folder
from evaluation import ocr
from evaluation.ocr import READ, read_text, reading_order
from evaluation.text_accuracy import Line, accuracy, author_accuracy, title_accuracy


def draw(*texts, size=(256, 384), ink="black", paper="beige"):
    """A cover uint8 (H, W, 3) with each (x, y, letter height, text) on it; x, y in shares of the cover."""
    image = Image.new("RGB", size, paper)
    for x, y, height, text in texts:
        place = (x * size[0], y * size[1])
        ImageDraw.Draw(image).text(place, text, fill=ink, font=ImageFont.load_default(height))
    return np.asarray(image)


def demo(row, **kwargs):
    """(cover, its book) of a row of the demo data."""
    record = books.book_record(row)
    book = Book(row, record["book_title"], tuple(record["book_authors"].split("|")))
    return np.asarray(folder.draw_row(row, **kwargs)[0].convert("RGB")), book


def texts(image):
    return [line.text for line in read_text(image)]


# ---------------------------------------------------------------------------------------------------------------------
# OCR


def test_a_drawn_title_is_read_letter_for_letter_and_nothing_is_said(capfd):
    ocr.build_engine.cache_clear()
    image = draw((0.1, 0.1, 34, "The Silver"), (0.1, 0.22, 34, "Lighthouse"), (0.1, 0.85, 20, "MARIAN BLACKWOOD"))
    lines = read_text(image)
    assert [line.text for line in lines] == ["The Silver", "Lighthouse", "MARIAN BLACKWOOD"]
    assert all(0.9 < line.score <= 1 for line in lines)
    book = Book(0, "The Silver Lighthouse", ("Marian Blackwood",))
    assert title_accuracy(book, lines) == author_accuracy(book, lines) == 1
    assert read_text(image) == lines
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("RapidOCR").level >= logging.ERROR


@pytest.mark.parametrize("title", ["<script>alert(1)</script>", "Les Misérables", "1984 & Other Years"])
def test_odd_titles_are_read(title):
    assert accuracy(title, texts(draw((0.05, 0.4, 20, title)))) >= 0.9


@pytest.mark.parametrize("size", [(64, 96), (128, 192), (512, 768)])
def test_a_title_is_read_at_each_size(size):
    height = size[0] // 7
    assert (
        accuracy("Red Harvest", texts(draw((0.1, 0.1, height, "RED"), (0.1, 0.3, height, "HARVEST"), size=size))) == 1
    )


@pytest.mark.slow
def test_demo_covers_are_read_and_without_their_letters_they_are_not():
    pairs = [demo(row) for row in range(8)]
    shares = [title_accuracy(book, read_text(image)) for image, book in pairs]
    assert np.mean(shares) > 0.95
    assert all(author_accuracy(book, read_text(image)) >= READ for image, book in pairs[:2])
    bare = [title_accuracy(book, read_text(demo(book.row, lettering=False)[0])) for _, book in pairs[:4]]
    assert max(bare) < READ / 2


@pytest.mark.slow
def test_blank_and_noise_have_no_title():
    random = np.random.default_rng(0)
    for image in (
        np.full((192, 128, 3), 200, np.uint8),
        random.integers(0, 256, (192, 128, 3), np.uint8),
        random.integers(0, 256, (24, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1),
    ):
        for title in ("The Silver Lighthouse", "Great Expectations"):
            assert accuracy(title, texts(image)) < READ / 2


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 8, 3), (40, 900, 3), (1300, 20, 3)])
def test_any_shape_can_be_read(shape):
    assert read_text(np.full(shape, 90, np.uint8)) == []


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))])
def test_anything_but_uint8_rgb_is_refused(image):
    with pytest.raises(ValueError, match="expected uint8"):
        read_text(image)


def test_colours_are_not_swapped():
    """The engine takes images as OpenCV has them, blue first."""
    seen, engine = [], ocr.engine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ocr, "engine", lambda: lambda image: seen.append(image) or engine(image))
        read_text(np.full((800, 740, 3), (250, 10, 20), np.uint8))
    assert seen[0].shape == (800, 740, 3) and tuple(seen[0][0, 0]) == (20, 10, 250)


def test_lines_come_in_reading_order():
    image = draw(
        (0.55, 0.1, 26, "second"), (0.05, 0.11, 26, "first"), (0.05, 0.8, 26, "fourth"), (0.3, 0.45, 40, "third")
    )
    assert texts(image) == ["first", "second", "third", "fourth"]


def test_reading_order_of_boxes():
    def box(x, y, width, height):
        return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]

    boxes = [box(60, 3, 40, 10), box(0, 40, 100, 30), box(0, 0, 50, 12), box(0, 20, 100, 10)]
    assert reading_order(boxes) == [2, 0, 3, 1]
    tall = box(110, 0, 10, 70)  # along the spine: it joins no line
    assert sorted(reading_order([*boxes, tall])) == [0, 1, 2, 3, 4]
    assert [i for i in reading_order([*boxes, tall]) if i < 4] == [2, 0, 3, 1]


def test_no_network_is_needed(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    ocr.build_engine.cache_clear()
    assert texts(draw((0.1, 0.3, 40, "ALONE"))) == ["ALONE"]


@pytest.fixture
def unread(monkeypatch):
    """As if nothing had been read or imported yet."""
    ocr.network_paths()  # imports everything, so that the patch below undoes what a test imports anew
    for name in list(sys.modules):
        if name.split(".")[0] in ("rapidocr", "cv2"):
            monkeypatch.delitem(sys.modules, name)
    for made in (ocr.build_engine, ocr.engine_hash):
        made.cache_clear()


def refused(tmp_path, match):
    """read_covers says why there is no OCR, in one line, before it makes a file."""
    with pytest.raises(ocr.OCRUnavailable, match=match) as caught:
        ocr.read_covers(some_covers(1), 1, tmp_path / "cache")
    assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_missing_network_is_told(unread, monkeypatch, tmp_path):
    monkeypatch.setitem(ocr.NETWORKS, "Det", "nowhere.onnx")
    refused(tmp_path, r"nowhere\.onnx.*pip install")


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime", "cv2"])
def test_a_missing_package_is_told(package, unread, monkeypatch, tmp_path):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(ocr, "version", version)
    refused(tmp_path, rf"{package}.*pip install -r requirements\.txt")


def test_a_missing_library_of_the_system_is_told(unread, monkeypatch, tmp_path):
    """OpenCV as it is where nothing draws on a screen."""
    problem = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({problem!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    refused(tmp_path, r"libGL\.so\.1: cannot open.*package manager")


def test_threads_that_come_at_once_share_one_engine(monkeypatch):
    built, gate = [], threading.Barrier(8)

    def build(params):
        time.sleep(0.2)  # long enough for the others to come by
        built.append(object())
        return built[-1]

    def come(_):
        gate.wait()
        return ocr.engine()

    monkeypatch.setattr("rapidocr.main.RapidOCR", build)
    ocr.build_engine.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(come, range(8)))
    ocr.build_engine.cache_clear()
    assert len(built) == 1 and engines == built * 8


@pytest.mark.script
def test_importing_loads_no_ocr():
    code = "import sys; from evaluation import ocr; print({'rapidocr', 'onnxruntime', 'cv2'} & sys.modules.keys())"
    root = pathlib.Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert result.stdout.strip() == "set()", result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Values


def lines(*texts):
    return [Line(text, 1.0) for text in texts]


def test_values():
    books = [Book(0, "abcde", ("Ann Lee",)), Book(1, "abcde"), Book(2, "vwxyz", ("Bo Ray",)), Book(3, "?", ("Bo Ray",))]
    readings = [lines("abcde", "Ann Lee"), lines("abcd"), lines("vwx"), lines("Bo Ray")]
    values = ocr.legibility(readings, books)
    assert list(values) == ["title_accuracy", "titles_read", "author_accuracy", "authors_read"]
    title = values["title_accuracy"]
    assert title.value == pytest.approx((1 + 0.8 + 0.6) / 3) and title.n == 3
    assert title.error == pytest.approx(0.2 / np.sqrt(3))
    assert title.better == "higher" and title.real is None and title.note == "another book's title gets 0.00"
    assert values["author_accuracy"].note == "another book's author gets 0.00"
    assert values["titles_read"].value == pytest.approx(2 / 3)
    assert values["author_accuracy"].value == pytest.approx((1 + 0 + 1) / 3)
    assert values["author_accuracy"].n == values["authors_read"].n == 3
    json.dumps([value.to_json() for value in values.values()], allow_nan=False)

    beside = ocr.legibility(readings[:1], books[:1], real=values)
    assert beside["title_accuracy"].real == title.value and beside["title_accuracy"].error is None
    assert beside["title_accuracy"].note is None  # no other title to compare with
    assert beside["authors_read"].value == 1 and 0 < beside["authors_read"].error <= 0.5


def test_chance_is_that_of_the_next_other_title():
    books = [Book(0, "aaaa"), Book(1, "Aaaa"), Book(2, "aabb"), Book(3, "zzzz")]
    values = ocr.legibility([lines("aaaa"), lines("aaaa"), lines("zzzz"), lines("aaaa")], books)
    # against aabb, aabb, zzzz and (around the end) aaaa
    assert values["title_accuracy"].note == f"another book's title gets {(0.5 + 0.5 + 1 + 1) / 4:.2f}"
    assert values["titles_read"].note == "another book's title gets 0.50"


def test_the_error_of_a_share_is_binomial_and_never_nothing():
    books = [Book(i, "abcde") for i in range(1000)]
    half = ocr.legibility([lines("abcde" if i % 2 else "") for i in range(1000)], books)["titles_read"]
    assert half.error == pytest.approx(np.sqrt(0.5 * 0.5 / 1000), rel=1e-3)
    every = ocr.legibility([lines("abcde")] * 1000, books)["titles_read"]
    assert every.value == 1 and 0 < every.error < 1e-3


def test_books_without_authors_have_no_such_value():
    values = ocr.legibility([lines("abc")], [Book(0, "abc")])
    assert list(values) == ["title_accuracy", "titles_read"]
    assert ocr.legibility([], []) == {}
    with pytest.raises(ValueError, match="1 readings of 2 books"):
        ocr.legibility([[]], [Book(0, "a"), Book(1, "b")])


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


@pytest.fixture
def counted(monkeypatch):
    """The covers that OCR reads, counted."""
    calls = []

    def read(image):
        calls.append(image)
        return read_text(image)

    monkeypatch.setattr(ocr, "read_text", read)
    return calls


WORDS = ("RAVEN", "HERON", "MAGPIE", "TERN")


def some_covers(count=3):
    return [draw((0.1, 0.3, 20, WORDS[i]), size=(128, 192)) for i in range(count)]


@pytest.mark.slow
def test_covers_are_read_once(tmp_path, counted, capfd):
    images = some_covers()
    first = ocr.read_covers(iter(images), 3, tmp_path / "new", "reading v1")
    assert [[line.text for line in reading] for reading in first] == [["RAVEN"], ["HERON"], ["MAGPIE"]]
    assert len(counted) == 3
    progress = capfd.readouterr()
    assert progress.out == "" and "reading v1" in progress.err and "3/3" in progress.err
    more = ocr.read_covers([*reversed(images), *some_covers(4)], 7, tmp_path / "new")
    assert len(counted) == 4 and more[:6] == [*reversed(first), *first]
    turned = images[0].reshape(128, 192, 3)  # the same bytes, but another picture
    ocr.read_covers([turned], 1, tmp_path / "new")
    assert len(counted) == 5


@pytest.mark.slow
def test_threads_read_the_same_lines(tmp_path):
    images = [demo(row)[0] for row in range(4)]
    serial = ocr.read_covers(images, 4, tmp_path / "a", workers=0)
    assert ocr.read_covers(images, 4, tmp_path / "b", workers=3) == serial


@pytest.mark.slow
def test_a_stopped_run_loses_nothing_and_damaged_lines_do_not_count(tmp_path, counted):
    images = some_covers()

    def stopped():
        yield images[0]
        yield images[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ocr.read_covers(stopped(), 3, tmp_path, workers=0)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    assert whole.count(b"\n") == len(counted) == 2

    first, second = whole.splitlines(keepends=True)
    path.write_bytes(
        first + b'\xff\n[1]\n{"cover": "0"}\n{"cover": [], "lines": 1}\n' + second[:50]
    )  # killed as it wrote
    readings = ocr.read_covers(images, 3, tmp_path)
    assert len(counted) == 4  # the second and the third
    assert [reading[0].text for reading in readings] == ["RAVEN", "HERON", "MAGPIE"]
    assert ocr.read_covers(images, 3, tmp_path) == readings and len(counted) == 4


@pytest.mark.slow
def test_another_engine_reads_anew(tmp_path, counted, monkeypatch):
    images = some_covers(1)
    ocr.read_covers(images, 1, tmp_path)
    monkeypatch.setattr(ocr, "engine_hash", lambda: "another")
    ocr.read_covers(images, 1, tmp_path)
    assert len(counted) == 2 and len(list(tmp_path.iterdir())) == 2


def test_the_engine_hash_knows_version_and_networks(monkeypatch, tmp_path):
    def hash_now():
        ocr.engine_hash.cache_clear()
        return ocr.engine_hash()

    hashes = {hash_now()}
    monkeypatch.setattr(ocr, "version", lambda package: "0")
    hashes.add(hash_now())
    (tmp_path / "net").write_bytes(b"other weights")
    monkeypatch.setattr(ocr, "network_paths", lambda: {"Det": tmp_path / "net"})
    hashes.add(hash_now())
    monkeypatch.setattr(ocr, "READING_VERSION", 99)
    hashes.add(hash_now())
    ocr.engine_hash.cache_clear()
    assert len(hashes) == 4


def test_a_cached_reading_with_a_changed_letter_is_read_again_and_said(tmp_path, monkeypatch, capsys):
    """Each line has its checksum: one flipped bit would be another letter, and another legibility."""
    cache = tmp_path / "readings.jsonl"
    images = some_covers(3)
    read = iter([[Line("RAVEN", 0.9)], [Line("HERON", 0.95), Line("é\u2028", 1.0)], []])
    monkeypatch.setattr(ocr, "read_text", lambda image: next(read))
    first = ocr.ReadingsCache(cache)
    readings = [first.read(image) for image in images]
    assert [ocr.ReadingsCache(cache).read(image) for image in images] == readings and capsys.readouterr().err == ""

    good = cache.read_bytes()
    lines = good.splitlines(keepends=True)
    old = json.dumps({"cover": "0" * 64, "lines": [["as before", 1.0]]}).encode() + b"\n"
    deep = b"[" * 100_000 + b"\n"
    for damaged in (
        lines[0].replace(b"RAVEN", b"RAVEM"),
        lines[0].replace(b"0.9", b"0.8"),
        lines[0][:-9] + b"\n",
        old,
        deep,
    ):
        cache.write_bytes(b"".join([damaged, *lines[1:]]))
        monkeypatch.setattr(ocr, "read_text", lambda image: [Line("RAVEN", 0.9)])
        again = ocr.ReadingsCache(cache)
        assert "lines damaged or without a checksum, whose covers are read again: 1\n" in capsys.readouterr().err
        assert [again.read(image) for image in images] == readings
        assert sorted(cache.read_bytes().splitlines(keepends=True)) == sorted(lines)
    ocr.ReadingsCache(cache)
    assert capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't cache OCR results.*--cache_dir"):
        ocr.read_covers(some_covers(1), 1, tmp_path / "file" / "cache")
