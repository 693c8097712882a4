"""Where another title changes the picture: inside the boxes of title and author, or all over it.

The real cover is noised to a middling timestep, and the UNet predicts the picture twice: with the book's prompt, and
with another book's title in it. Of the squared change between the two, counted in latents, some share lies inside the
boxes of the cover's letters. A title that is only written there gives 1, one that changes all places alike the boxes'
share of the area, and one that changes what is shown less than that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from common import randomness
from data.book import normalize_whitespace
from data.images import read_cover
from data.prompts import TEMPLATES, build_prompt, count_tokens, genres_of
from diffusion import encoding
from diffusion.lettering import lettering_pages
from diffusion.noise import normal
from diffusion.tokens import token_limit
from evaluation.distances import TooFewImages
from lettering.filling import fill_lines
from lettering.matching import match_lines
from lettering.page import draw_page, letter_area
from lettering.plain import plain_text
from lettering.readings import fitted_layout, shows_title
from lettering.records import Layout
from ocr.readings import read_covers

if TYPE_CHECKING:
    import pathlib

    from data.book import Book
    from diffusion.parts import Parts

TIMESTEP = 0.6  # of all: the picture is there in outline, and its letters are not
MIN_BOOKS, MAX_BOOKS = 8, 240


@dataclass(frozen=True)
class Swap:
    """A book, another one whose title is put into its prompt, and where the letters of its real cover stand."""

    book: Book
    other: Book
    area: np.ndarray  # bool (H, W)
    pages: tuple[np.ndarray, np.ndarray]  # glyph pages uint8 (H, W) with its own title and with the other one


def other_books(books: Sequence[Book]) -> list[Book | None]:
    """For each book the next one in the list, cyclically, with another title and the same first genre; if none has the
    genre, the next with another title; None if there is none either."""
    titles = [normalize_whitespace(book.title) for book in books]
    genres = [genres_of(book)[:1] for book in books]
    found = []
    for i, title in enumerate(titles):
        after = [k % len(books) for k in range(i + 1, i + len(books))]
        others = [k for k in after if titles[k] and titles[k] != title]
        best = next((k for k in others if genres[k] == genres[i]), others[0] if others else None)
        found.append(None if best is None else books[best])
    return found


@torch.no_grad()
def shares_inside(
    parts: Parts,
    swaps: Sequence[Swap],
    size: tuple[int, int],
    seed: int,
    batch_size: int,
    max_tokens: int,
    clip_skip: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """(share of the squared change inside the letters' area, the area's share of the picture), float64 (n,) each.

    size: (W, H) of the covers. The prediction's change is that of the predicted picture times a constant, whether the
    model predicts noise or v; with a lettering the pages change with the title. Swaps that change nothing have no share
    and are left out (CLIP reads small letters alone, and the end of a long title not at all). TooFewImages for less
    than MIN_BOOKS.
    """
    require_enough(len(swaps), "with a title that is found on their real covers")
    count, limit = functools.partial(count_tokens, parts.tokenizer), token_limit(parts.tokenizer, max_tokens)
    schedule: Any = parts.noise_scheduler  # diffusers' hints know neither its methods nor the UNet's calls
    shape = encoding.latent_shape(parts, size)
    timestep = torch.tensor(int(TIMESTEP * schedule.config.num_train_timesteps))
    unet: Any = parts.unet
    vae: Any = parts.vae
    device, dtype = unet.device, unet.dtype
    inside, areas, changes = [], [], []
    for first in tqdm(range(0, len(swaps), batch_size), desc="title swaps", unit="batch", delay=2):
        chunk = swaps[first : first + batch_size]
        covers = np.stack([read_cover(swap.book.image, size) for swap in chunk])
        images = torch.from_numpy(covers).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = encoding.posterior(vae, images)[0] * vae.config.scaling_factor
        noise = normal(seed, randomness.DRAWING, [swap.book.row for swap in chunk], shape).to(device)
        noisy = schedule.add_noise(latents, noise, timestep.to(device).expand(len(chunk)))

        predictions = []
        for number in range(2):
            books = [dataclasses.replace(swap.book, title=(swap.book, swap.other)[number].title) for swap in chunk]
            prompts = [build_prompt(book, TEMPLATES[0], count, limit) for book in books]
            states = encoding.encode_prompts(parts.tokenizer, parts.text_encoder, prompts, max_tokens, clip_skip)
            with shown_pages(parts, chunk, number):
                predictions.append(unet(noisy.to(dtype), timestep.to(device), states.to(dtype), return_dict=False)[0])
        change = (predictions[1].double() - predictions[0].double()).square().sum(1)  # (B, H/8, W/8)
        masks = torch.from_numpy(np.stack([swap.area for swap in chunk])).to(device, torch.float64)
        masks = torch.nn.functional.adaptive_avg_pool2d(masks, change.shape[1:])  # the covered part of each place
        changes.append(change.sum((1, 2)))
        inside.append((change * masks).sum((1, 2)) / changes[-1])
        areas.append(masks.mean((1, 2)))
    shares, changed = torch.cat(inside).cpu().numpy(), torch.cat(changes).cpu().numpy() != 0
    require_enough(int(changed.sum()), "whose picture changes with the title")
    return shares[changed], torch.cat(areas).cpu().numpy()[changed]


def require_enough(count: int, which: str) -> None:
    """TooFewImages unless there are MIN_BOOKS of these books."""
    if count < MIN_BOOKS:
        raise TooFewImages(f"it needs {MIN_BOOKS} books {which}, and there are {count}")


def shown_pages(parts: Parts, swaps: Sequence[Swap], number: int) -> contextlib.AbstractContextManager[None]:
    """Inside, the UNet of a model with lettering draws with the pages of the own titles (0) or of the others (1)."""
    pages = np.stack([swap.pages[number] for swap in swaps])
    return lettering_pages(parts, torch.from_numpy(pages)[:, None])


# ---------------------------------------------------------------------------------------------------------------------
# Which books, and where their letters stand


def find_swaps(books: Sequence[Book], size: tuple[int, int], cache_folder: pathlib.Path) -> list[Swap]:
    """The swaps of those of the first MAX_BOOKS books on whose real covers OCR finds the title.

    size: (W, H) of the covers, at which they are read; cache_folder: of what OCR read, which is the same as that of
    their legibility. OCRUnavailable without OCR.
    """
    usable = [book for book in books if book.title and not book.caption][:MAX_BOOKS]
    covers = (read_cover(book.image, size) for book in usable)
    readings = read_covers(covers, len(usable), cache_folder, "reading real covers")
    swaps = []
    for book, other, lines in zip(usable, other_books(usable), readings, strict=True):
        found = match_lines(lines, book.title, book.authors)
        if other and shows_title(found, book.title):
            layout = fitted_layout(found, dataclasses.replace(book, width=size[0], height=size[1]), size)
            pages = draw_page(layout, size), draw_page(retitled(layout, other.title, size), size)
            swaps.append(Swap(book, other, letter_area(layout, size), pages))
    return swaps


def retitled(layout: Layout, title: str, size: tuple[int, int]) -> Layout:
    """The layout with another title in the title's lines; with none if the plain font can't set it."""
    lines = [line for line in layout.lines if line.part == "title"]
    text = plain_text(title)
    kept = [line for line in layout.lines if line.part != "title"]
    return Layout((*(fill_lines(lines, text, size) if text else ()), *kept))
