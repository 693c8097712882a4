"""--decorrelate: one more term of the loss, which keeps titles out of what the text encoder makes of genres.

For each update, 64 prompts in which a book's title stands before its genres, so that the genres' tokens see it. With
T and S the mean states of the tokens of title and genres, and Z the genres, the term is weight * max(0, R*(T, S; Z)):
what title and genres have in common beyond what the genres explain. R*'s noise for 64 independent rows is 0.02.

The term joins all prompts, but never holds the activations of all at once: first the states alone, then the gradient of
the term with respect to them, which is passed back through the text encoder for a few prompts at a time (gradient
caching, Gao et al., arXiv:2101.06983; exact).
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

import config
from common import randomness
from common.errors import UserError
from data.prompts import TitleFirst, count_tokens, genres_of, titles_first
from diffusion import encoding
from diffusion.decorrelation import pairwise_distances, partial_correlation
from diffusion.tokens import ONE_CHUNK, token_limit

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from data.book import Book
    from diffusion.lora_dropout import KeyedDropout
    from diffusion.parts import Parts

NUM_PROMPTS = 64
AT_ONCE = 16  # prompts with activations: 0.6 GiB in Stable Diffusion 1.5's text encoder in half precision
TIMED = 5  # updates that are timed
DROPOUT_SAMPLES = 1 << 62  # far above any sample index of training: dropout of adapters has masks of its own here

Prompts = list[tuple["Book", TitleFirst]]


def make_decorrelation(
    options: config.TrainingOptions,
    books: Sequence[Book],
    parts: Parts,
    accelerator: Any,
    dropout: KeyedDropout | None = None,
) -> Decorrelation | None:
    """The term that the options ask for, None without --decorrelate. UserError if there are too few books for it.

    books: those of the training set; dropout: of adapters.
    """
    if not options.decorrelate:
        return None
    require_enough(books, parts.tokenizer)
    weight, by = options.decorrelate, options.decorrelate_by
    return Decorrelation(weight, by, books, parts, accelerator, options.seed, options.clip_skip, dropout)


def require_enough(books: Sequence[Book], tokenizer: CLIPTokenizer) -> None:
    """UserError unless NUM_PROMPTS of the books can be used."""
    found = len(choose(books, tokenizer, range(len(books))))
    if found < NUM_PROMPTS:
        raise UserError(
            f"--decorrelate needs {NUM_PROMPTS} training books with title and genres, which fit into one prompt of the "
            f"text encoder, and there are {found}: train on more books, or leave --decorrelate out"
        )


def choose(books: Sequence[Book], tokenizer: CLIPTokenizer, order: Sequence[int]) -> Prompts:
    """The first NUM_PROMPTS usable books in that order of indexes, fewer if there are not so many, with their prompts.

    Usable: with a title and genres, which fit into what the text encoder reads at once.
    """
    count, limit = functools.partial(count_tokens, tokenizer), token_limit(tokenizer, ONE_CHUNK)
    return list(itertools.islice(titles_first((books[index] for index in order), count, limit), NUM_PROMPTS))


@dataclass
class Decorrelation:
    """The term of one run. See the module."""

    weight: float
    by: str  # "correlation" or "alone", as in --decorrelate_by
    books: Sequence[Book]
    parts: Parts
    accelerator: Any
    seed: int
    clip_skip: int = 1
    dropout: KeyedDropout | None = None
    seconds: list[float] = field(default_factory=list)  # that the first TIMED calls took
    update_seconds: list[float] = field(default_factory=list)  # that their updates took

    def add_gradients(self, update: int) -> torch.Tensor | None:
        """Add the term's gradient to that of the text encoder's trained weights. Returns its value without the weight,
        0-dim: R*, which can be slightly negative, or the mean squared error.

        None, and nothing is added, in all processes but the first: gradients are summed over processes. The prompts are
        a function of (seed, update).
        """
        if not self.accelerator.is_main_process:
            return None
        began = self.time()
        prompts = self.prompts_of(update)
        parts = [range(i, min(i + AT_ONCE, len(prompts))) for i in range(0, len(prompts), AT_ONCE)]
        with torch.no_grad():
            codes = [self.codes(prompts, rows, update) for rows in parts]
        # In fp32, as autocast is left; the loss scaler of fp16 scales what is passed back
        states = torch.cat(codes).requires_grad_()
        value = self.value(states, prompts)
        (gradient,) = torch.autograd.grad(self.weight * value.relu(), states)
        for rows, part in zip(parts, gradient.split([len(code) for code in codes]), strict=True):
            self.accelerator.backward((self.codes(prompts, rows, update) * part).sum())
        if len(self.seconds) < TIMED:
            self.seconds.append(self.time() - began)
        return value.detach()

    def prompts_of(self, update: int) -> Prompts:
        """The books of an update and their prompts: the first usable ones in a random order."""
        order = randomness.rng(self.seed, randomness.DECORRELATION, update).permutation(len(self.books))
        return choose(self.books, self.parts.tokenizer, order.tolist())

    def codes(self, prompts: Prompts, rows: range, update: int) -> torch.Tensor:
        """float32: of the prompts in `rows`, the mean states of title and genres (n, 2, C) for "correlation"; for
        "alone" the states (k, C) of all tokens of their genres."""
        if self.dropout:
            first = DROPOUT_SAMPLES + update * len(prompts)
            self.dropout.samples = range(first + rows.start, first + rows.stop)
        chosen = [prompt for _, prompt in prompts[rows.start : rows.stop]]
        with self.accelerator.autocast():  # one for each call: what it casts without gradients must not be reused
            states = encoding.states_of_spans(
                self.parts, [p.text for p in chosen], [(p.title, p.genres) for p in chosen], self.clip_skip
            )
        if self.by == "alone":
            return torch.cat([genres for _, genres in states])
        return torch.stack([torch.stack([title.mean(0), genres.mean(0)]) for title, genres in states])

    def value(self, states: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        """The term without its weight, 0-dim, from the codes of all prompts."""
        if self.by == "alone":
            return torch.nn.functional.mse_loss(states, self.states_alone(prompts, states))
        # All genres of a prompt, not just the first, as S is of all: the distance of two books is the root of the
        # number of genres that one of them has and the other has not. For one genre each that is 0 or a constant
        named = [set(genres_of(book)) for book, _ in prompts]
        every = sorted(set().union(*named))
        has = torch.tensor([[float(genre in some) for genre in every] for some in named], device=states.device)
        return partial_correlation(states[:, 0], states[:, 1], pairwise_distances(has))

    @torch.no_grad()
    def states_alone(self, prompts: Prompts, states: torch.Tensor) -> torch.Tensor:
        """The states (k, C) of the genres' tokens where nothing stands before them, in the order of `states`."""
        texts = [prompt.text[prompt.genres[0] :] for _, prompt in prompts]
        if self.dropout:
            self.dropout.samples = range(DROPOUT_SAMPLES, DROPOUT_SAMPLES + len(texts))
        with self.accelerator.autocast():
            spans = [[(0, len(text))] for text in texts]
            alone = torch.cat([one for (one,) in encoding.states_of_spans(self.parts, texts, spans, self.clip_skip)])
        if alone.shape != states.shape:
            raise ValueError(f"genres have {len(alone)} tokens alone, and {len(states)} behind titles")
        return alone

    def time(self) -> float:
        """Seconds of a clock, once the device has done what was asked of it, as long as there is something to time."""
        if len(self.seconds) < TIMED and self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)
        return time.monotonic()

    def cost_note(self, update_seconds: float) -> str | None:
        """After each update, which took so long: what the term costs, once, when TIMED updates are done; else None."""
        if not self.seconds or len(self.update_seconds) == TIMED:
            return None
        self.update_seconds.append(update_seconds)
        if len(self.update_seconds) < TIMED:
            return None
        own, whole = statistics.median(self.seconds), statistics.median(self.update_seconds)
        return f"note: --decorrelate takes {1000 * own:.0f} of the {1000 * whole:.0f} ms of an update"
