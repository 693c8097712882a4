"""python -m typeset on files: one picture, a folder with its table, and what is refused before anything is written."""

import json

import numpy as np
import pytest
from PIL import Image

import config
import typeset
from cli import parser
from common.errors import UserError
from data.book import Book
from generation.type_on_covers import CHUNK, byline, record_in, require_font, require_titles, typeset_covers

WIDTH = ["--typeset_width", "96"]


@pytest.fixture
def folder(tmp_path):
    """Three pictures in a folder."""
    (tmp_path / "covers").mkdir()
    for seed, name in enumerate(("a.png", "b.jpg", "c.webp")):
        pixels = np.random.default_rng(seed).integers(0, 256, (60, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "covers" / name)
    return tmp_path / "covers"


def run(*words):
    assert typeset.main([*map(str, words), *WIDTH]) == 0


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_picture(folder, capsys):
    before = contents(folder)
    run(folder / "a.png", "--title", "It", "--author", "Ann Lee")
    written = folder / "a.typeset.png"
    assert contents(folder) == before | {"a.typeset.png": written.read_bytes()}
    with Image.open(written) as image:
        assert (image.size, image.mode, image.format) == ((96, 144), "RGB", "PNG")
        record = json.loads(image.info[CHUNK])
    assert record["contrast"] >= 4.5 and f"{written}: contrast " in capsys.readouterr().out
    first, made = written.read_bytes(), written.stat().st_mtime_ns
    run(folder / "a.png", "--title", "It", "--author", "Ann Lee")
    assert written.stat().st_mtime_ns == made  # nothing has changed: it is not made again
    run(folder / "a.png", "--title", "It!")
    assert written.read_bytes() != first  # its own file is replaced
    run(folder / "a.png", "--title", "It", "--author", "Ann Lee")
    assert written.read_bytes() == first


def test_where_it_is_written(folder, tmp_path):
    run(folder / "b.jpg", "--title", "It", "--out", tmp_path / "new" / "x.PNG")
    run(folder / "b.jpg", "--title", "It", "--out", tmp_path / "new")
    assert set(contents(tmp_path / "new")) == {"x.PNG", "b.typeset.png"}


def test_what_it_did_not_make_stays_unless_told(folder):
    theirs = folder / "b.typeset.png"
    (folder / "a.png").rename(theirs)
    before = contents(folder)
    for out, message in (
        ([], "was not made by this script: give --overwrite True"),
        (["--out", theirs], "not made by"),
    ):
        with pytest.raises(UserError, match=message):
            run(folder / "b.jpg", "--title", "It", *out)
    with pytest.raises(UserError, match="is the picture itself"):
        run(theirs, "--title", "It", "--out", theirs, "--overwrite")
    assert contents(folder) == before
    run(folder / "b.jpg", "--title", "It", "--overwrite")
    assert record_in(theirs) is not None


def test_a_folder_with_its_table(folder, tmp_path, capsys):
    table = tmp_path / "books.csv"
    table.write_text('\ufefffile;title;author;more\na.png;"It; or";Ann Lee;1\nb.jpg;Two;;2\nc.webp;Three;C;3\n')
    before = contents(folder)
    run(folder, "--books", table, "--out", tmp_path / "out")
    assert contents(folder) == before
    assert set(contents(tmp_path / "out")) == {f"{name}.typeset.png" for name in "abc"}
    assert "3 pictures in" in capsys.readouterr().out
    assert record_in(tmp_path / "out" / "a.typeset.png")["inputs"]["title"] == "It; or"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,title\na.png,It\n", "has no column author: its first line must be file,title,author"),
        ("file,title,author\n", "lists no pictures"),
        ("", "books.csv is empty"),
        ("file,title,author\na.png,It,A\nd.png,It,A\n", "line 3: there is no picture .*d.png"),
        ("file,title,author\n../a.png,It,A\n", "line 2: '../a.png' must be the name of a picture in"),
        ("file,title,author\n,It,A\n", "line 2: '' must be the name"),
        ("file,title,author\na.png,,A\n", "line 2: there is no title"),
        ("file,title,author\na.png,It,A\nb.jpg,One, two,A\n", "line 3: 4 fields where the header has 3: a text with"),
        ("file,title,author\na.png,It\n", "line 2 has only 2 of the header's 3 fields"),
        (
            "file,title,author\na.png,It,A\na.png,It,A\n",
            "line 3: .*a.typeset.png would be written twice, also for line 2",
        ),
        ("file,title,author\na.png,It,A\nb.jpg,水,A\n", "line 3: the title can't be set: EB Garamond has no 水"),
        ("file,title,author\na.png,It,كتاب\n", r"line 2: the author can't be set: .*ك \(U\+0643 ARABIC LETTER KAF\)"),
    ],
)
def test_a_table_that_is_wrong_is_told_by_line_before_anything_is_written(folder, tmp_path, text, message):
    table = tmp_path / "books.csv"
    table.write_text(text)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        run(folder, "--books", table)
    assert "\n" not in str(refused.value) and contents(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which picture"),
        (["{}/a.png"], "give --title TITLE for one picture, or --books"),
        (["{}/a.png", "--title", "It", "--books", "x"], "give --title TITLE for one picture, or --books"),
        (["{}", "--books", "x", "--author", "A"], "--author is for one picture"),
        (["{}", "--title", "It"], "is a folder: list its pictures"),
        (["{}/a.png", "--books", "x"], "a.png is not a folder"),
        (["{}/none.png", "--title", "It"], "there is no picture .*none.png"),
        (["{}/a.png", "--title", "It", "--typeset_font", "{}/b.jpg"], "--typeset_font .*b.jpg: unknown file format"),
        (["{}/a.png", "--title", "x" * 5000], "a.png: the title, 5000 characters, does not fit on 96x144"),
        (["{}/text.png", "--title", "It"], "^[^:]*text.png: not an image"),
        (["{}/dot.png", "--title", "It"], "dot.png: too small: 1x1 pixels"),
        (["{}/a.png", "It", "--title", "It"], "a word stands where an option should be"),
    ],
)
def test_mistakes_are_one_line(folder, words, message):
    (folder / "text.png").write_text("text")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    before = contents(folder)
    with pytest.raises(UserError, match=message) as refused:
        run(*(word.format(folder) for word in words))
    assert "\n" not in str(refused.value) and contents(folder) == before


