"""bench.decorrelate: the numbers of a text encoder, where they are known."""

import numpy as np
import pytest

from bench.decorrelate import text_numbers
from data.book import Book
from diffusion import pipeline
from evaluation import entanglement

WORDS = ("glass", "crown", "river", "night", "tower", "sail", "stone", "garden")


def test_they_are_those_of_the_metric():
    random = np.random.default_rng(0)
    genres = [("fantasy", "fiction"), ("history",), ("poetry",), ("travel", "cooking")]
    books = [Book(i, " ".join(random.choice(WORDS, 3)) + f" {i}", genres=genres[i % 4]) for i in range(64)]
    text, remains = text_numbers("tiny", books).split(" | ")
    codes = entanglement.compute_codes(pipeline.load_parts("tiny"), books, (32, 32), seed=0, batch_size=64)
    assert float(text.split(" ± ")[0]) == pytest.approx(entanglement.excess(codes, 0)["text"][0], abs=1e-3)
    assert 0.1 < float(remains) <= 1  # the states of genres differ with the genres
