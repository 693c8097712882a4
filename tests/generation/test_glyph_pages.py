"""Glyph pages by --layout: what is drawn, how it is named, and what can't be set."""

import dataclasses
import json

import accelerate
import numpy as np
import pytest
import torch
from PIL import Image

import config
from common.errors import UserError
from data.book import Book
from data.folder import open_data
from diffusion import pipeline, sampling
from diffusion.lettering import build_lettering
from diffusion.weights import save_pipeline
from generation import glyph_pages
from generation.covers import draw_covers
from generation.glyph_pages import make_pages, pages_by_file, pages_by_rule, require_lettering
from generation.grid import draw_grid
from generation.prompt_covers import draw_prompts
from generation.settings import read_all, require_same_settings
from generation.version import Version
from lettering import readings
from ocr.engine import Line
from ocr.readings import ReadingsCache

SIZE = (64, 96)
VERSION = Version("v1", "somewhere", None)


@pytest.fixture
def lettered(monkeypatch):
    """Every version has lettering."""
    monkeypatch.setattr(pipeline, "has_lettering", lambda source: True)


def test_the_page_of_a_book_shows_its_title_and_its_authors_as_a_cover_names_them():
    pages = pages_by_rule(SIZE)
    book = Book(1, "The Glass Crown", ("Ann Oak", "Bo Lee"))
    page = pages.of_book(book)
    assert page.shape == (96, 64) and page.dtype == np.uint8 and page.max() == 255
    assert np.array_equal(page, pages.page("The Glass Crown", "Ann Oak & Bo Lee"))
    assert not np.array_equal(page, pages.of_book(Book(2, "The Glass Crown")))


def test_books_whose_letters_can_not_be_drawn_are_told_with_their_number(capsys):
    pages = pages_by_rule(SIZE)
    for row, title in enumerate(("Fine", "", "Owls \U0001f989", "\u5d50\u304c\u4e18", "long " * 999, "Fine")):
        assert pages.of_book(Book(row, title)).any() == (title == "Fine")
    pages.tell_problems()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 4 books were drawn without letters: row 1: there is no title")
    assert "row 3: " in line and "row 4" not in line
    assert pages.blank().shape == (96, 64)


def test_a_layout_from_a_file_is_named_by_what_is_in_it(lettered, tmp_path):
    value = {
        "lines": [{"text": "Vol. 1", "box": [0.1, 0.05, 0.5, 0.15]}, {"part": "title", "box": [0.1, 0.6, 0.9, 0.9]}]
    }
    for name, text in {"a": json.dumps(value), "b": json.dumps(value, indent=4)}.items():
        (tmp_path / name).write_text(text)
    first, second = (pages_by_file(str(tmp_path / name), SIZE) for name in "ab")
    assert first.layout == second.layout and len(first.layout) == 32
    page = first.page("Crown", "")
    assert page[4:16].any() and page[56:88].any() and not page[20:54].any()
    value["lines"][0]["text"] = "Vol. 2"
    (tmp_path / "a").write_text(json.dumps(value))
    options = config.InferenceOptions(layout=str(tmp_path / "a"), resolution="64x96")
    assert make_pages(options, VERSION).layout != first.layout


def test_a_layout_for_versions_that_have_no_letters_is_refused(monkeypatch, tmp_path):
    plain, version = config.InferenceOptions(), Version("v0", "tiny", None)
    require_lettering(plain, [version])
    assert make_pages(plain, version) is None
    for options, message in (
        (dict(layout="like"), r"^--layout like: v0, v1 has no lettering .*: leave --layout out$"),
        (dict(prompt="a", title="b"), r"^--title: v0, v1 has no lettering .* set it as type with --typeset True$"),
    ):
        with pytest.raises(UserError, match=message):
            require_lettering(config.InferenceOptions(**options), [version, Version("v1", "tiny", None)])
    require_lettering(config.InferenceOptions(prompt="a", title="b", typeset=True), [version])
    monkeypatch.setattr(pipeline, "has_lettering", lambda source: source != "tiny")
    require_lettering(config.InferenceOptions(prompt="a", title="b"), [version, VERSION])
    with pytest.raises(UserError, match=r"^--layout Rule: expected rule, like, or a JSON file, and there is no such"):
        require_lettering(config.InferenceOptions(layout="Rule"), [version, VERSION])
    (tmp_path / "damaged").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        require_lettering(config.InferenceOptions(layout=str(tmp_path / "damaged")), [VERSION])


def test_letters_stand_as_on_training_covers_that_were_read(small_data, tmp_path, lettered):
    options = config.InferenceOptions(
        data_root=str(small_data), cache_dir=str(tmp_path), resolution="64x96", layout="like"
    )
    with pytest.raises(
        UserError, match=r"^--layout like: none of the 22 training covers was read .*, or --layout rule$"
    ):
        make_pages(options, VERSION)
    books = open_data(options).books("train")
    cache = ReadingsCache(readings.readings_path(options))
    cache.add(books[0].content, [Line(books[0].title, 0.9, ((0.1, 0.5), (0.9, 0.5), (0.9, 0.75), (0.1, 0.75)))])
    cache.add(books[1].content, [Line("something else", 0.9, ((0.1, 0.0), (0.9, 0.0), (0.9, 0.2), (0.1, 0.2)))])
    pages = make_pages(options, VERSION)
    rows = pages.page("Crown 7", "", "3").any(1)
    assert rows[48:72].any() and not rows[:46].any() and not rows[74:].any()  # the cover is 64x96, as the picture
    assert pages.layout.startswith("like ") and pages.layout == make_pages(options, VERSION).layout
    cache.add(books[2].content, [Line(books[2].title, 0.9, ((0.1, 0.1), (0.9, 0.1), (0.9, 0.3), (0.1, 0.3)))])
    assert make_pages(options, VERSION).layout != pages.layout