def test_drawn_covers_get_type_in_a_folder_of_their_own(tmp_path, capsys):
    for row in (3, 4):
        Image.effect_noise((40, 60), 30).convert("RGB").save(tmp_path / f"{row}.png")
    books = {"3.png": Book(3, "It", ("Ann Lee",)), "4.png": Book(4, "水"), "5.png": Book(5, "Never drawn")}
    options = config.InferenceOptions(typeset=True, typeset_width=96)
    before = contents(tmp_path)
    typeset_covers(options, tmp_path, books)
    after = contents(tmp_path)
    assert after.keys() - before.keys() == {"typeset/3.png"} and before.items() <= after.items()
    warning = capsys.readouterr().err.strip().splitlines()[-1]
    assert warning.startswith("warning: 2 covers got no type: 4.png: the title can't be set") and "5.png" in warning
    typeset_covers(options, tmp_path, books)
    assert contents(tmp_path) == after


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--typeset --prompt Fantasy", "--typeset True sets a title as type, and --prompt has none: add --title TITLE"),
        ("--typeset_font sans", "--typeset_place: add --typeset True"),
        ("--typeset --typeset_width 63", "--typeset_width: expected at least 64"),
        ("--typeset --typeset_place left", "--typeset_place: expected one of auto, top, bottom"),
    ],
)
def test_options_of_sd_inference(words, message):
    with pytest.raises(UserError, match=message):
        parser.parse(config.InferenceOptions, words.split())


def test_a_font_is_checked_before_anything_is_drawn():
    require_font(config.InferenceOptions(typeset_font="none.ttf"))
    with pytest.raises(UserError, match=r"--typeset_font none\.ttf: cannot open resource"):
        require_font(config.InferenceOptions(typeset=True, typeset_font="none.ttf"))


def test_type_needs_a_title():
    options = config.InferenceOptions(typeset=True, data_root="captions")
    captioned = Book(0, "", caption="a tree", file="a.jpg")
    require_titles(options, [captioned, Book(1, "A title")])  # then those without are left out, with a warning
    require_titles(config.InferenceOptions(), [captioned])
    with pytest.raises(UserError, match="--typeset True needs titles, and captions has captions alone"):
        require_titles(options, [captioned])


def test_bylines():
    assert [byline(("A", "B", "C", "D")[:n]) for n in range(5)] == ["", "A", "A & B", "A, B & C", "A and others"]
