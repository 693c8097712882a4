"""Ink, veil and place."""

import numpy as np
import pytest
from PIL import Image

from typesetting.colour import contrast
from typesetting.ground import INKS, LEGIBLE, VEILS, prepare, quieter


def picture(pixels):
    return Image.fromarray(np.asarray(pixels, np.uint8))


def plain(colour):
    return picture(np.full((60, 40, 3), colour))


def random_pictures():
    rng = np.random.default_rng(3)
    for low, high in ((0, 256), (0, 30), (120, 140), (200, 256), (60, 200)):
        yield picture(rng.integers(low, high, (60, 40, 3)))
    yield picture(np.where(rng.random((60, 40, 1)) < 0.5, 0, np.full(3, 255)))  # black and white
    yield picture(np.tile(np.linspace(0, 255, 60)[:, None, None], (1, 40, 3)))


@pytest.mark.parametrize("place", ["top", "bottom"])
def test_every_box_is_legible_on_any_picture(place):
    boxes = [(4, 6, 30, 14), (8, 20, 33, 26)] if place == "top" else [(4, 30, 30, 40), (8, 44, 33, 54)]
    veils = []
    for before in random_pictures():
        ground = prepare(before, boxes, place, 2)
        ratios = [contrast(ground.ink, np.asarray(ground.picture.crop(box))) for box in boxes]
        assert min(ratios) == pytest.approx(ground.contrast) and min(ratios) >= LEGIBLE
        assert ground.veil == 0 or ground.veil in VEILS
        assert (np.asarray(ground.picture) == np.asarray(before)).all() == (ground.veil == 0)
        veils.append(ground.veil)
    assert 0 in veils and max(veils) > 0.35


def test_the_veil_is_the_lightest_and_leaves_the_rest_alone():
    before = next(random_pictures())
    ground = prepare(before, [(4, 6, 30, 14)], "top", 2)
    after = np.asarray(ground.picture)
    assert (after[30:] == np.asarray(before)[30:]).all() and (after[:16] != np.asarray(before)[:16]).any()
    lighter = VEILS[VEILS.index(ground.veil) - 1]
    crop = np.asarray(before.crop((4, 6, 30, 14)))
    for ink, veil in (INKS, INKS[::-1]):
        assert contrast(ink, np.rint(crop + (np.array(veil) - crop) * lighter).astype(np.uint8)) < LEGIBLE


def test_ink_on_black_is_light_and_on_white_dark():
    for colour, ink in ((0, INKS[0]), (255, INKS[1])):
        ground = prepare(plain(colour), [(4, 6, 30, 14)], "top", 2)
        assert (ground.ink, ground.veil) == (ink, 0) and ground.contrast > 18


def test_the_quieter_end():
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3))
    noise[:100] = 90
    assert quieter(picture(noise), 80) == "top"
    assert quieter(picture(noise[::-1]), 80) == "bottom"
    assert quieter(plain(7), 20) == "top"
    assert quieter(plain(7).resize((1, 1)), 1) == "top"