def test_letters_of_authors_are_those_of_the_byline():
    assert glyph_pages.letters_of(Book(1, "It", tuple("abcd"))) == ["It", "a and others"]


# ---------------------------------------------------------------------------------------------------------------------
# Drawing with a version that has lettering

WORDS = {"resolution": "32x48", "steps": 2, "batch_size": 2, "seed": 1}
BOOKS = [Book(row, title, ("Ann Oak",), ("Fantasy",)) for row, title in ((5, "Glass"), (2, "Owls \U0001f989"))]


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """`tiny` with lettering that changes pictures visibly."""
    parts = pipeline.build_tiny()
    parts.lettering = build_lettering(parts)
    torch.nn.init.constant_(parts.lettering.entrance_out.weight, 0.05)
    folder = tmp_path_factory.mktemp("lettered") / "v1"
    save_pipeline(parts, folder, list(parts.networks), torch.float32)
    return Version("v1", str(folder), None)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_covers_are_drawn_from_the_pages_of_their_books(version, tmp_path, capsys):
    state = accelerate.Accelerator(cpu=True).state
    options = config.InferenceOptions(**WORDS)
    draw_covers(options, version, tmp_path, BOOKS, state)
    assert "warning: 1 books were drawn without letters: row 2: " in capsys.readouterr().err
    record = json.loads((tmp_path / "settings.json").read_text())
    assert record["layout"] == "rule"
    assert record["letters"] == {"5": ["Glass", "Ann Oak"], "2": ["Owls \U0001f989", "Ann Oak"]}
    parts, pages = pipeline.load_parts(version.source), pages_by_rule((32, 48))
    for book, own in zip(BOOKS, ([pages.page("Glass", "Ann Oak")], None), strict=True):
        prompt = record["prompts"][str(book.row)]
        wanted = sampling.draw_images(parts, [prompt], [book.row], options, pages=own)[0]
        assert np.array_equal(pixels(tmp_path / f"{book.row}.png"), wanted)
    plain = sampling.draw_images(parts, [record["prompts"]["5"]], [5], options)[0]
    assert not np.array_equal(pixels(tmp_path / "5.png"), plain)

    before = (tmp_path / "settings.json").read_bytes()
    with pytest.raises(UserError, match=r"row 5 in .* was drawn with other letters, 'Glass / Ann Oak'"):
        other = dataclasses.replace(BOOKS[0], authors=("Ann Oak", "Bo", "Cy", "Di"))
        parts_of = {"5": record["prompts"]["5"]}
        settings, _, _ = read_all(tmp_path / "settings.json")
        require_same_settings(tmp_path / "settings.json", settings, parts_of, {"5": glyph_pages.letters_of(other)})
    assert (tmp_path / "settings.json").read_bytes() == before


def test_pictures_of_a_prompt_show_its_title(version, tmp_path, capsys):
    """Their names, records and sheets tell titles apart; type is set on copies."""
    device = torch.device("cpu")
    for number, title in enumerate((None, "Glass", "Crown"), 1):
        options = config.InferenceOptions(
            **WORDS, prompt="a book", title=title, num_images=2, typeset=bool(title), typeset_width=64
        )
        draw_prompts(options, version, tmp_path, device)
        assert ("note: no letters are drawn: give --title" in capsys.readouterr().out) == (title is None)
        assert len(list(tmp_path.glob("*.png"))) == 3 * number  # two pictures and a sheet
    records = {path: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    titles = [record.get("title") for record in records.values()]
    assert {title: titles.count(title) for title in titles} == {None: 3, "Glass": 3, "Crown": 3}
    first = {
        record.get("title"): pixels(path.with_suffix(".png"))
        for path, record in records.items()
        if not record.keys() & {"image", "images"}
    }
    assert len({picture.tobytes() for picture in first.values()}) == 3
    assert len(list((tmp_path / "typeset").glob("*.png"))) == 4
    with Image.open(next(path for path, record in records.items() if "title" in record).with_suffix(".png")) as image:
        assert "Layout: rule" in image.text["parameters"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(title="Owls \U0001f989"), "the title can't be drawn: "),
        (dict(title="long " * 1000), "the title, 5000 characters, does not fit on 32x48 pixels"),
        (dict(title="It", author="\u05d0\u05d1"), "the author can't be drawn: "),
        (dict(title="...\u200b\u200b", author="\U0001f989", typeset=True), "can't be"),
    ],
)
def test_a_prompt_whose_letters_can_not_be_drawn_is_one_line(version, tmp_path, options, message):
    options = config.InferenceOptions(**WORDS, prompt="a book", **options)
    with pytest.raises(UserError, match=message) as problem:
        draw_prompts(options, version, tmp_path / "covers", torch.device("cpu"))
    assert "\n" not in str(problem.value) and not (tmp_path / "covers").exists()


def test_the_grid_shows_the_letters_of_its_books(version, small_data, tmp_path):
    options = config.InferenceOptions(**WORDS, data_root=str(small_data), num_samples=1)
    draw_grid(options, version, tmp_path, torch.device("cpu"))
    (path,) = tmp_path.glob("v1_grid_*.json")
    record = json.loads(path.read_text())
    ((title, author),) = record["letters"]
    assert record["layout"] == "rule" and title.startswith("Book ") and author.startswith("Author ")
