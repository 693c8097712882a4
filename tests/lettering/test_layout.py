"""Layouts by rule, like a training cover, and from files."""

import itertools
import json
import pathlib
import re

import numpy as np
import pytest

from common.errors import UserError
from lettering.filling import letter_size
from lettering.layout import (
    LEAST,
    MARGIN,
    READABLE,
    Layout,
    LetterLine,
    filled,
    layout_by_rule,
    layout_like,
    read_layout,
    save_layout,
)
from lettering.page import draw_page

SIZE = (128, 192)
TITLES = (
    "Harbour",
    "The Glass Crown",
    "The Curious History of Ambrose Ravenscroft and the Enchanted Dragon",
    "I",
    "ß a.",
)
SLOTS = {"lines": [{"part": "title", "box": [0.1, 0.1, 0.9, 0.2]}, {"part": "title", "box": [0.1, 0.25, 0.9, 0.35]}]}


def letters(layout, part, size=SIZE):
    """The font sizes of a part's lines, in fractions of the width."""
    return [letter_size(line, "", size) / size[0] for line in layout.lines if line.part == part]


def texts(layout, part):
    return " ".join(line.text for line in layout.lines if line.part == part)


@pytest.mark.parametrize("size", [SIZE, (512, 768), (64, 64), (192, 128)])
@pytest.mark.parametrize("title", TITLES)
def test_by_rule_the_title_is_at_one_end_and_the_author_at_the_other(title, size):
    for place in ("top", "bottom"):
        layout = layout_by_rule(title, "Wilfred L. Winterbourne", size, place)
        parts = [line.part for line in layout.lines]
        assert parts == sorted(parts, reverse=place == "top")
        assert texts(layout, "title") == title and texts(layout, "author") == "WILFRED L. WINTERBOURNE"
        corners = np.array([line.corners for line in layout.lines])
        edge = MARGIN * min(size) / np.array(size)
        assert (corners.min((0, 1)) > edge - 0.004).all() and (corners.max((0, 1)) < 1 - edge + 0.004).all()
        for above, below in itertools.pairwise(corners):
            assert above[3, 1] <= below[0, 1]
        titles, authors = letters(layout, "title", size), letters(layout, "author", size)
        assert np.ptp(titles) < 0.02 and max(authors) <= max(titles) + 0.004 and min(authors) > LEAST


def test_by_rule_titles_are_readable_and_stand_at_both_ends():
    layouts = [layout_by_rule(f"{title} {n}", "", SIZE) for title in TITLES for n in range(4)]
    assert min(min(letters(layout, "title")) for layout in layouts) > READABLE - 0.003
    tops = [layout.lines[0].corners[0][1] < 0.1 for layout in layouts]
    assert 4 < sum(tops) < 16
    assert layouts[3] == layout_by_rule(f"{TITLES[0]} 3", " \u200b", SIZE)


@pytest.fixture(scope="module")
def examples():
    """20 training covers' layouts, in capitals."""
    words = ["MOON", "HARBOUR", "GLASS", "WINTER", "TOWER", "RIVER", "GARDEN", "EMBER", "STONE", "CROWN"]
    titles = [*words, *(f"THE {a} AND {b}" for a, b in itertools.pairwise(words))]
    return {n: layout_by_rule(title, "Flora Sallow", SIZE) for n, title in enumerate(titles)}


def test_like_a_training_cover_of_a_title_of_like_length(examples):
    one, two = (layout_like("Comet", "Ada Fenwick", SIZE, examples, key) for key in ("a", "a"))
    assert one == two == layout_like("Comet", "Ada Fenwick", SIZE, list(examples.items())[::-1], "a")
    assert texts(one, "title") == "COMET" and texts(one, "author") == "ADA FENWICK"
    short = {layout_like("Comet", "", SIZE, examples, key) for key in range(20)}
    assert 2 <= len(short) <= 8 and all(len(layout.lines) == 1 for layout in short)
    long = layout_like("The Comet and Orchard", "", SIZE, examples, "a")
    assert len(long.lines) > 1 and min(letters(long, "title")) >= READABLE
    corners = np.array([line.corners for line in long.lines])
    assert corners.min() > 0.029 and corners.max() < 0.971


