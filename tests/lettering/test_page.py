"""Glyph pages: the letters' ink fills its line's box, wherever that stands."""

import numpy as np
import pytest
from PIL import Image

from lettering.layout import layout_by_rule
from lettering.page import draw_page, letter_area
from lettering.records import Layout, LetterLine

SIZE = (128, 192)


def page_of(text, corners, slant=0.0, size=SIZE):
    """The page of one line, whose corners are in pixels."""
    return draw_page(Layout((LetterLine(text, tuple((x / size[0], y / size[1]) for x, y in corners), slant),)), size)


def box(left, top, right, bottom):
    return (left, top), (right, top), (right, bottom), (left, bottom)


@pytest.mark.parametrize("text", ["THE GLASS", "Ægypt", "one", "I", "-", "l’Œuvre"])
@pytest.mark.parametrize("slant", [0.0, 0.25, -0.2])
def test_ink_fills_the_box(text, slant):
    page = page_of(text, box(20, 30, 108, 50), slant)
    assert page.dtype == np.uint8 and page.shape == SIZE[::-1]
    assert Image.fromarray(page).getbbox() == (20, 30, 108, 50)
    if slant == 0:
        assert max(page[30:50, 20].max(), page[30:50, 107].max()) > 100  # not only a trace


def test_the_page_of_the_rule_shows_letters_in_the_area_of_its_lines():
    layout = layout_by_rule("The Glass Crown", "Ada Fenwick", SIZE)
    page, area = draw_page(layout, SIZE), letter_area(layout, SIZE)
    assert page.max() == 255 and 0.25 < (page > 127)[area].mean() < 0.6
    assert (page > 127)[~area].sum() < 10  # at the boxes' edges
    assert (draw_page(layout, SIZE) == page).all()
    large = np.asarray(Image.fromarray(draw_page(layout, (512, 768))).reduce(4), float)
    assert np.abs(large - page).mean() < 1.5


def test_turned_lines_are_turned_pages():
    """(x, y) -> (128 - y, x): a quarter turn clockwise."""
    page = page_of("The Moon", box(10, 40, 110, 60), 0.2, (128, 128))
    turned = page_of("The Moon", [(128 - y, x) for x, y in box(10, 40, 110, 60)], 0.2, (128, 128))
    assert np.abs(np.rot90(page, -1).astype(int) - turned).max() <= 2
    upside_down = page_of("The Moon", [(128 - x, 128 - y) for x, y in box(10, 40, 110, 60)], 0.2, (128, 128))
    assert np.abs(page[::-1, ::-1].astype(int) - upside_down).max() <= 2


@pytest.mark.parametrize("slant", [0.3, -0.3])
def test_slanted_letters_lean_by_the_slant(slant):
    """The strokes of "III" move by slant pixels to the right for each pixel upwards."""
    page = page_of("III", box(20, 30, 108, 70), slant).astype(float)
    rows = np.arange(34, 66)
    middles = (page[rows] * np.arange(128)).sum(1) / page[rows].sum(1)
    assert np.polyfit(rows, middles, 1)[0] == pytest.approx(-slant, abs=0.01)


def test_lines_overlap_by_their_maximum_and_what_can_not_be_drawn_is_left_out():
    first = LetterLine("MOON", ((0.1, 0.1), (0.9, 0.1), (0.9, 0.2), (0.1, 0.2)))
    second = LetterLine("sea", ((0.1, 0.15), (0.7, 0.12), (0.7, 0.3), (0.1, 0.3)))
    flat = LetterLine("A", ((0.1, 0.1),) * 4)
    outside = LetterLine("A", ((1.1, 0.1), (1.4, 0.1), (1.4, 0.2), (1.1, 0.2)))
    nothing = [LetterLine(text, first.corners) for text in ("水", " ", "", "A 🐉")]
    pages = [
        draw_page(Layout(lines), SIZE) for lines in ((first,), (second,), (first, second, flat, outside, *nothing))
    ]
    assert (np.maximum(pages[0], pages[1]) == pages[2]).all()
    assert not draw_page(Layout(tuple(nothing)), SIZE).any() and not draw_page(Layout(), SIZE).any()
    assert page_of("MOON", box(-40, 10, 60, 30)).any()  # cut off at the picture's edge
    assert (page_of("MOON", box(-40, 10, 60, 30))[:, :60] == page_of("MOON", box(24, 10, 124, 30))[:, 64:124]).all()


def test_letter_area():
    layout = Layout((LetterLine("A", ((0.25, 0.25), (0.5, 0.25), (0.5, 0.5), (0.25, 0.5))),))
    expected = np.zeros((192, 128), bool)
    expected[48:96, 32:64] = True
    assert (letter_area(layout, SIZE) == expected).all()
    diamond = Layout((LetterLine("A", ((0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5))),))
    assert letter_area(diamond, (100, 100)).mean() == pytest.approx(0.5, abs=0.02)
    assert not letter_area(Layout(), SIZE).any()
