"""How much of a text is in lines of lettering: cases by hand, and against rapidfuzz over all choices of lines."""

import itertools

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from data.book import Book
from ocr.engine import Line
from ocr.text_accuracy import accuracy, author_accuracy, normalise, title_accuracy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Great Gatsby", "the great gatsby"),
        ("Les Misérables", "les miserables"),
        ("King Solomon’s “Mines”…", "king solomon s mines"),
        ("Pride & Prejudice", "pride and prejudice"),
        ("R.U.R.", "r u r"),
        ("Lud-in-the-Mist", "lud in the mist"),
        ("The Oﬃce of Ｗａｒ № ²", "the office of war no 2"),
        ("Æsop, Œuvre, Łódź, Straße, Øre", "aesop oeuvre lodz strasse ore"),
        ("snake_case\tand\nlines", "snake case and lines"),
        ("紅樓夢", "紅樓夢"),
        ("Преступление", "преступление"),
        ("채식주의자", "채식주의자"),
        ("?!…", ""),
        ("", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    ("wanted", "lines", "expected"),
    [
        ("The Lost World", ["THE LOST WORLD"], 1),
        ("The Lost World", ["THE", "LOST", "WORLD"], 1),
        ("The Lost World", ["THELOST", "W O R L D"], 1),  # spaces don't count
        ("The Lost World", ["A NOVEL", "The Lost World by A. Conan Doyle", "author of"], 1),
        ("The Lost World", ["THE", "ARTHUR", "LOST", "CONAN DOYLE", "WORLD"], 1),  # interleaved, or two columns
        ("The Lost World", ["THE LAST WORLD"], 11 / 12),
        ("The Lost World", ["THE LOSST WORLD"], 11 / 12),
        ("The Lost World", ["THE WORLD"], 8 / 12),
        ("The Lost World", ["WORLD", "THE LOST"], 7 / 12),  # the wrong way round
        ("The Lost World", [], 0),
        ("The Lost World", ["", "?"], 0),
        ("The Lost World", ["qqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"], 0),
        ("It", ["with it", "It"], 1),
        ("It", ["with grit"], 0),  # a short title isn't found inside of words
        ("We", ["We"], 1),
        ("紅樓夢", ["曹雪芹", "紅樓夢"], 1),
        ("紅樓夢", ["THE STORY OF THE STONE"], 0),
        ("Преступление", ["NPECTYN"], 0),
        ("...", ["..."], None),
        ("", ["anything"], None),
    ],
)
def test_accuracy(wanted, lines, expected):
    assert accuracy(wanted, lines) == (None if expected is None else pytest.approx(expected))


def brute_force(wanted, lines):
    """The same by trying each choice of lines, each first and each last word, with rapidfuzz."""
    wanted, lines = normalise(wanted).replace(" ", ""), [normalise(line).split() for line in lines]
    lines, best = [line for line in lines if line], len(wanted)
    for count in range(1, len(lines) + 1):
        for chosen in itertools.combinations(lines, count):
            for start in range(len(chosen[0])):
                for end in range(len(chosen[-1])):
                    parts = [list(line) for line in chosen]
                    parts[-1] = parts[-1][: end + 1]
                    parts[0] = parts[0][start:]
                    best = min(best, Levenshtein.distance(wanted, "".join(itertools.chain(*parts))))
    return 1 - best / len(wanted)


def test_accuracy_is_the_best_of_all_choices():
    random = np.random.default_rng(1)
    for _ in range(300):
        words = ["".join(random.choice(list("abc"), random.integers(1, 5))) for _ in range(10)]
        lines = [" ".join(random.choice(words, random.integers(1, 4))) for _ in range(random.integers(0, 5))]
        wanted = " ".join(random.choice(words, random.integers(1, 5)))
        assert accuracy(wanted, lines) == pytest.approx(brute_force(wanted, lines)), (wanted, lines)


def test_titles():
    lines = [Line("THE LOST", 0.9), Line("Conan Doyle", 0.2), Line("WORLD", 0.9)]
    assert title_accuracy(Book(0, "The Lost World", ("Conan Doyle",)), lines) == 1
    assert title_accuracy(Book(0, "The Last World"), lines) == pytest.approx(11 / 12)
    assert title_accuracy(Book(0, "?"), lines) is None


def test_authors():
    lines = [Line("by KARL MARX", 1.0), Line("& FRIEDRICH ENGELS", 1.0)]
    assert author_accuracy(Book(0, "", ("Karl Marx", "Friedrich Engels")), lines) == 1
    assert author_accuracy(Book(0, "", ("Karl Marx", "A. Translator")), lines) == 1  # the first alone
    assert author_accuracy(Book(0, "", ("Jane Austen", "Karl Marx")), lines) < 0.5
    assert author_accuracy(Book(0, ""), lines) is None
    assert author_accuracy(Book(0, "", ("?",)), lines) is None
