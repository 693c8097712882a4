"""Title and author on a picture: inside the margins, one above the other, the title larger."""

import itertools

import numpy as np
import pytest

from common.errors import UserError
from typesetting.faces import find_face
from typesetting.layout import letters, margin, set_block

SERIF, SANS = find_face("serif", 650), find_face("sans", 650)
LONG = "The Curious History of Nathaniel Hathersage and the Golden Orchard, or, What Became of the Heirs of Greyport"


@pytest.mark.parametrize("face", [SERIF, SANS], ids=["serif", "sans"])
@pytest.mark.parametrize("size", [(400, 600), (600, 400), (160, 900), (100, 150), (900, 160)])
@pytest.mark.parametrize(
    ("title", "author"),
    [("It", "Stephen King"), ("I", ""), (LONG, "Q. M. Ingram & L. L. Moncrieff"), ("ÅÇgjpq", "Ǻçq"), ("a. ’", "’")],
)
def test_all_ink_is_inside_its_box_and_the_margins(face, size, title, author):
    block = set_block(title, author, face, size)
    edge = margin(size)
    lines = block.moved(edge).lines
    ink = np.asarray(letters(lines, size)) > 0
    boxes = np.zeros_like(ink)
    for left, top, right, bottom in (line.box for line in lines):
        boxes[top:bottom, left:right] = True
        assert ink[top:bottom, left:right].any()
    assert ink.any() and not (ink & ~boxes).any()
    rows, columns = np.nonzero(boxes)
    assert columns.min() >= edge - 1 and columns.max() <= size[0] - edge
    assert rows.min() == edge and rows.max() == edge + block.height - 1 < size[1] - edge


def test_title_and_author_do_not_touch_and_the_title_is_larger():
    for title in ("It", "Gypsy", LONG):
        lines = set_block(title, "Ann Lee", SERIF, (800, 1200)).lines
        assert lines[-1].text == "ANN LEE" and lines[0].size > 1.3 * lines[-1].size
        for above, below in itertools.pairwise(lines):
            assert above.box[3] <= below.box[1]


def test_names_stay_on_one_line():
    lines = set_block("It", "Wilfred L. Winterbourne & Winifred Ashdown", SERIF, (800, 1200)).lines
    assert [line.text for line in lines] == ["It", "WILFRED L. WINTERBOURNE &", "WINIFRED ASHDOWN"]


@pytest.mark.parametrize(
    ("title", "author", "size", "message"),
    [
        (" \u200b", "A", (400, 600), "there is no title"),
        ("A 水", "A", (400, 600), "the title can't be set: EB Garamond has no 水"),
        ("A", "水", (400, 600), "the author can't be set"),
        ("x" * 5000, "", (64, 96), "the title, 5000 characters, does not fit on 64x96 pixels in letters of 8"),
        ("It", "y" * 5000, (400, 600), "the author, 5000 characters, does not fit on 400x600"),
        ("x" * 900, "", (100, 150), "the title, 900 characters, does not fit"),
        ("It", "", (1600, 6), "does not fit on 1600x6"),
    ],
)
def test_what_can_not_be_set(title, author, size, message):
    with pytest.raises(UserError, match=message):
        set_block(title, author, SERIF, size)
