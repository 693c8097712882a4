"""Which lines of a cover show its title or an author: their true text in place of what OCR read.

    match_lines(read_text(cover), "The Lost World", ["Arthur Conan Doyle"])

A span of a line's words is compared with every span of the title's words, letters alone (text_accuracy.normalise): so
it does not matter that OCR runs words together, splits letter-spaced ones, or misreads some letters. Each word of the
title is shown by one line at most, and a line that shows neither title nor author is left out: a ring that was read as
O, "A NOVEL", the publisher's name.
"""

from __future__ import annotations

import itertools
import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from data.book import normalize_whitespace
from ocr.engine import Line, Point
from ocr.text_accuracy import normalise

WRONG = 0.25  # share of a span's letters that may be misread, missing or too many
WHOLE = 0.6  # share of a line's letters that its spans have to cover together, or else a span must show
MOST = 0.6  # this share of the title, or of the author
EXTRA = 0.25  # what a letter of the line outside of the span counts, against one inside
SHORT = 4  # letters: a shorter span needs the next word of the title beside it, on another line
CAPITALS = 0.7  # share of a line's letters that makes it one in capitals
# A word, an ideograph, or & (which is read as "and")
WORD = re.compile(r"&|[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+(?:['’ʼ][^\W_]+)*")
KEPT = ".!?…"  # after a word; other marks are kept if OCR read them there
SERIES = re.compile(r"\s*\([^()]*\)\s*$")  # "(Harry Potter, #1)" at the end of a title


class TrueLine(NamedTuple):
    """A line of a cover that shows title or author."""

    text: str  # the true one, in the case of the cover
    corners: tuple[Point, ...]  # of OCR's box, as in Line
    slant: float
    part: str  # title or author
    letters: int  # of the title or author that it shows


class Words:
    """A text and its words: letters without case, accents and spaces, and where each stands."""

    def __init__(self, text: str) -> None:
        self.text = unicodedata.normalize("NFC", normalize_whitespace(text))
        found = [(normalise(match[0]).replace(" ", ""), match.span()) for match in WORD.finditer(self.text)]
        self.letters = [letters for letters, _ in found if letters]
        self.places = [place for letters, place in found if letters]
        self.total = sum(map(len, self.letters))

    def spans(self, longest: float) -> Iterator[tuple[int, int, str]]:
        """(first word, word after the last, letters) of every span of at most so many letters."""
        for first in range(len(self.letters)):
            letters = ""
            for last in range(first, len(self.letters)):
                letters += self.letters[last]
                if len(letters) > longest:
                    break
                yield first, last + 1, letters


class Target(NamedTuple):
    """A text that lines may show."""

    part: str
    words: Words
    letters: int  # that must be shown for most of the text; of a title those before its subtitle and its series


class Match(NamedTuple):
    """A span of a line's words that may show a span of a target's."""

    value: float
    line: int
    read: range  # words of the line
    target: int
    shown: range  # words of the target


def match_lines(lines: Sequence[Line], title: str, authors: Sequence[str]) -> tuple[TrueLine, ...]:
    """The lines that show title or author, in reading order, with the true text; a part of a line is one of its own.

    Of all spans of words that agree, the longest are taken first; one with other letters beside it in its line counts
    less, and so does one with wrong letters.
    """
    targets = [Target("title", Words(title), main_letters(title))]
    targets += [Target("author", words := Words(author), words.total) for author in authors]
    read = [Words(line.text) for line in lines]
    chosen = choose(possible_matches(read, targets), lines, read, targets)
    chosen = [match for match in chosen if is_supported(match, chosen, targets)]
    found = [true_line(match, lines[match.line], read[match.line], targets[match.target]) for match in chosen]
    return tuple(with_common_slant(found))


def main_letters(title: str) -> int:
    """How many letters a title has without its subtitle, after a colon, and without its series, in brackets."""
    main = SERIES.sub("", title)
    return Words(main.partition(":")[0]).total or Words(main).total or Words(title).total


def possible_matches(read: Sequence[Words], targets: Sequence[Target]) -> list[Match]:
    """Every span of a line that agrees with a span of a target."""
    longest = max((words.total for words in read), default=0)
    shown = [(t, *span) for t, target in enumerate(targets) for span in target.words.spans(longest / (1 - WRONG))]
    limit = max((len(letters) for *_, letters in shown), default=0)
    spans = [(k, *span) for k, words in enumerate(read) for span in words.spans(limit / (1 - WRONG))]
    if not shown or not spans:
        return []
    edits = cdist([span[3] for span in spans], [span[3] for span in shown], scorer=Levenshtein.distance)
    lengths = np.array([len(span[3]) for span in shown])
    found = []
    for i, j in np.argwhere(edits <= WRONG * lengths).tolist():
        (k, start, end, letters), (t, first, last, _) = spans[i], shown[j]
        value = lengths[j] - 2 * edits[i, j] - EXTRA * (read[k].total - len(letters))
        found.append(Match(float(value), k, range(start, end), t, range(first, last)))
    return found


