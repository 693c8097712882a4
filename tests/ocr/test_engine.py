"""Real OCR of covers drawn here, with titles that are known."""

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
from support.lettered_covers import demo, draw, texts

from common.errors import UserError
from data.book import Book
from evaluation.legibility import READ
from ocr import engine, readings
from ocr.engine import read_text, reading_order
from ocr.text_accuracy import accuracy, author_accuracy, title_accuracy


def test_a_drawn_title_is_read_letter_for_letter_and_nothing_is_said(capfd):
    engine.build_engine.cache_clear()
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
    seen, read = [], engine.engine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "engine", lambda: lambda image: seen.append(image) or read(image))
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
    engine.build_engine.cache_clear()
    assert texts(draw((0.1, 0.3, 40, "ALONE"))) == ["ALONE"]


@pytest.fixture
def unread(monkeypatch):
    """As if nothing had been read or imported yet."""
    engine.network_paths()  # imports everything, so that the patch below undoes what a test imports anew
    for name in list(sys.modules):
        if name.split(".")[0] in ("rapidocr", "cv2"):
            monkeypatch.delitem(sys.modules, name)
    for made in (engine.build_engine, engine.engine_hash):
        made.cache_clear()


def refused(tmp_path, match):
    """read_covers says why there is no OCR, in one line, before it makes a file."""
    with pytest.raises(engine.OCRUnavailable, match=match) as caught:
        readings.read_covers([draw((0.1, 0.3, 20, "RAVEN"))], 1, tmp_path / "cache")
    assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_missing_network_is_told(unread, monkeypatch, tmp_path):
    monkeypatch.setitem(engine.NETWORKS, "Det", "nowhere.onnx")
    refused(tmp_path, r"nowhere\.onnx.*pip install")


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime", "cv2"])
def test_a_missing_package_is_told(package, unread, monkeypatch, tmp_path):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(engine, "version", version)
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
        return engine.engine()

    monkeypatch.setattr("rapidocr.main.RapidOCR", build)
    engine.build_engine.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(come, range(8)))
    engine.build_engine.cache_clear()
    assert len(built) == 1 and engines == built * 8


@pytest.mark.script
def test_importing_loads_no_ocr():
    code = (
        "import sys; from ocr import engine, readings; print({'rapidocr', 'onnxruntime', 'cv2'} & sys.modules.keys())"
    )
    root = pathlib.Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert result.stdout.strip() == "set()", result.stderr


def test_the_engine_hash_knows_version_and_networks(monkeypatch, tmp_path):
    def hash_now():
        engine.engine_hash.cache_clear()
        return engine.engine_hash()

    hashes = {hash_now()}
    monkeypatch.setattr(engine, "version", lambda package: "0")
    hashes.add(hash_now())
    (tmp_path / "net").write_bytes(b"other weights")
    monkeypatch.setattr(engine, "network_paths", lambda: {"Det": tmp_path / "net"})
    hashes.add(hash_now())
    monkeypatch.setattr(engine, "READING_VERSION", 99)
    hashes.add(hash_now())
    engine.engine_hash.cache_clear()
    assert len(hashes) == 4
