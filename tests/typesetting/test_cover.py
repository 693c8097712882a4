"""Type on a whole picture."""

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from typesetting.cover import WEIGHT, enlarge, set_type
from typesetting.faces import find_face
from typesetting.ground import LEGIBLE

FACE = find_face("serif", WEIGHT)


def noise(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


@pytest.mark.parametrize("place", ["auto", "top", "bottom"])
def test_type_stands_where_it_was_told_and_is_the_same_twice(place):
    before = noise((300, 450))
    results = [set_type(before, "The Glass Crown", "Ada Fenwick", FACE, place) for _ in range(2)]
    (after, done), (again, _) = results
    assert after.tobytes() == again.tobytes() and before.tobytes() == noise((300, 450)).tobytes()
    assert done.place == place or place == "auto"
    assert done.contrast >= LEGIBLE and done.lines[-1] == "ADA FENWICK"
    tops, bottoms = [box[1] for box in done.boxes], [box[3] for box in done.boxes]
    assert min(tops) == 30 if done.place == "top" else max(bottoms) == 420


def test_one_pixel():
    """It has no detail, and can still have a title."""
    picture = enlarge(Image.new("RGB", (1, 1), "red"), 200)
    assert picture.size == (200, 200)
    assert set_type(picture, "Red", "", FACE, "auto")[1].lines == ("Red",)


def test_enlarging():
    assert enlarge(noise((20, 30)), 64).size == (64, 96)
    wide = noise((200, 30))
    assert enlarge(wide, 64) is wide
    with pytest.raises(UserError, match="would have 1600x160000 pixels, which is too large: lower --typeset_width"):
        enlarge(Image.new("RGB", (10, 1000)), 1600)
