"""What a score is computed from: drawn covers, the real covers they are compared with, and the features of both."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from common.files import read_json
from data import goodreads
from evaluation import feature_cache

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Sequence

    import config
    from checkpoints.run_folder import RunFolder
    from data.book import Book
    from data.folder import Data
    from diffusion.parts import Parts
    from evaluation.clip import Clip
    from evaluation.features import Extractor
    from evaluation.reference import Stats


@dataclasses.dataclass(frozen=True)
class EvaluationInputs:
    """The covers to score and what they are compared with. Features are computed when a metric first needs them.

    Features are float32 (images, D). The real baseline compares two sets of real covers as if one of them were drawn.
    """

    options: config.InferenceOptions
    folder: pathlib.Path  # of the drawn covers, <row>.png
    run: RunFolder | None  # the run that drew them; None for a model without a run
    data: Data
    books: Sequence[Book]  # whose covers were drawn
    prompts: Sequence[str]  # that their covers were drawn from, in the order of `books`
    extractor: Extractor
    reference: Stats  # of the real covers of --split
    clip: Clip | None  # for CLIP score and CMMD
    load_parts: Callable[[], Parts] | None = None  # the version's networks, ready to draw; for what looks into them

    @functools.cached_property
    def parts(self) -> Parts | None:
        """The version's networks; None if they can't be loaded."""
        return self.load_parts() if self.load_parts else None

    @functools.cached_property
    def drawn(self) -> np.ndarray:
        """Features (n, D) of the drawn covers."""
        return self.drawn_features(self.extractor)

    @functools.cached_property
    def real(self) -> np.ndarray:
        """Features (m, D) of the real covers of --split."""
        return self.real_features(self.data.books(self.options.split), self.extractor, "features of real covers")

    @functools.cached_property
    def real_baseline(self) -> tuple[np.ndarray, np.ndarray]:
        """Features of two sets of real covers without a common book, see baseline_books."""
        return self.baseline_features(self.extractor, self.real)

    @functools.cached_property
    def baseline_books(self) -> tuple[list[Book], list[Book]]:
        """The books of the real baseline, see baseline_books."""
        return baseline_books(self.data, self.options.split, len(self.books))

    def baseline_features(self, extractor: Extractor, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The real baseline in the features of `extractor`. real: those of all covers of --split, to reuse."""
        first, second = self.baseline_books
        if len(second) < len(real):
            real = self.real_features(second, extractor, "features of the real baseline")
        return self.real_features(first, extractor, "features of the real baseline"), real

    def drawn_features(self, extractor: Extractor) -> np.ndarray:
        """Features of the drawn covers by any extractor."""
        rows = [book.row for book in self.books]
        return np.concatenate(list(feature_cache.drawn_features(self.folder, rows, extractor)))

    def real_features(self, books: Sequence[Book], extractor: Extractor, desc: str) -> np.ndarray:
        """Features of the real covers of `books` by any extractor. desc: label of the progress bar."""
        blocks = list(feature_cache.real_features(books, self.options, extractor, desc))
        return np.concatenate(blocks) if blocks else np.empty((0, extractor.dims), np.float32)

    def training_books(self) -> list[Book]:
        """The books that the run was trained on; without a run, all of the training split."""
        saved = read_json(self.run.config) if self.run else {}
        return self.data.books("train")[: saved.get("num_examples")]


def baseline_books(data: Data, split: str, count: int) -> tuple[list[Book], list[Book]]:
    """Two lists of real books without a common book: `count` books from outside of `split`, and all of `split`.

    If there are fewer outside (--split all, say), two parts of `split` of at most `count` books, with all editions of a
    book in the same part. The stable order is random, so its first books are a fair sample.
    """
    inside = data.books(split)
    rows = {book.row for book in inside}
    outside = [book for book in data.books("all") if book.row not in rows]
    if len(outside) >= count:
        return outside[:count], inside
    half_of: dict[object, int] = {}  # of each work: 0 or 1, in turns
    for book in inside:
        half_of.setdefault(goodreads.work_key(book.title, book.authors, book.file), len(half_of) % 2)
    first, second = (
        [book for book in inside if half_of[goodreads.work_key(book.title, book.authors, book.file)] == half]
        for half in (0, 1)
    )
    return first[:count], second[:count]