def choose(
    matches: Sequence[Match], lines: Sequence[Line], read: Sequence[Words], targets: Sequence[Target]
) -> list[Match]:
    """Those of most value in which no word, read or true, is used twice; in reading order. Of equal ones the larger.

    They must cover WHOLE of their line, together with those chosen before, or show MOST of their target.
    """

    def order(match: Match) -> tuple[float, float, int, int, int]:
        return -match.value, -height(lines[match.line]), match.target, match.line, match.shown.start

    used: set[tuple[str, int, int]] = set()
    covered = [0] * len(lines)
    chosen = []
    for match in sorted(matches, key=order):
        words = {("read", match.line, i) for i in match.read} | {("true", match.target, i) for i in match.shown}
        line, target = read[match.line], targets[match.target]
        cover = covered[match.line] + sum(len(line.letters[i]) for i in match.read)
        shown = shown_letters(match, target)
        if not words & used and (cover >= WHOLE * line.total or shown >= max(SHORT, MOST * target.letters)):
            used |= words
            covered[match.line] = cover
            chosen.append(match)
    return sorted(chosen, key=lambda match: (match.line, match.read.start))


def shown_letters(match: Match, target: Target) -> int:
    """How many letters of its target a span shows."""
    return sum(len(target.words.letters[i]) for i in match.shown)


def height(line: Line) -> float:
    """Height of a line's box in fractions of the cover's."""
    return max((y for _, y in line.corners), default=0.0) - min((y for _, y in line.corners), default=0.0)


def is_supported(match: Match, chosen: Sequence[Match], targets: Sequence[Target]) -> bool:
    """Whether a span is long enough to be no accident, or all of its target, or has the next word beside it."""
    target = targets[match.target]
    beside = (match.shown.start - 1, match.shown.stop)
    neighbours = (i for other in chosen if other.target == match.target for i in other.shown)
    return shown_letters(match, target) >= min(SHORT, target.letters) or any(i in beside for i in neighbours)


def true_line(match: Match, line: Line, read: Words, target: Target) -> TrueLine:
    """The true text of a span, in the place of what was read."""
    start, end = read.places[match.read.start][0], read.places[match.read.stop - 1][1]
    after = read.places[match.read.stop][0] if match.read.stop < len(read.places) else len(read.text)
    text = target.words.text
    first, last = target.words.places[match.shown.start][0], target.words.places[match.shown.stop - 1][1]
    marks = itertools.takewhile(lambda mark: mark in KEPT or mark in read.text[end:after].strip(), text[last:])
    true = in_case_of(text[first:last] + "".join(marks), read.text[start:end])
    whole = len(match.read) == len(read.letters)
    corners = line.corners if whole else part_of(line.corners, start / len(read.text), end / len(read.text))
    return TrueLine(true, corners, line.slant, target.part, shown_letters(match, target))


def in_case_of(true: str, read: str) -> str:
    """The true text in capitals, in small letters, or as it is, like what was read."""
    capitals, small = sum(map(str.isupper, read)), sum(map(str.islower, read))
    if capitals >= CAPITALS * (capitals + small):
        return true.upper() if capitals else true
    if not capitals and small >= SHORT:
        return true.lower()
    return string.capwords(true) if true.isupper() and small >= SHORT else true


def part_of(corners: Sequence[Point], start: float, end: float) -> tuple[Point, ...]:
    """The corners of a part of a line, from a fraction of its length to another one; () if there are none."""
    if not corners:
        return ()
    first, second, third, fourth = np.array(corners)
    points = [
        *(first + start * (second - first), first + end * (second - first)),
        *(fourth + end * (third - fourth), fourth + start * (third - fourth)),
    ]
    return tuple((round(float(x), 5), round(float(y), 5)) for x, y in points)


def with_common_slant(lines: Sequence[TrueLine]) -> list[TrueLine]:
    """The lines, those of one part with one slant: the median over their letters. In a single line it may be missed."""
    slants = {}
    for part in {line.part for line in lines}:
        each = [[line.slant] * len(line.text) for line in lines if line.part == part]
        slants[part] = float(np.median(list(itertools.chain(*each))))
    return [line._replace(slant=round(slants[line.part], 2)) for line in lines]
