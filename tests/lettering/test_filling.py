"""Lines of a layout, filled with another text."""

import itertools

import numpy as np
import pytest

from lettering.filling import MARGIN, break_evenly, fill_lines, letter_size
from lettering.plain import plain_face
from lettering.records import LetterLine
from typesetting.fitting import Style, split_words, word_width

SIZE = (128, 192)


def line(text, left, top, right, bottom, **more):
    return LetterLine(text, ((left, top), (right, top), (right, bottom), (left, bottom)), **more)


def centre(filled):
    return np.mean(filled.corners, axis=0)


def test_a_line_keeps_centre_and_letter_size_and_gets_as_wide_as_its_text():
    old = line("HARBOUR", 0.2, 0.1, 0.8, 0.15, part="title", slant=0.1)
    (same,) = fill_lines([old], "Harbour", SIZE)
    assert (same.text, same.part, same.slant) == ("HARBOUR", "title", 0.1)  # one in capitals stays so
    assert np.allclose(np.array(same.corners)[:, 1], np.array(old.corners)[:, 1], atol=1e-4)
    (short,) = fill_lines([line("Harbour", 0.3, 0.1, 0.7, 0.15)], "Moon", SIZE)
    (shorter,) = fill_lines([line("Harbour", 0.3, 0.1, 0.7, 0.15)], "Mo", SIZE)
    assert short.text == "Moon" and np.allclose(centre(short), [0.5, 0.125], atol=1e-4)
    assert letter_size(short, "", SIZE) == pytest.approx(letter_size(shorter, "", SIZE), rel=1e-3)
    assert np.ptp(np.array(shorter.corners)[:, 0]) < np.ptp(np.array(short.corners)[:, 0]) < 0.4


def test_a_text_that_is_too_wide_gets_smaller_within_the_margin():
    for corners in (
        ((0.2, 0.1), (0.8, 0.1), (0.8, 0.2), (0.2, 0.2)),
        ((0.3, 0.3), (0.7, 0.5), (0.65, 0.55), (0.25, 0.35)),  # rising and falling lines
        ((0.6, 0.2), (0.6, 0.8), (0.4, 0.8), (0.4, 0.2)),
    ):
        (filled,) = fill_lines([LetterLine("It", corners)], "Counterrevolutionaries", SIZE)
        placed = np.array(filled.corners)
        assert np.allclose(centre(filled), np.mean(corners, axis=0), atol=1e-4)
        room = min(placed.min(), 1 - placed.max())
        assert room == pytest.approx(MARGIN, abs=1e-3)
        # It turns as its place does
        old, new = (np.subtract(c[1], c[0]) * SIZE for c in (corners, filled.corners))
        assert old @ new == pytest.approx(np.linalg.norm(old) * np.linalg.norm(new), rel=1e-3)


@pytest.mark.parametrize("measures", [[6.0, 6.0], [3.0, 9.0, 4.0], [9.0, 2.0], [5.0]])
def test_lines_are_broken_where_the_fullest_line_is_least_full(measures):
    """Against all ways to break the text."""
    words, style = split_words("The Curious History of Ambrose and the Dragon"), Style(plain_face())

    def fullness(lines):
        return max(
            (sum(word_width(w, style) for w in line) + (len(line) - 1) * word_width(" ", style)) / measure
            for line, measure in zip(lines, measures, strict=True)
            if line
        )

    texts, ways = [word.text for word in words], []
    for cuts in itertools.combinations_with_replacement(range(len(texts) + 1), len(measures) - 1):
        ways.append([texts[a:b] for a, b in itertools.pairwise((0, *cuts, len(texts)))])
    lines = break_evenly(words, measures)
    assert " ".join(filter(None, lines)) == " ".join(texts)
    assert fullness([line.split() for line in lines]) == pytest.approx(min(map(fullness, ways)), rel=1e-3)


def test_lines_that_are_not_needed_are_left_out_the_smallest_first():
    lines = [line("THE", 0.4, 0.1, 0.6, 0.14), line("GLASS", 0.1, 0.2, 0.9, 0.3), line("crown", 0.3, 0.35, 0.7, 0.4)]
    (filled,) = fill_lines(lines, "Harbour", SIZE)
    assert np.allclose(centre(filled), [0.5, 0.25], atol=1e-4) and filled.text == "HARBOUR"
    assert [new.text for new in fill_lines(lines[:2], "The Moon", SIZE)] == ["THE", "MOON"]


def test_a_line_without_text_is_filled_to_its_height():
    (filled,) = fill_lines([line("", 0.1, 0.1, 0.9, 0.2, part="title")], "Moon", SIZE)
    placed = np.array(filled.corners)
    assert placed[:, 1].min() == pytest.approx(0.1, abs=1e-4) and placed[:, 1].max() == pytest.approx(0.2, abs=1e-4)
