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

WITHOUT = "give --train_lettering False, and another --pretrained_model if this one has lettering"


def require_lettered(options: config.TrainingOptions, parts: Parts, books: Sequence[Book]) -> None:
    """UserError if options are about lettering and the model has none, or if it has and no book has a title."""
    if parts.lettering is None:
        if options.letter_loss_weight != config.TrainingOptions.letter_loss_weight:
            raise UserError(
                "--letter_loss_weight is about the letters of a model with lettering, and this one has none: add "
                "--train_lettering True, or leave it out"
            )
    elif not any(book.title for book in books):
        raise UserError(
            f"lettering learns to draw titles, and none of the {len(books)} covers to train on has one (pictures with "
            f"captions have none): {WITHOUT}"
        )


def read_pages(
    train_set: BookCoverDataset,
    val_set: BookCoverDataset,
    options: config.TrainingOptions,
    accelerator: accelerate.Accelerator,
) -> None:
    """Give both sets the glyph pages of their covers; those not in the cache are read first, by all processes.

    UserError if no letters were found on the covers to train on.
    """
    from lettering.readings import read_layouts

    pages = read_layouts(train_set.books + val_set.books, options, accelerator)
    if not any(pages(book, size).any() for book, size in zip(train_set.books, train_set.sizes, strict=True)):
        raise UserError(
            f"OCR found no title and no author on any of the {len(train_set.books)} covers to train on: {WITHOUT}"
        )
    train_set.pages = val_set.pages = pages


def preview_pages(books: Sequence[Book], size: Size) -> list[np.ndarray]:
    """Glyph pages uint8 (H, W) for previews of these books; blank for a book whose texts can't be set."""
    from lettering.layout import layout_by_rule
    from lettering.page import draw_page

    pages = []
    for book in books:
        try:
            layout = layout_by_rule(book.title, ", ".join(book.authors), size)
        except UserError:
            pages.append(np.zeros(size[::-1], np.uint8))
        else:
            pages.append(draw_page(layout, size))
    return pages
