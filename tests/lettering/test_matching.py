"""Which lines show title or author: cases by hand."""

import pytest

from lettering.matching import main_letters, match_lines
from ocr.engine import Line


def box(i, left=0.1, right=0.9):
    return ((left, i / 10), (right, i / 10), (right, i / 10 + 0.08), (left, i / 10 + 0.08))


def matched(texts, title, *authors):
    """[(text, part)] of the lines of a reading that are found."""
    lines = [Line(text, 1.0, box(i)) for i, text in enumerate(texts)]
    return [(line.text, line.part[0]) for line in match_lines(lines, title, authors)]


@pytest.mark.parametrize(
    ("texts", "title", "author", "expected"),
    [
        # One line and several, an author's line between them, false ones beside them
        (["THE LOST WORLD"], "The Lost World", "A. C. Doyle", ["THE LOST WORLD"]),
        (
            ["THE", "ARTHUR CONAN DOYLE", "LOST", "O", "WORLD", "A NOVEL"],
            "The Lost World",
            "Arthur Conan Doyle",
            ["THE", "ARTHUR CONAN DOYLE", "LOST", "WORLD"],
        ),
        (
            ["THE NEW YORK TIMES BESTSELLER", "The Bear", "Penguin Classics"],
            "The Bear",
            "Andrew Krivak",
            ["The Bear"],
        ),
        # What OCR does to words: run together, split, misread
        (["THELOSTWORLD", "ARTHURCONAN DOYLE"], "The Lost World", "Arthur Conan Doyle", None),
        (["T H E  L O S T", "W O RLD"], "The Lost World", "", ["THE LOST", "WORLD"]),
        (["HARRO.WGATE"], "Harrowgate", "", ["HARROWGATE"]),
        (["THE IOST W0RLD"], "The Lost World", "", ["THE LOST WORLD"]),
        # Letters beside the title in one line
        (["a novel by JANE AUSTEN"], "Emma", "Jane Austen", ["JANE AUSTEN"]),
        (["EMMA JANE AUSTEN"], "Emma", "Jane Austen", ["EMMA", "JANE AUSTEN"]),
        (["AGATHA CHRISTIE'S", "POIROT"], "Curtain", "Agatha Christie", ["AGATHA CHRISTIE"]),
        # Series, subtitles
        (
            ["HARRY POTTER", "and the Goblet of Fire"],
            "Harry Potter and the Goblet of Fire (Harry Potter, #4)",
            "",
            None,
        ),
        (["WALDEN"], "Walden: Or, Life in the Woods", "", ["WALDEN"]),
        (
            ["Walden", "or, Life in", "the Woods"],
            "Walden: Or, Life in the Woods",
            "",
            ["Walden", "Or, Life in", "the Woods"],
        ),
        # Short ones
        (["WE"], "We", "Yevgeny Zamyatin", ["WE"]),
        (["THE"], "The Glass Crown", "", []),
        (["OF"], "The Grave of Kingsmere", "", []),
        (["R.U.R.", "ČAPEK"], "R.U.R.", "Karel Čapek", ["R.U.R.", "ČAPEK"]),
        # Another book's, and none
        (["MIDDLEMARCH", "GEORGE ELIOT"], "Moby Dick", "Herman Melville", []),
        ([], "Moby Dick", "Herman Melville", []),
        (["!!!"], "!!!", "", []),
        (["紅樓夢"], "紅樓夢", "曹雪芹", ["紅樓夢"]),
        # Case, marks, accents
        (["moby dick"], "Moby Dick", "", ["moby dick"]),
        (["The Road"], "THE ROAD", "", ["The Road"]),
        (["SAIL,", "HARBOUR,", "AND TIDE"], "Sail, Harbour, and Tide", "", ["SAIL,", "HARBOUR,", "AND TIDE"]),
        (["LES MISERABLES"], "Les Misérables", "Victor Hugo", ["LES MISÉRABLES"]),
        (["PRIDE AND", "PREJUDICE"], "Pride & Prejudice", "", ["PRIDE &", "PREJUDICE"]),
    ],
)
def test_lines(texts, title, author, expected):
    found = [text for text, _ in matched(texts, title, *filter(None, [author]))]
    if expected is None:
        expected = [" ".join([title, author]).upper()] if not author else [title.upper(), author.upper()]
        if "#4" in title:
            expected = ["HARRY POTTER", "and the Goblet of Fire"]
    assert found == expected


def test_each_word_of_the_title_is_shown_once_by_the_largest_line():
    lines = [Line("DUNE", 1.0, box(0, 0.4, 0.6)), Line("DUNE", 1.0, ((0, 0.2), (1, 0.2), (1, 0.6), (0, 0.6)))]
    (line,) = match_lines(lines, "Dune", ["Frank Herbert"])
    assert line.corners == lines[1].corners


def test_a_part_of_a_line_has_its_part_of_the_box():
    (line,) = match_lines([Line("a novel by JANE AUSTEN", 1.0, box(1, 0, 1))], "Emma", ["Jane Austen"])
    assert line.corners == ((0.5, 0.1), (1, 0.1), (1, 0.18), (0.5, 0.18))


def test_several_authors_share_a_line():
    texts = ["IMOGEN PENHALLOW & A.", "A. SALLOW"]
    assert matched(texts, "Orbital Machine", "Imogen Penhallow", "A. A. Sallow") == [
        *(("IMOGEN PENHALLOW", "a"), ("A.", "a"), ("A. SALLOW", "a"))
    ]


def test_lines_of_one_part_have_one_slant():
    lines = [Line("The Quiet Field,", 1.0, box(0), 0.18), Line("or, The Water", 1.0, box(1)), Line("X", 1.0, box(2))]
    lines += [Line("of Fallow Hill", 1.0, box(3), 0.18), Line("R. RAVEN", 1.0, box(4), 0.0)]
    found = match_lines(lines, "The Quiet Field, or, The Water of Fallow Hill", ["R. Raven"])
    assert [line.slant for line in found] == [0.18, 0.18, 0.18, 0.0]


def test_main_letters():
    assert main_letters("Walden: Or, Life in the Woods") == main_letters("Walden (Classics, #3)") == 6
    assert main_letters("Catch-22") == 7 and main_letters("(Sic)") == 3 and main_letters("!!!") == 0
