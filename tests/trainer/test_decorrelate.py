"""--decorrelate: which prompts, the gradient that reaches the text encoder, what is refused and said."""

import contextlib
import types

import numpy as np
import pytest
import torch

import config
from common.errors import UserError
from data.book import Book
from diffusion import encoding, pipeline
from diffusion.lora import make_trainable
from evaluation import distance_correlation
from trainer import decorrelate
from trainer.decorrelate import make_decorrelation

WORDS = ("glass", "crown", "river", "night", "tower", "sail", "stone", "garden", "winter", "letter")
GENRES = (("fantasy", "fiction"), ("history",), ("Poetry", "poetry"), ("travel", "cooking"))


def some_books(count):
    random = np.random.default_rng(0)
    titles = [" ".join(random.choice(WORDS, 3)) + f" {i}" for i in range(count)]
    return [Book(row=i, title=title, genres=GENRES[i % 4]) for i, title in enumerate(titles)]


BOOKS = some_books(70)


def term(books=BOOKS, main=True, autocast=contextlib.nullcontext, scale=1.0, **options):
    """The term of a run of `tiny` whose text encoder is trained."""
    options = config.TrainingOptions(**{"decorrelate": 0.5, **options})
    parts = pipeline.build_tiny()
    trainable = make_trainable(parts, options)
    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"),
        is_main_process=main,
        autocast=autocast,
        backward=lambda loss: (scale * loss).backward(),
    )
    return make_decorrelation(options, books, parts, accelerator, trainable.dropout), trainable.parameters()


def direct_gradient(made, parameters, update=3):
    """That of the term with all prompts in one pass."""
    prompts = made.prompts_of(update)
    value = made.value(made.codes(prompts, range(len(prompts)), update), prompts)
    return value.item(), torch.autograd.grad(made.weight * value.relu(), parameters, allow_unused=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"decorrelate_by": "alone", "clip_skip": 2}, {"lora_rank": 2, "lora_dropout": 0.3}],
    ids=["correlation", "alone", "lora"],
)
def test_the_gradient_in_pieces_is_that_of_all_prompts_at_once(options):
    made, parameters = term(**options)
    if made.dropout:
        for p in parameters:  # or the adapters, 0 at first, would change nothing
            torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(1))
    value, expected = direct_gradient(made, parameters)
    assert made.add_gradients(3).item() == pytest.approx(value, abs=1e-6)
    pairs = [(p.grad, grad) for p, grad in zip(parameters, expected, strict=True) if grad is not None]
    assert max(grad.abs().max() for _, grad in pairs) > 1e-3
    for found, grad in pairs:
        assert torch.allclose(found, grad, atol=1e-6)


def test_in_mixed_precision_the_gradient_reaches_every_weight():
    """What autocast casts while no gradient is wanted must not be taken where one is."""
    half = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    (made, parameters), (plain, others) = term(autocast=half, scale=4.0), term()
    assert made.add_gradients(0).item() == pytest.approx(plain.add_gradients(0).item(), abs=0.02)
    found, expected = (torch.cat([p.grad.flatten() for p in some]) for some in (parameters, others))
    assert torch.nn.functional.cosine_similarity(found, expected, 0) > 0.98
    assert found.norm() / expected.norm() == pytest.approx(4, rel=0.05)  # the loss scaler's factor


def test_its_value_is_the_metric_of_its_prompts():
    made, _ = term()
    prompts = made.prompts_of(7)
    with torch.no_grad():
        states = made.codes(prompts, range(64), 7)
        value = made.value(states, prompts).item()
    genres = sorted({genre.lower() for names in GENRES for genre in names})
    has = np.array([[genre in map(str.lower, book.genres) for genre in genres] for book, _ in prompts], float)
    expected = distance_correlation.partial_correlation(states[:, 0].numpy(), states[:, 1].numpy(), has)
    assert value == pytest.approx(expected, abs=1e-5)


def test_alone_is_the_squared_error_to_the_states_without_a_title():
    made, _ = term(decorrelate_by="alone")
    prompts, errors = made.prompts_of(0), []
    with torch.no_grad():
        for _, prompt in prompts:
            genres = prompt.text[prompt.genres[0] :]
            count, behind = (len(made.parts.tokenizer(text)["input_ids"]) - 2 for text in (genres, prompt.text))
            states = encoding.encode_prompts(
                made.parts.tokenizer, made.parts.text_encoder, [prompt.text, genres], 77, clip_skip=1
            )
            errors.append((states[0, 1 + behind - count : 1 + behind] - states[1, 1 : 1 + count]).square().flatten())
    assert made.add_gradients(0).item() == pytest.approx(torch.cat(errors).mean().item(), rel=1e-5)


def test_prompts_are_a_function_of_seed_and_update():
    long = Book(row=100, title="word " * 80, genres=("fantasy",))
    made, _ = term([long, Book(101, "No genre"), Book(102, "", genres=("fantasy",)), *BOOKS])
    rows = [[book.row for book, _ in made.prompts_of(update)] for update in (0, 1, 0)]
    assert rows[0] == rows[2] != rows[1] and len(set(rows[0])) == 64 and max(rows[0] + rows[1]) < 100
    made.seed = 1
    assert [book.row for book, _ in made.prompts_of(0)] != rows[0]


def test_one_process_computes_it():
    made, parameters = term(main=False)
    assert made.add_gradients(0) is None and not any(p.grad is not None for p in parameters)


def test_too_few_books_are_refused_before_anything_else():
    assert term(decorrelate=0.0)[0] is None
    captions = [Book(row=i, title="", caption="a red circle") for i in range(80)]
    for books, count in ((BOOKS[:63], 63), (captions, 0)):
        with pytest.raises(UserError, match=f"needs 64 training books with title and genres.*there are {count}: train"):
            term(books)


def test_its_cost_is_said_once():
    made, _ = term()
    made.seconds = [9.0, 0.2, 0.2, 0.2, 0.2]
    notes = [made.cost_note(seconds) for seconds in (20.0, 1.0, 1.0, 1.0, 1.0, 1.0)]
    assert notes == [None] * 4 + ["note: --decorrelate takes 200 of the 1000 ms of an update", None]
    assert len(notes) == decorrelate.TIMED + 1
