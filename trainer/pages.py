"""The glyph pages of a model with lettering: of the covers that it trains on, by OCR; of its previews, by rule."""

from __future__ import annotations

from collections.abc import Sequence

import accelerate
import numpy as np

import config
from common.errors import UserError
from data.book import Book
from data.buckets import Size
from dataset import BookCoverDataset
from diffusion.parts import Parts
from generation.glyph_pages import pages_by_rule
from lettering.readings import read_layouts, require_readable


def require_lettered(options: config.TrainingOptions, parts: Parts, books: Sequence[Book]) -> None:
    """UserError if options are about lettering and the model has none, or if it has and these books have no letters
    that could be read."""
    if parts.lettering is not None:
        require_readable(books)
    elif options.letter_loss_weight != config.TrainingOptions.letter_loss_weight:
        raise UserError(
            "--letter_loss_weight is about the letters of a model with lettering, and this one has none: add "
            "--train_lettering True, or leave it out"
        )


def read_pages(
    train_set: BookCoverDataset,
    val_set: BookCoverDataset,
    options: config.TrainingOptions,
    accelerator: accelerate.Accelerator,
) -> None:
    """Give both sets the glyph pages of their covers; those that were not read yet are read first, by all processes.

    UserError as from read_layouts.
    """
    train_set.pages = val_set.pages = read_layouts(train_set.books + val_set.books, options, accelerator)


def preview_pages(books: Sequence[Book], size: Size) -> list[np.ndarray]:
    """Glyph pages uint8 (H, W) for previews of these books; blank for a book whose texts can't be set."""
    by_rule = pages_by_rule(size)
    return [by_rule.of_book(book) for book in books]
