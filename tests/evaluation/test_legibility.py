"""The values of legibility, from lines that are given."""

import json

import numpy as np
import pytest

from data.book import Book
from evaluation.legibility import legibility
from ocr.engine import Line


def lines(*texts):
    return [Line(text, 1.0) for text in texts]


def test_values():
    books = [Book(0, "abcde", ("Ann Lee",)), Book(1, "abcde"), Book(2, "vwxyz", ("Bo Ray",)), Book(3, "?", ("Bo Ray",))]
    readings = [lines("abcde", "Ann Lee"), lines("abcd"), lines("vwx"), lines("Bo Ray")]
    values = legibility(readings, books)
    assert list(values) == ["title_accuracy", "titles_read", "author_accuracy", "authors_read"]
    title = values["title_accuracy"]
    assert title.value == pytest.approx((1 + 0.8 + 0.6) / 3) and title.n == 3
    assert title.error == pytest.approx(0.2 / np.sqrt(3))
    assert title.better == "higher" and title.real is None and title.note == "another book's title gets 0.00"
    assert values["author_accuracy"].note == "another book's author gets 0.00"
    assert values["titles_read"].value == pytest.approx(2 / 3)
    assert values["author_accuracy"].value == pytest.approx((1 + 0 + 1) / 3)
    assert values["author_accuracy"].n == values["authors_read"].n == 3
    json.dumps([value.to_json() for value in values.values()], allow_nan=False)

    beside = legibility(readings[:1], books[:1], real=values)
    assert beside["title_accuracy"].real == title.value and beside["title_accuracy"].error is None
    assert beside["title_accuracy"].note is None  # no other title to compare with
    assert beside["authors_read"].value == 1 and 0 < beside["authors_read"].error <= 0.5


def test_chance_is_that_of_the_next_other_title():
    books = [Book(0, "aaaa"), Book(1, "Aaaa"), Book(2, "aabb"), Book(3, "zzzz")]
    values = legibility([lines("aaaa"), lines("aaaa"), lines("zzzz"), lines("aaaa")], books)
    # against aabb, aabb, zzzz and (around the end) aaaa
    assert values["title_accuracy"].note == f"another book's title gets {(0.5 + 0.5 + 1 + 1) / 4:.2f}"
    assert values["titles_read"].note == "another book's title gets 0.50"


def test_the_error_of_a_share_is_binomial_and_never_nothing():
    books = [Book(i, "abcde") for i in range(1000)]
    half = legibility([lines("abcde" if i % 2 else "") for i in range(1000)], books)["titles_read"]
    assert half.error == pytest.approx(np.sqrt(0.5 * 0.5 / 1000), rel=1e-3)
    every = legibility([lines("abcde")] * 1000, books)["titles_read"]
    assert every.value == 1 and 0 < every.error < 1e-3


def test_books_without_authors_have_no_such_value():
    values = legibility([lines("abc")], [Book(0, "abc")])
    assert list(values) == ["title_accuracy", "titles_read"]
    assert legibility([], []) == {}
    with pytest.raises(ValueError, match="1 readings of 2 books"):
        legibility([[]], [Book(0, "a"), Book(1, "b")])