def test_like_a_training_cover_only_those_with_what_is_needed_count(examples):
    anonymous = {n: Layout(tuple(x for x in e.lines if x.part == "title")) for n, e in examples.items()}
    named = layout_by_rule("THE CURIOUS HISTORY OF THE MOON AND ITS GLASS", "Ada", SIZE)
    chosen = layout_like("Comet", "Ada", SIZE, {**anonymous, "n": named}, 3)
    assert texts(chosen, "title") == "COMET" and texts(chosen, "author") == "ADA"
    assert texts(layout_like("Comet", "Ada", SIZE, anonymous, 3), "author") == ""
    for useless in ({}, {1: Layout()}, {1: Layout((LetterLine("SERIES", named.lines[0].corners),))}):
        with pytest.raises(UserError, match="no training cover has a title"):
            layout_like("Comet", "", SIZE, useless, 1)
    # A word that fits no line is broken as by the rule
    assert layout_like("q" * 81, "", SIZE, examples, 1) == layout_by_rule("q" * 81, "", SIZE)


@pytest.mark.parametrize(
    ("title", "author", "message"),
    [
        ("", "A", "there is no title"),
        (" \u200b\x00", "A", "there is no title"),
        ("x" * 5000, "", "the title, 5000 characters, does not fit on 128x192 pixels"),
        ("word " * 350, "", "the title, 1749 characters, does not fit"),
        ("It", "y" * 600, "the author, 600 characters, does not fit"),
        ("Fun 🐉", "", "the title can't be drawn: .* has no 🐉"),
        ("שלום", "", "the title can't be drawn: .* and 1 more"),
        ("It", "水", "the author can't be drawn"),
    ],
)
def test_what_can_not_be_laid_out(title, author, message, examples):
    slots = Layout.from_json({"lines": [*SLOTS["lines"], {"part": "author", "box": [0.1, 0.9, 0.9, 0.93]}]})
    calls = [
        lambda: layout_by_rule(title, author, SIZE),
        lambda: layout_like(title, author, SIZE, examples, "a"),
        lambda: filled(slots, title, author, SIZE),
    ]
    for call in calls:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("title", ["I", "-", "'", "q" * 81, "A\x00B\nC", "Ἀθῆναι и мир", "Ǻçq"])
def test_odd_titles_are_drawn(title, examples):
    for layout in (layout_by_rule(title, "", SIZE), layout_like(title, "", SIZE, examples, "a")):
        assert draw_page(layout, SIZE).any()


def test_files_are_written_read_and_filled(tmp_path):
    layout = layout_by_rule("The Glass Crown", "Ada Fenwick", SIZE)
    save_layout(layout, tmp_path / "layout.json")
    assert read_layout(tmp_path / "layout.json") == layout == filled(layout, "水", "水", SIZE)
    series = {"text": "Book 2", "box": [0.4, 0.5, 0.6, 0.55]}
    (tmp_path / "slots.json").write_text(json.dumps({"lines": [*SLOTS["lines"], series]}))
    slots = read_layout(tmp_path / "slots.json")
    new = filled(slots, "The Harbour", "水", SIZE)
    assert [line.text for line in new.lines] == ["The", "Harbour", "Book 2"]
    assert [line.text for line in filled(slots, "Harbour", "", SIZE).lines] == ["Harbour", "Book 2"]
    assert [line.text for line in slots.lines] == ["", "", "Book 2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't read"),
        ("{", "can't read .*it is not JSON"),
        ("", "can't read .*it is not JSON"),
        ("[1]", "it must hold one JSON object"),
        ('{"lines": []}', "it has no lines"),
        ('{"lines": [{"text": "A", "box": [0, 0, 1.2, 1]}]}', "line 1 stands outside the picture"),
        ('{"lines": [{"text": "水", "box": [0, 0, 1, 1]}]}', "line 1 can't be drawn"),
        ('{"lines": [{"text": "A", "box": [0, 0, 1, Infinity]}]}', "line 1: its box must be"),
        ('{"line": []}', "it must hold"),
    ],
)
def test_damaged_files(content, message, tmp_path):
    path = tmp_path / "layout.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_layout(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_written_examples_are_layouts(tmp_path):
    docs = (pathlib.Path(__file__).parents[2] / "docs" / "lettering.md").read_text(encoding="utf-8")
    examples = re.findall(r"```json\n(.*?)```", docs, flags=re.DOTALL)
    assert examples
    for example in examples:
        (tmp_path / "layout.json").write_text(example, encoding="utf-8")
        layout = filled(read_layout(tmp_path / "layout.json"), "The Glass Crown", "Ada Fenwick", SIZE)
        assert draw_page(layout, SIZE).any()
