"""The scenes of the demo covers and the tools that draw them."""

import math
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from demo_data import day, night
from demo_data.canvas import Art, Palette, Pen, mix
from demo_data.jacket import LOOKS

PALETTE = Palette("#102030", "#405060", "#ffeedd", "#804020", "#081018")
SCENES = [night.fantasy, night.mystery, night.science_fiction, night.horror]
SCENES += [day.romance, day.childrens, day.history, day.poetry, day.adventure, day.cooking]
UNPAINTED = (255, 0, 255)


def paint(scene, seed):
    """A scene on a canvas that was magenta, a colour of no palette, before."""
    art = Art((32, 48), random.Random(seed))
    art.image.paste(UNPAINTED, (0, 0, art.w, art.h))
    scene(art, art.rng, PALETTE, 0.5)
    return np.asarray(art.image)


def test_every_genre_has_a_scene_of_its_own():
    assert sorted(look.scene.__name__ for look in LOOKS.values()) == sorted(scene.__name__ for scene in SCENES)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_scene_paints_the_whole_canvas_and_follows_its_seed(scene):
    pictures = [paint(scene, seed) for seed in range(9)]  # each of the three motifs at least once
    assert not any((picture == UNPAINTED).all(axis=-1).any() for picture in pictures)
    assert np.array_equal(paint(scene, 3), pictures[3])
    assert len({picture.tobytes() for picture in pictures}) == 9


def test_colours_are_mixed_linearly():
    assert mix("#000000", "#ffffff", 0) == (0, 0, 0) and mix("#000000", "#ffffff", 1) == (255, 255, 255)
    assert mix("#0a0000", "#140064", 0.5) == (15, 0, 50)


def test_a_pen_has_its_own_coordinates():
    image = Image.new("RGB", (20, 20))
    pen = Pen(ImageDraw.Draw(image), 10, 10, 4, math.pi / 2)
    (turned,) = pen.to_pixels([(1, 0)])
    assert turned == pytest.approx((10, 14))  # a quarter turn takes the right to below
    part = pen.part(1, 0, 0.5, math.pi / 2)
    assert (part.x, part.y, part.s) == pytest.approx((10, 14, 2))
    assert part.to_pixels([(1, 0)])[0] == pytest.approx((10, 16))  # a part is turned on its own
    Pen(ImageDraw.Draw(image), 10, 10, 1).box(-3, -2, 3, 2, "#ff0000")
    red = np.asarray(image)[..., 0] == 255
    assert (np.flatnonzero(red.any(0)).tolist(), np.flatnonzero(red.any(1)).tolist()) == (
        list(range(7, 14)),
        list(range(8, 13)),
    )
