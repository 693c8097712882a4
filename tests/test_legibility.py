"""Real OCR of covers drawn here, with titles that are known; the measure against rapidfuzz; what is kept on disk."""

import itertools
import json
import logging
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from rapidfuzz.distance import Levenshtein

import demo_data
import legibility
from config import UserError
from legibility import READ, Line, accuracy, normalise, read_text, reading_order
from prompts import Book


def draw(*texts, size=(256, 384), ink="black", paper="beige"):
    """A cover uint8 (H, W, 3) with each (x, y, letter height, text) on it; x, y in shares of the cover."""
    image = Image.new("RGB", size, paper)
    for x, y, height, text in texts:
        place = (x * size[0], y * size[1])
        ImageDraw.Draw(image).text(place, text, fill=ink, font=ImageFont.load_default(height))
    return np.asarray(image)


def demo(row, **kwargs):
    """(cover, its book) of a row of the demo data."""
    record = demo_data.book(row)
    book = Book(row, record["book_title"], tuple(record["book_authors"].split("|")))
    return np.asarray(demo_data.draw(row, **kwargs)[0].convert("RGB")), book


def texts(image):
    return [line.text for line in read_text(image)]


# ---------------------------------------------------------------------------------------------------------------------
# OCR


def test_a_drawn_title_is_read_letter_for_letter_and_nothing_is_said(capfd):
    legibility.engine.cache_clear()
    image = draw((0.1, 0.1, 34, "The Silver"), (0.1, 0.22, 34, "Lighthouse"), (0.1, 0.85, 20, "MARIAN BLACKWOOD"))
    lines = read_text(image)
    assert [line.text for line in lines] == ["The Silver", "Lighthouse", "MARIAN BLACKWOOD"]
    assert all(0.9 < line.score <= 1 for line in lines)
    book = Book(0, "The Silver Lighthouse", ("Marian Blackwood",))
    assert legibility.title_accuracy(book, lines) == legibility.author_accuracy(book, lines) == 1
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


def test_demo_covers_are_read_and_without_their_letters_they_are_not():
    pairs = [demo(row) for row in range(8)]
    shares = [legibility.title_accuracy(book, read_text(image)) for image, book in pairs]
    assert np.mean(shares) > 0.95
    assert all(legibility.author_accuracy(book, read_text(image)) >= READ for image, book in pairs[:2])
    bare = [legibility.title_accuracy(book, read_text(demo(book.row, lettering=False)[0])) for _, book in pairs[:4]]
    assert max(bare) < READ / 2


def test_blank_and_noise_have_no_title():
    random = np.random.default_rng(0)
    for image in (
        np.full((192, 128, 3), 200, np.uint8),
        random.integers(0, 256, (192, 128, 3), np.uint8),
        random.integers(0, 256, (24, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1),
    ):
        for title in ("The Silver Lighthouse", "Great Expectations"):
            assert accuracy(title, texts(image)) < READ / 2


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 8, 3), (40, 900, 3), (1300, 20, 3)])
def test_any_shape_can_be_read(shape):
    assert read_text(np.full(shape, 90, np.uint8)) == []


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))])
def test_anything_but_uint8_rgb_is_refused(image):
    with pytest.raises(ValueError, match="expected uint8"):
        read_text(image)


def test_colours_are_not_swapped():
    """The engine takes images as OpenCV has them, blue first."""
    seen, engine = [], legibility.engine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(legibility, "engine", lambda: lambda image: seen.append(image) or engine(image))
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
    legibility.engine.cache_clear()
    assert texts(draw((0.1, 0.3, 40, "ALONE"))) == ["ALONE"]


def test_a_missing_network_is_told(monkeypatch):
    monkeypatch.setitem(legibility.NETWORKS, "Det", "nowhere.onnx")
    legibility.engine.cache_clear()
    with pytest.raises(UserError, match=r"nowhere\.onnx.*pip install"):
        legibility.engine()


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    legibility.engine.cache_clear()
    with pytest.raises(UserError, match=r"pip install -r requirements\.txt"):
        legibility.engine()


