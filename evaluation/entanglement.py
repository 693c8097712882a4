"""Entanglement: how far a book's title goes into what the model knows of its genre, and into the whole picture.

Two numbers about a version itself, for no cover is looked at; each is an excess distance correlation, with the books'
first genre as the group (distance_correlation.py): what depends on the title beyond what its genre explains.

    text     states of the genres' tokens against those of the title's, in one prompt in which the title stands first,
             so that the genres' tokens see it (CLIP's attention is causal)
    picture  the middle block of the UNet, at the largest timestep, against the title encoded alone
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from common import randomness
from data.prompts import TEMPLATES, build_prompt, count_tokens, genres_of, titles_first
from diffusion import encoding
from diffusion.noise import normal
from diffusion.tokens import ONE_CHUNK, token_limit
from evaluation.distance_correlation import MIN_SAMPLES, excess_of_rows
from evaluation.distances import TooFewImages, jackknife_stderr

if TYPE_CHECKING:
    from data.book import Book
    from diffusion.parts import Parts

MAX_BOOKS = 240  # R*'s noise is then about 0.006, and an hour of a CPU would not make much of it


@dataclass(frozen=True)
class Codes:
    """Codes of books, float64 (n, D), each with a row for every book."""

    title: np.ndarray  # mean state of the title's tokens; with nothing before it, it is the same in any prompt
    genres: np.ndarray  # mean state of the genres' tokens in data.prompts.TITLE_FIRST
    middle: np.ndarray  # of the UNet, mean over its places
    genre: list[str]  # the first one of each book


def excess(codes: Codes, seed: int) -> dict[str, tuple[float, float]]:
    """{"text", "picture": (excess distance correlation, its standard error)}; 0 is untangled."""
    pairs = {"text": (codes.genres, codes.title), "picture": (codes.middle, codes.title)}
    values = {}
    for name, (x, y) in pairs.items():
        statistic = excess_of_rows(x, y, codes.genre, seed=seed)
        values[name] = statistic(np.arange(len(x))), jackknife_stderr(statistic, len(x))
    return values


@torch.no_grad()
def compute_codes(
    parts: Parts,
    books: Sequence[Book],
    size: tuple[int, int],
    seed: int,
    batch_size: int,
    max_tokens: int = ONE_CHUNK,
    clip_skip: int = 1,
) -> Codes:
    """Codes of the first MAX_BOOKS books with a genre and with a prompt that fits; size: (W, H) of the covers.

    max_tokens, clip_skip: of the states that the UNet gets; clip_skip also of those of titles and genres.
    The UNet sees the same noise for every book. TooFewImages if there are fewer than MIN_SAMPLES such books.
    """
    count = functools.partial(count_tokens, parts.tokenizer)
    one_chunk = token_limit(parts.tokenizer, ONE_CHUNK)
    usable = list(itertools.islice(titles_first(books, count, one_chunk), MAX_BOOKS))
    if len(usable) < MIN_SAMPLES:
        raise TooFewImages(f"entanglement needs {MIN_SAMPLES} books with genres, and there are {len(usable)}")

    noise = normal(seed, randomness.DRAWING, [0], encoding.latent_shape(parts, size))
    timestep = torch.tensor(parts.scheduler.config.num_train_timesteps - 1)  # pure noise: no cover shows through
    unet: Any = parts.unet  # diffusers' hints know no calls
    device, dtype = unet.device, unet.dtype
    middle: list[torch.Tensor] = []
    hook = unet.mid_block.register_forward_hook(lambda _, _args, out: middle.append(out.mean((2, 3)).float()))
    rows: dict[str, list[torch.Tensor]] = {"title": [], "genres": []}
    try:
        with tqdm(total=len(usable), desc="entanglement", unit="book", delay=2) as bar:
            for first in range(0, len(usable), batch_size):
                chunk = usable[first : first + batch_size]
                spans = [(prompt.title, prompt.genres) for _, prompt in chunk]
                for title, genres in encoding.states_of_spans(parts, [p.text for _, p in chunk], spans, clip_skip):
                    rows["title"].append(title.mean(0))
                    rows["genres"].append(genres.mean(0))
                limit = token_limit(parts.tokenizer, max_tokens)
                prompts = [build_prompt(book, TEMPLATES[0], count, limit) for book, _ in chunk]
                states = encoding.encode_prompts(parts.tokenizer, parts.text_encoder, prompts, max_tokens, clip_skip)
                latents = noise.to(device, dtype).expand(len(chunk), -1, -1, -1)
                unet(latents, timestep.to(device), states.to(dtype), return_dict=False)
                bar.update(len(chunk))
    finally:
        hook.remove()
    arrays = {name: torch.stack(some).double().cpu().numpy() for name, some in rows.items()}
    genre = [genres_of(book)[0] for book, _ in usable]
    return Codes(**arrays, middle=torch.cat(middle).double().cpu().numpy(), genre=genre)
