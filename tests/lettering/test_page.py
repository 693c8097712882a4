"""Glyph pages: the letters' ink fills its line's box, wherever that stands."""

import numpy as np

from lettering.layout import layout_by_rule
from lettering.page import draw_page, letter_area


def test_the_page_of_the_rule_shows_letters_in_the_area_of_its_lines():
    layout = layout_by_rule("The Glass Crown", "Ada Fenwick", (128, 192))
    page, area = draw_page(layout, (128, 192)), letter_area(layout, (128, 192))
    assert page.dtype == np.uint8 and page.shape == area.shape == (192, 128)
    assert page.max() == 255 and 0.25 < (page > 127)[area].mean() < 0.6
    assert (page > 127)[~area].sum() < 10  # at the boxes' edges
