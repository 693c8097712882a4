"""Layouts as records: JSON and back, in a cover that is fitted into a picture, and the ink in a box of OCR."""

import math

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.images import fit_image
from lettering.records import OCR_PADDING, Layout, LetterLine, ink_corners

BOX = ((0.1, 0.2), (0.9, 0.2), (0.9, 0.3), (0.1, 0.3))


def test_json_and_back():
    layout = Layout(
        (LetterLine("Ægir", BOX, 0.2, "title"), LetterLine("x", ((0, 0), (1 / 3, 0.1), (0.3, 0.2), (0, 0.1))))
    )
    assert Layout.from_json(layout.to_json()) == layout
    assert layout.to_json()["lines"][1].keys() == {"text", "corners"}
    assert Layout.from_json({"lines": [{"part": "title", "box": [0.1, 0.2, 0.9, 0.3]}]}).lines[0].corners == BOX


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("The", "line 1 must be an object"),
        ({"text": "A", "box": [0, 0, 1, 1], "colour": 1}, "the key 'colour'"),
        ({"text": " ", "box": [0, 0, 1, 1]}, "must be a string that is not empty"),
        ({"text": 7, "box": [0, 0, 1, 1]}, "must be a string that is not empty"),
        ({"box": [0, 0, 1, 1]}, 'needs "text", or "part"'),
        ({"part": "titel", "box": [0, 0, 1, 1]}, 'needs "text", or "part"'),
        ({"part": ["title"], "box": [0, 0, 1, 1]}, 'needs "text", or "part"'),
        ({"text": "A"}, "needs either corners or box"),
        ({"text": "A", "box": [0, 0, 1, 1], "corners": BOX}, "needs either corners or box"),
        ({"text": "A", "box": [0, 0, 1]}, r"its box must be \[left"),
        ({"text": "A", "box": [0, 0, 1, math.nan]}, r"its box must be \[left"),
        ({"text": "A", "box": [0, 0, 1, True]}, r"its box must be \[left"),
        ({"text": "A", "box": [0, 0, 10**400, 1]}, r"its box must be \[left"),
        ({"text": "A", "box": [0.5, 0, 0.5, 1]}, "its left must be less than its right"),
        ({"text": "A", "corners": [[0, 0]]}, r"its corners must be four \[x, y\]"),
        ({"text": "A", "corners": [[0, 0], [1, 0], [1, 1], [0, math.inf]]}, r"its corners must be four \[x, y\]"),
        ({"text": "A", "corners": [[0, 0], [0, 1], [1, 1], [1, 0]]}, "must go clockwise"),
        ({"text": "A", "corners": [[0, 0], [1, 1], [1, 0], [0, 1]]}, "must go clockwise"),
        ({"text": "A", "box": [0, 0, 1, 1], "slant": 2}, "its slant must be a number from -1 to 1"),
        ({"text": "A", "box": [0, 0, 1, 1], "slant": "italics"}, "its slant must be a number from -1 to 1"),
    ],
)
def test_damaged_lines(line, message):
    with pytest.raises(UserError, match=message):
        Layout.from_json({"lines": [line]})


@pytest.mark.parametrize("value", [None, [], {}, {"lines": {}}, {"lines": [], "size": 3}])
def test_damaged_layouts(value):
    with pytest.raises(UserError, match="it must hold"):
        Layout.from_json(value)


@pytest.mark.parametrize("source", [(200, 300), (300, 200), (100, 400), (220, 300)])
def test_lines_stand_where_the_fitted_cover_has_them(source):
    """A white box on a black cover, resized by fit_image, is found at the corners that `fitted` gives."""
    box = (0.25 * source[0], 0.5 * source[1], 0.75 * source[0], 0.7 * source[1])
    cover = Image.new("RGB", source)
    cover.paste("white", tuple(map(round, box)))
    found = Image.fromarray(fit_image(cover, (128, 192))).convert("L").point(lambda v: 255 * (v > 127)).getbbox()
    corners = [(box[i] / source[0], box[j] / source[1]) for i, j in ((0, 1), (2, 1), (2, 3), (0, 3))]
    (line,) = Layout((LetterLine("A", tuple(corners)),)).fitted(source, (128, 192)).lines
    placed = np.array(line.corners) * (128, 192)
    assert np.abs([*placed[0], *placed[2]] - np.array(found)).max() <= 1


def test_the_ink_in_a_box_of_ocr():
    left, top, right, bottom = OCR_PADDING
    size = (200, 100)  # the box is 100 pixels wide and 20 high, at (20, 10)
    box = ((0.1, 0.1), (0.6, 0.1), (0.6, 0.3), (0.1, 0.3))
    expected = [20 + 20 * left, 10 + 20 * top, 120 - 20 * right, 30 - 20 * bottom]
    ink = np.array(ink_corners(box, size)) * size
    assert np.allclose([*ink[0], *ink[2]], expected) and np.allclose(ink[1], [expected[2], expected[1]])
    # Turned by a right angle it is the same: (x, y) -> (100 - y, x)
    turned = ink_corners([(1 - y, x) for x, y in box], size[::-1])
    assert np.allclose(turned, [(1 - y, x) for x, y in ink / size])
    narrow = np.array(ink_corners(((0.5, 0), (0.51, 0), (0.51, 1), (0.5, 1)), (100, 100)))
    assert 0.5 < narrow[0, 0] < narrow[1, 0] < 0.51
    assert np.isfinite(ink_corners(((0.5, 0.5),) * 4, size)).all()