def test_importing_loads_no_ocr():
    code = "import sys, legibility; print([name for name in ('rapidocr', 'onnxruntime', 'cv2') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=demo_data.__file__[:-12])
    assert result.stdout.strip() == "[]", result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# The measure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Great Gatsby", "the great gatsby"),
        ("Les Misérables", "les miserables"),
        ("King Solomon’s “Mines”…", "king solomon s mines"),
        ("Pride & Prejudice", "pride and prejudice"),
        ("R.U.R.", "r u r"),
        ("Lud-in-the-Mist", "lud in the mist"),
        ("The Oﬃce of Ｗａｒ № ²", "the office of war no 2"),
        ("Æsop, Œuvre, Łódź, Straße, Øre", "aesop oeuvre lodz strasse ore"),
        ("snake_case\tand\nlines", "snake case and lines"),
        ("紅樓夢", "紅樓夢"),
        ("Преступление", "преступление"),
        ("채식주의자", "채식주의자"),
        ("?!…", ""),
        ("", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    ("wanted", "lines", "expected"),
    [
        ("The Lost World", ["THE LOST WORLD"], 1),
        ("The Lost World", ["THE", "LOST", "WORLD"], 1),
        ("The Lost World", ["THELOST", "W O R L D"], 1),  # spaces don't count
        ("The Lost World", ["A NOVEL", "The Lost World by A. Conan Doyle", "author of"], 1),
        ("The Lost World", ["THE", "ARTHUR", "LOST", "CONAN DOYLE", "WORLD"], 1),  # interleaved, or two columns
        ("The Lost World", ["THE LAST WORLD"], 11 / 12),
        ("The Lost World", ["THE LOSST WORLD"], 11 / 12),
        ("The Lost World", ["THE WORLD"], 8 / 12),
        ("The Lost World", ["WORLD", "THE LOST"], 7 / 12),  # the wrong way round
        ("The Lost World", [], 0),
        ("The Lost World", ["", "?"], 0),
        ("The Lost World", ["qqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"], 0),
        ("It", ["with it", "It"], 1),
        ("It", ["with grit"], 0),  # a short title isn't found inside of words
        ("We", ["We"], 1),
        ("紅樓夢", ["曹雪芹", "紅樓夢"], 1),
        ("紅樓夢", ["THE STORY OF THE STONE"], 0),
        ("Преступление", ["NPECTYN"], 0),
        ("...", ["..."], None),
        ("", ["anything"], None),
    ],
)
def test_accuracy(wanted, lines, expected):
    assert accuracy(wanted, lines) == (None if expected is None else pytest.approx(expected))


def brute_force(wanted, lines):
    """The same by trying each choice of lines, each first and each last word, with rapidfuzz."""
    wanted, lines = normalise(wanted).replace(" ", ""), [normalise(line).split() for line in lines]
    lines, best = [line for line in lines if line], len(wanted)
    for count in range(1, len(lines) + 1):
        for chosen in itertools.combinations(lines, count):
            for start in range(len(chosen[0])):
                for end in range(len(chosen[-1])):
                    parts = [list(line) for line in chosen]
                    parts[-1] = parts[-1][: end + 1]
                    parts[0] = parts[0][start:]
                    best = min(best, Levenshtein.distance(wanted, "".join(itertools.chain(*parts))))
    return 1 - best / len(wanted)


def test_accuracy_is_the_best_of_all_choices():
    random = np.random.default_rng(1)
    for _ in range(300):
        words = ["".join(random.choice(list("abc"), random.integers(1, 5))) for _ in range(10)]
        lines = [" ".join(random.choice(words, random.integers(1, 4))) for _ in range(random.integers(0, 5))]
        wanted = " ".join(random.choice(words, random.integers(1, 5)))
        assert accuracy(wanted, lines) == pytest.approx(brute_force(wanted, lines)), (wanted, lines)


def test_authors():
    lines = [Line("by KARL MARX", 1.0), Line("& FRIEDRICH ENGELS", 1.0)]
    assert legibility.author_accuracy(Book(0, "", ("Karl Marx", "Friedrich Engels")), lines) == 1
    assert legibility.author_accuracy(Book(0, "", ("Karl Marx", "A. Translator")), lines) == 1  # the first alone
    assert legibility.author_accuracy(Book(0, "", ("Jane Austen", "Karl Marx")), lines) < READ
    assert legibility.author_accuracy(Book(0, ""), lines) is None
    assert legibility.author_accuracy(Book(0, "", ("?",)), lines) is None


# ---------------------------------------------------------------------------------------------------------------------
# Values


def lines(*texts):
    return [Line(text, 1.0) for text in texts]


def test_values():
    books = [Book(0, "abcde", ("Ann Lee",)), Book(1, "abcde"), Book(2, "vwxyz", ("Bo Ray",)), Book(3, "?", ("Bo Ray",))]
    readings = [lines("abcde", "Ann Lee"), lines("abcd"), lines("vwx"), lines("Bo Ray")]
    values = legibility.legibility(readings, books)
    assert list(values) == ["title_accuracy", "titles_read", "author_accuracy", "authors_read"]
    title = values["title_accuracy"]
    assert title["value"] == pytest.approx((1 + 0.8 + 0.6) / 3) and title["n"] == 3
    assert title["error"] == pytest.approx(0.2 / np.sqrt(3))
    assert title["better"] == "higher" and title["real"] is None and title["note"] == "chance 0.00"
    assert values["titles_read"]["value"] == pytest.approx(2 / 3)
    assert values["author_accuracy"]["value"] == pytest.approx((1 + 0 + 1) / 3)
    assert values["author_accuracy"]["n"] == values["authors_read"]["n"] == 3
    json.dumps(values, allow_nan=False)

    beside = legibility.legibility(readings[:1], books[:1], real=values)
    assert beside["title_accuracy"]["real"] == title["value"] and beside["title_accuracy"]["error"] is None
    assert beside["title_accuracy"]["note"] is None  # no other title to compare with
    assert beside["authors_read"]["value"] == 1 and 0 < beside["authors_read"]["error"] <= 0.5


