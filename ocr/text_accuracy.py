"""Character accuracy of a title or author in OCR lines, ignoring any other text around and in between.

accuracy("The Lost World", ["THE", "ARTHUR CONAN DOYLE", "LAST WORLD"])  # 11 / 12
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from data.book import Book
    from ocr.engine import Line

LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ı": "i", "&": " and "})


def normalise(text: str) -> str:
    """The words of a text joined by single spaces: letters and digits without case, accents or compatibility forms.

    "Les Misérables: L’Œuvre & the ﬁlm" -> "les miserables l oeuvre and the film"; "?!" -> "".
    """
    letters = unicodedata.normalize("NFKD", text).casefold().translate(LETTERS)
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.sub(r"[\W_]+", " ", unicodedata.normalize("NFC", letters)).split())


def accuracy(expected: str, lines: Iterable[str]) -> float | None:
    """Fraction of the letters of `expected` found in `lines`, texts in reading order; None if it has no letters.

    Character accuracy 1 - edits / len(expected), in [0, 1]: the fewest edits (insertions, deletions, substitutions;
    Levenshtein 1966) that turn a part of the text, at worst an empty one, into `expected`. A part begins and ends at
    word boundaries, and whole lines in between may be skipped. So "a novel by Jane Austen" contains the author exactly,
    a title may be split by an author's lines or stand in a column beside them, and a short one is not found inside
    longer words. Both texts are normalised and compared without spaces, as OCR finds these by letter spacing.

    Dynamic programming over the letters of the lines as in Sellers, "The theory and computation of evolutionary
    distances: pattern recognition", J. Algorithms 1 (1980), for approximate substrings.
    """
    letters = np.array([ord(letter) for letter in normalise(expected).replace(" ", "")])
    if not len(letters):
        return None
    none_found = np.arange(len(letters) + 1)  # edits up to each letter if nothing of it was found so far
    fewest = none_found  # at the beginning of a line
    best = len(letters)
    for line in lines:
        edits = fewest
        for word in normalise(line).split():
            edits = np.minimum(edits, none_found)
            for letter in word:
                extra = edits + 1
                extra[1:] = np.minimum(extra[1:], edits[:-1] + (letters != ord(letter)))
                edits = np.minimum.accumulate(extra - none_found) + none_found  # missing letters
            best = min(best, int(edits[-1]))
        fewest = np.minimum(fewest, edits)
    return 1 - best / len(letters)


def title_accuracy(book: Book, lines: Sequence[Line]) -> float | None:
    """accuracy of the book's title; None if it has no letters."""
    return accuracy(book.title, [line.text for line in lines])


def author_accuracy(book: Book, lines: Sequence[Line]) -> float | None:
    """accuracy of all of the book's authors or of the first alone, whichever is better; None if it has no author.

    A cover names its first author; the others in the list may be its translator or illustrator.
    """
    texts = [line.text for line in lines]
    found = [accuracy(names, texts) for names in (" and ".join(book.authors), *book.authors[:1])]
    return max((share for share in found if share is not None), default=None)
