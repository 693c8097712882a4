"""The slant of letters: of lines drawn with a known one, on quadrilaterals that lean, too."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ocr.slant import slant_of


def line(text, slant, ink=0, paper=255, size=40):
    """A grey picture of a text whose letters are sheared, and the corners of a box around it."""
    image = Image.new("L", (640, 120), paper)
    ImageDraw.Draw(image).text((60, 60), text, fill=ink, font=ImageFont.load_default(size), anchor="lm")
    lean = (1, slant, -slant * 60, 0, 1, 0)
    image = image.transform(image.size, Image.Transform.AFFINE, lean, Image.Resampling.BICUBIC, fillcolor=paper)
    left, top, right, bottom = Image.eval(image, lambda v: 255 * (v != paper)).getbbox()
    return image, np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


@pytest.mark.parametrize("text", ["The Secret Garden", "Scarlet Promise", "HEIGHTS"])
@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (220, 90)])
def test_a_slant_is_found(text, ink, paper):
    for slant in (0.18, 0.22, 0.3):
        assert slant_of(*line(text, slant, ink, paper)) == pytest.approx(slant, abs=0.05)


@pytest.mark.parametrize("text", ["WUTHERING HEIGHTS", "A VINDICATION", "The Silver Lighthouse", "We", "WAVY", "A"])
def test_upright_letters_have_none(text):
    assert slant_of(*line(text, 0)) == 0


def test_what_is_too_small_or_flat_has_none():
    image, corners = line("Kiss", 0.22)
    assert slant_of(image, corners[:1] + (corners - corners[0]) / 20) == 0
    assert slant_of(Image.new("L", (640, 120), 90), corners) == 0


def test_a_line_that_runs_uphill_is_straightened_first():
    image, corners = line("The Secret Garden", 0.22)
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    down = image.rotate(-20, Image.Resampling.BICUBIC, expand=False, center=(0, 0), fillcolor=255)
    inside = corners @ turn.T  # of `down`, which turns with the clock
    assert inside.min() >= 0
    assert slant_of(down, inside) == pytest.approx(0.22, abs=0.05)
