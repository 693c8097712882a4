"""Legibility: how much of title and author can be read on covers, from their OCR.

    readings = read_covers(images, total=len(books), cache_folder=folder, desc="reading covers")
    values = legibility(readings, books, real=legibility(readings_of_real_covers, their_books))

ocr/readings.py reads the covers, ocr/text_accuracy.py compares their lines with title and author.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from checkpoints.scores import ScoreValue, make_value
from data.book import Book
from ocr.engine import Line
from ocr.text_accuracy import author_accuracy, normalise, title_accuracy

READ = 0.8  # accuracy that counts as read: one wrong letter in five is still readable; other books' titles stay below


def legibility(
    readings: Sequence[Sequence[Line]], books: Sequence[Book], real: Mapping[str, ScoreValue] | None = None
) -> dict[str, ScoreValue]:
    """{key: value} with the keys title_accuracy, titles_read, author_accuracy, authors_read.

    readings: the result of read_covers for the covers of `books`, in the same order; real: the result of this function
    for the real covers, the upper limit. Keys of titles are left out if no title has letters, those of authors if no
    book has an author. ValueError if readings and books differ in number.

    accuracy: the mean; its standard error is std / √n, None for one cover. read: the fraction of covers with an
    accuracy of at least READ; its standard error is half of Wilson's interval at one standard deviation (J. Am. Stat.
    Assoc. 22, 1927): √(p (1 - p) / n), but not 0 for p near 0 or 1. The note has the same value for wrong titles (for
    each cover the next different one in the list), which any text would get by chance.
    """
    if len(readings) != len(books):
        raise ValueError(f"{len(readings)} readings of {len(books)} books")
    values = {}
    for what, measure in {"title": title_accuracy, "author": author_accuracy}.items():
        accuracies = known([measure(book, lines) for book, lines in zip(books, readings, strict=True)])
        wrong_books = zip(other_books(books, what), readings, strict=True)
        by_chance = known([measure(book, lines) for book, lines in wrong_books if book])
        if not len(accuracies):
            continue
        n, read = len(accuracies), float(np.mean(accuracies >= READ))
        stderr = float(accuracies.std(ddof=1) / math.sqrt(n)) if n > 1 else None
        wilson = math.sqrt(read * (1 - read) * n + 1 / 4) / (n + 1)
        means = {
            f"{what}_accuracy": (f"{what} accuracy", accuracies.mean(), stderr, by_chance),
            f"{what}s_read": (f"{what}s read", read, wilson, by_chance >= READ),
        }
        for key, (name, mean, error, chance) in means.items():
            limit = real[key].value if real and key in real else None
            note = f"another book's {what} gets {chance.mean():.2f}" if len(chance) else None
            values[key] = make_value(name, mean, n=n, better="higher", error=error, real=limit, note=note)
    return values


def known(accuracies: Iterable[float | None]) -> np.ndarray:
    """Those that are not None, as an array."""
    return np.array([accuracy for accuracy in accuracies if accuracy is not None])


def other_books(books: Sequence[Book], what: str) -> list[Book | None]:
    """For each book the next one in the list, cyclically, with another title (or first author); None if all agree.

    what: "title" or "author".
    """
    names = [normalise(book.title if what == "title" else "".join(book.authors[:1])) for book in books]
    found = []
    for i, name in enumerate(names):
        after = itertools.chain(range(i + 1, len(books)), range(i))
        found.append(next((books[k] for k in after if name and names[k] and names[k] != name), None))
    return found
