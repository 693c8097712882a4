"""Texts in boxes: nothing outside, nothing lost, the largest size, lines of about equal length."""

import random
import time

import pytest

from typesetting.faces import find_face
from typesetting.fitting import SMALLEST, Style, Word, balance, fill_lines, fit, line_width, split_words

FACE = find_face("serif", 650)
STYLE = Style(FACE)


def check_fit(text, box, largest=200, whole=0, style=STYLE):
    setting = fit(split_words(text), style, box, largest, whole)
    assert max(line_width(line, style, setting.size) for line in setting.lines) <= box[0]
    assert setting.height <= box[1] and SMALLEST <= setting.size <= largest
    return setting


@pytest.mark.parametrize("tracking", [0.0, 0.07])
def test_whatever_the_text_it_is_inside_and_complete(tracking):
    rng = random.Random(1)
    for _ in range(30):
        words = [
            "".join(rng.choices("abcdefgABCÉgjß", k=rng.choice((1, 3, 5, 9, 40)))) for _ in range(rng.randint(1, 20))
        ]
        box = rng.randint(300, 900), rng.randint(300, 700)
        setting = check_fit(" ".join(words), box, whole=rng.choice((0, 30)), style=Style(FACE, tracking))
        assert "".join(setting.lines).replace("-", "").replace(" ", "") == "".join(words)


def test_the_size_is_the_largest_that_fits():
    setting = check_fit("It", (500, 300), largest=1000)
    assert fit(split_words("It"), STYLE, (500, 300), setting.size, 0) == setting
    for box in ((500, setting.height - 1), (int(line_width("It", STYLE, setting.size)) - 1, 300)):
        smaller = fit(split_words("It"), STYLE, box, 1000, 0)
        assert smaller.size < setting.size or box[0] < 500
    bigger = Style(FACE).face.at(setting.size + 2)
    assert bigger.getbbox("It", anchor="ls")[3] - bigger.getbbox("It", anchor="ls")[1] > 300 - 6 or (
        bigger.getlength("It") > 500
    )


def test_lines_are_balanced():
    assert check_fit("The Lord of the Rings", (900, 700), largest=110).lines == ("The Lord of", "the Rings")
    words = split_words("one two three four five six seven eight nine ten")
    lines = fill_lines(words, 12.0, STYLE)
    even = balance(words, lines, 3.0, 12.0, STYLE)
    widths = [[line_width(line, STYLE, 100) for line in each] for each in (lines, even)]
    assert len(even) == len(lines) and max(widths[1]) <= max(widths[0])
    assert max(widths[1]) - min(widths[1]) <= max(widths[0]) - min(widths[0])


def test_words_are_broken_only_where_they_would_make_the_letters_small():
    word = "Donaudampfschifffahrtsgesellschaft"
    assert check_fit(word, (600, 400), whole=20).lines == (word,)
    broken = check_fit(word, (600, 400), whole=80)
    assert broken.size == 80 and len(broken.lines) > 1
    assert all(line.endswith("-") for line in broken.lines[:-1])
    assert len(check_fit("W" * 81, (600, 400), whole=30).lines) > 1


def test_five_thousand_characters_take_less_than_a_second():
    rng = random.Random(2)
    prose = " ".join("".join(rng.choices("abcdefghij", k=rng.randint(1, 9))) for _ in range(2000))[:5000]
    for text in (prose, "x" * 5000, "a-" * 2500):
        began = time.process_time()
        check_fit(text, (1280, 1900), largest=300, whole=80)
        assert time.process_time() - began < 1


def test_what_can_not_be_set_is_said():
    assert fit(split_words("x" * 5000), STYLE, (100, 100), 20, 20) is None
    assert fit(split_words("It"), STYLE, (2, 100), 20, 20) is None
    assert fit(split_words("It"), STYLE, (100, 2), 20, 20) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a b", ["a", " b"]),
        ("Catch-22 – or", ["Catch-", "22", " –", " or"]),
        ("either/or -x", ["either/", "or", " -x"]),
        ("--", ["--"]),
        ("紅樓夢,「上」a", ["紅", "樓", "夢,", "「上」", "a"]),
    ],
)
def test_where_lines_may_be_broken(text, parts):
    assert [" " * word.spaced + word.text for word in split_words(text)] == parts
    assert fill_lines([Word("ab", False), Word("cd", True)], 99, STYLE) == ["ab cd"]
