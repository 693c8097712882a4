"""Lines of lettering -> how much of a text is in them: character accuracy, whatever stands around and between.

accuracy("The Lost World", ["THE", "ARTHUR CONAN DOYLE", "LAST WORLD"])  # 11 / 12
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

import numpy as np

LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ı": "i", "&": " and "})


class Line(NamedTuple):
    """A line of lettering as OCR read it. score: how sure it is, in [0, 1]."""

    text: str
    score: float


def normalise(text):
    """The words of a text, joined by single spaces: letters and digits without case, accents and compatibility forms.

    "Les Misérables: L’Œuvre & the ﬁlm" -> "les miserables l oeuvre and the film"; "?!" -> "".
    """
    letters = unicodedata.normalize("NFKD", text).casefold().translate(LETTERS)
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.sub(r"[\W_]+", " ", unicodedata.normalize("NFC", letters)).split())


def accuracy(wanted, lines):
    """Share of the letters of `wanted` that stand in `lines`, texts in reading order; in [0, 1]; None if it has none.

    Character accuracy, 1 - edits / len(wanted), with the fewest edits (letters put in, left out or changed; Levenshtein
    1966) that make `wanted` of a part of what was read; of nothing, at worst. A part begins and ends with a word, and
    whole lines in between may be left out. So "a novel by Jane Austen" costs her nothing, a title may be split by an
    author's lines or stand in a column beside them, and a short one isn't found inside of longer words. Both sides are
    normalised and compared without spaces: where OCR sees these is a matter of tracking and line breaks.

    Found by dynamic programming over the letters read, as Sellers' for approximate substrings ("The theory and
    computation of evolutionary distances", J. Algorithms 1, 1980).
    """
    wanted = np.array([ord(letter) for letter in normalise(wanted).replace(" ", "")])
    if not len(wanted):
        return None
    none_found = np.arange(len(wanted) + 1)  # edits up to each letter of wanted, if nothing of it was read so far
    fewest = none_found  # at the beginning of a line
    best = len(wanted)
    for line in lines:
        edits = fewest
        for word in normalise(line).split():
            edits = np.minimum(edits, none_found)
            for letter in word:
                extra = edits + 1
                extra[1:] = np.minimum(extra[1:], edits[:-1] + (wanted != ord(letter)))
                edits = np.minimum.accumulate(extra - none_found) + none_found  # letters of wanted that are missing
            best = min(best, int(edits[-1]))
        fewest = np.minimum(fewest, edits)
    return 1 - best / len(wanted)


def title_accuracy(book, lines):
    """accuracy of a book's title; None if it has no letters. book: prompts.Book; lines: Lines."""
    return accuracy(book.title, [line.text for line in lines])


def author_accuracy(book, lines):
    """accuracy of all of a book's authors or of the first alone, whichever is better; None if it names none.

    A cover names its first author; the others in the list may be its translator or illustrator.
    """
    texts = [line.text for line in lines]
    found = [accuracy(names, texts) for names in (" and ".join(book.authors), *book.authors[:1])]
    return max((share for share in found if share is not None), default=None)