def test_chance_is_that_of_the_next_other_title():
    books = [Book(0, "aaaa"), Book(1, "Aaaa"), Book(2, "aabb"), Book(3, "zzzz")]
    values = legibility.legibility([lines("aaaa"), lines("aaaa"), lines("zzzz"), lines("aaaa")], books)
    # against aabb, aabb, zzzz and (around the end) aaaa
    assert values["title_accuracy"]["note"] == f"chance {(0.5 + 0.5 + 1 + 1) / 4:.2f}"
    assert values["titles_read"]["note"] == "chance 0.50"


def test_the_error_of_a_share_is_binomial_and_never_nothing():
    books = [Book(i, "abcde") for i in range(1000)]
    half = legibility.legibility([lines("abcde" if i % 2 else "") for i in range(1000)], books)["titles_read"]
    assert half["error"] == pytest.approx(np.sqrt(0.5 * 0.5 / 1000), rel=1e-3)
    every = legibility.legibility([lines("abcde")] * 1000, books)["titles_read"]
    assert every["value"] == 1 and 0 < every["error"] < 1e-3


def test_books_without_authors_have_no_such_value():
    values = legibility.legibility([lines("abc")], [Book(0, "abc")])
    assert list(values) == ["title_accuracy", "titles_read"]
    assert legibility.legibility([], []) == {}
    with pytest.raises(ValueError, match="1 readings of 2 books"):
        legibility.legibility([[]], [Book(0, "a"), Book(1, "b")])


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


@pytest.fixture
def counted(monkeypatch):
    """The covers that OCR reads, counted."""
    calls = []

    def read(image):
        calls.append(image)
        return read_text(image)

    monkeypatch.setattr(legibility, "read_text", read)
    return calls


WORDS = ("RAVEN", "HERON", "MAGPIE", "TERN")


def some_covers(count=3):
    return [draw((0.1, 0.3, 20, WORDS[i]), size=(128, 192)) for i in range(count)]


def test_covers_are_read_once(tmp_path, counted, capfd):
    images = some_covers()
    first = legibility.read_covers(iter(images), 3, tmp_path / "new", "reading v1")
    assert [[line.text for line in reading] for reading in first] == [["RAVEN"], ["HERON"], ["MAGPIE"]]
    assert len(counted) == 3
    progress = capfd.readouterr()
    assert progress.out == "" and "reading v1" in progress.err and "3/3" in progress.err
    more = legibility.read_covers([*reversed(images), *some_covers(4)], 7, tmp_path / "new")
    assert len(counted) == 4 and more[:6] == [*reversed(first), *first]
    turned = images[0].reshape(128, 192, 3)  # the same bytes, but another picture
    legibility.read_covers([turned], 1, tmp_path / "new")
    assert len(counted) == 5


def test_threads_read_the_same_lines(tmp_path):
    images = [demo(row)[0] for row in range(4)]
    serial = legibility.read_covers(images, 4, tmp_path / "a", workers=0)
    assert legibility.read_covers(images, 4, tmp_path / "b", workers=3) == serial


def test_a_stopped_run_loses_nothing_and_damaged_lines_do_not_count(tmp_path, counted):
    images = some_covers()

    def stopped():
        yield images[0]
        yield images[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        legibility.read_covers(stopped(), 3, tmp_path, workers=0)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    assert whole.count(b"\n") == len(counted) == 2

    first, second = whole.splitlines(keepends=True)
    path.write_bytes(
        first + b'\xff\n[1]\n{"cover": "0"}\n{"cover": [], "lines": 1}\n' + second[:50]
    )  # killed as it wrote
    readings = legibility.read_covers(images, 3, tmp_path)
    assert len(counted) == 4  # the second and the third
    assert [reading[0].text for reading in readings] == ["RAVEN", "HERON", "MAGPIE"]
    assert legibility.read_covers(images, 3, tmp_path) == readings and len(counted) == 4


def test_another_engine_reads_anew(tmp_path, counted, monkeypatch):
    images = some_covers(1)
    legibility.read_covers(images, 1, tmp_path)
    monkeypatch.setattr(legibility, "engine_hash", lambda: "another")
    legibility.read_covers(images, 1, tmp_path)
    assert len(counted) == 2 and len(list(tmp_path.iterdir())) == 2


def test_the_engine_hash_knows_version_and_networks(monkeypatch, tmp_path):
    def hash_now():
        legibility.engine_hash.cache_clear()
        return legibility.engine_hash()

    hashes = {hash_now()}
    monkeypatch.setattr(legibility, "version", lambda package: "0")
    hashes.add(hash_now())
    (tmp_path / "net").write_bytes(b"other weights")
    monkeypatch.setattr(legibility, "network_paths", lambda: {"Det": tmp_path / "net"})
    hashes.add(hash_now())
    monkeypatch.setattr(legibility, "READING_VERSION", 99)
    hashes.add(hash_now())
    legibility.engine_hash.cache_clear()
    assert len(hashes) == 4


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't keep what was read.*--cache_dir"):
        legibility.read_covers(some_covers(1), 1, tmp_path / "file" / "cache")
