"""The colours and the line breaking that the demo covers use, too."""

import numpy as np
import pytest

from typesetting.colour import contrast, luminance, rgb
from typesetting.lines import LEADING, break_lines, line_width


def test_contrast_by_its_definition():
    assert float(luminance((255, 255, 255))) == pytest.approx(1) and float(luminance((0, 0, 0))) == 0
    assert contrast("#000000", np.full((4, 4, 3), 255, np.uint8)) == pytest.approx(21)
    assert contrast((118, 118, 118), np.full((4, 4, 3), 255, np.uint8)) == pytest.approx(4.54, abs=0.01)
    assert contrast((118, 118, 118), np.array([[[0] * 3, [255] * 3]], np.uint8)) == 1  # between the two
    assert rgb("#0a0b0c") == (10, 11, 12)


def test_broken_lines_fit():
    lines, size = break_lines("The Lord of the Rings", 300, 200, 0.02, 90)
    assert " ".join(lines) == "The Lord of the Rings"
    assert max(line_width(line, 0.02) for line in lines) * size <= 300 and LEADING * size * len(lines) <= 200
