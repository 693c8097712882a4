"""Entanglement on the toy model: which tokens are meant, what the numbers must be where they are known."""

import numpy as np
import pytest
import torch

from data.book import Book
from diffusion import encoding, pipeline
from evaluation import entanglement
from evaluation.distances import TooFewImages

WORDS = ("glass", "crown", "river", "night", "tower", "sail", "stone", "garden", "winter", "letter")


def books(count):
    random = np.random.default_rng(0)
    genres = [("fantasy", "fiction"), ("history",), ("Poetry", "poetry"), ("travel", "cooking")]
    titles = [" ".join(random.choice(WORDS, 3)) + f" {i}" for i in range(count)]
    return [Book(row=i, title=title, authors=("Ada F.",), genres=genres[i % 4]) for i, title in enumerate(titles)]


@pytest.fixture(scope="module")
def parts():
    return pipeline.load_parts("tiny")


@pytest.fixture(scope="module")
def codes(parts):
    return entanglement.compute_codes(parts, books(66), (64, 64), seed=0, batch_size=33)


def means(parts, text, *spans):
    return [states.mean(0) for states in encoding.states_of_spans(parts, [text], [spans])[0]]


def test_the_means_are_those_of_the_tokens_in_the_span(parts):
    """With nothing before it a title has the same states in any prompt; genres behind it have others than alone."""
    text = "the glass crown, fantasy"
    ids = parts.tokenizer(text)["input_ids"]
    states = encoding.encode_text(parts.text_encoder, torch.tensor([ids]))[0]
    comma = next(i for i in range(1, len(ids)) if parts.tokenizer.decode(ids[1 : i + 1]).strip().endswith(","))
    spans = [(0, len("the glass crown")), (len("the glass crown, "), len(text))]
    title, genre = means(parts, text, *spans)
    assert torch.allclose(title, states[1:comma].mean(0), atol=1e-5)
    assert torch.allclose(genre, states[comma + 1 : -1].mean(0), atol=1e-5)
    (alone,) = means(parts, "the glass crown", spans[0])
    assert torch.allclose(title, alone, atol=1e-5)
    (other,) = means(parts, "fantasy", (0, len("fantasy")))
    assert not torch.allclose(genre, other, atol=1e-3)


def test_every_book_has_a_row(codes):
    assert {len(x) for x in (codes.title, codes.genres, codes.middle, codes.genre)} == {66}
    assert codes.genre[:4] == ["fantasy", "history", "poetry", "travel"]
    assert len(np.unique(codes.title, axis=0)) == len(np.unique(codes.middle, axis=0)) == 66


def test_clip_skip_and_long_prompts_reach_the_states_that_are_measured(parts, monkeypatch):
    lengths = []
    hook = parts.unet.register_forward_pre_hook(lambda _, args: lengths.append(args[2].shape[1]))
    monkeypatch.setattr(entanglement, "MIN_SAMPLES", 4)
    call = dict(parts=parts, books=books(4), size=(64, 64), seed=0, batch_size=4)
    plain, long, skipped = (
        entanglement.compute_codes(**call, **more) for more in ({}, {"max_tokens": 150}, {"clip_skip": 2})
    )
    hook.remove()
    assert lengths == [77, 154, 77]
    assert np.array_equal(plain.title, long.title) and not np.allclose(plain.middle, long.middle)
    assert not np.allclose(plain.title, skipped.title) and not np.allclose(plain.middle, skipped.middle)


def test_a_model_that_tells_titles_apart_is_entangled_and_one_that_can_not_is_not(codes, parts):
    found = entanglement.excess(codes, seed=0)
    assert found["text"][0] > 4 * found["text"][1] > 0
    deaf = entanglement.Codes(codes.title, codes.genres[np.arange(66) % 4], codes.middle, codes.genre)  # genre alone
    assert abs(entanglement.excess(deaf, seed=0)["text"][0]) < 1e-12


def test_a_batch_changes_nothing(codes, parts):
    again = entanglement.compute_codes(parts, books(66), (64, 64), seed=0, batch_size=7)
    assert np.allclose(again.middle, codes.middle, atol=1e-5) and np.allclose(again.genres, codes.genres, atol=1e-5)
    assert not parts.unet.mid_block._forward_hooks


@pytest.mark.parametrize("some", [books(63), [Book(row=i, title=f"t {i}") for i in range(80)]])
def test_too_few_books_with_genres_are_named(some, parts):
    with pytest.raises(TooFewImages, match="entanglement needs 64 books with genres"):
        entanglement.compute_codes(parts, some, (64, 64), seed=0, batch_size=8)
