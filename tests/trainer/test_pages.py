"""Glyph pages in training: where they come from, and what is refused before the run has a folder."""

import types

import numpy as np
import pytest

import config
from common.errors import UserError
from data.book import Book
from diffusion import pipeline
from diffusion.lettering import build_lettering
from trainer import pages

TITLED = Book(row=3, title="The Glass Crown", authors=("Ada Fenwick",))
CAPTIONED = Book(row=4, title="", caption="a castle", file="a.png")


def test_what_is_refused_before_the_run_begins():
    parts = pipeline.load_parts("tiny")
    pages.require_lettered(config.TrainingOptions(), parts, [CAPTIONED])
    with pytest.raises(UserError, match=r"^--letter_loss_weight .*, and this one has none: add --train_lettering True"):
        pages.require_lettered(config.TrainingOptions(letter_loss_weight=2), parts, [TITLED])
    parts.lettering = build_lettering(parts)
    pages.require_lettered(config.TrainingOptions(letter_loss_weight=2), parts, [CAPTIONED, TITLED])
    with pytest.raises(UserError, match=r"^letters are learned from titles, and the data has captions alone"):
        pages.require_lettered(config.TrainingOptions(), parts, [CAPTIONED])


def test_both_sets_get_the_pages_of_all_their_covers(monkeypatch):
    asked = []
    monkeypatch.setattr(pages, "read_layouts", lambda books, options, accelerator: asked.append(books) or "pages")
    train_set, val_set = (types.SimpleNamespace(books=[book], pages=None) for book in (TITLED, CAPTIONED))
    pages.read_pages(train_set, val_set, None, None)
    assert asked == [[TITLED, CAPTIONED]] and train_set.pages == val_set.pages == "pages"


def test_previews_have_title_and_author_by_rule_and_blank_pages_for_what_cant_be_set():
    found = pages.preview_pages([TITLED, CAPTIONED, Book(row=5, title="\u4e2d\u6587")], (64, 96))
    assert [page.shape for page in found] == [(96, 64)] * 3 and {page.dtype for page in found} == {np.dtype(np.uint8)}
    assert [bool(page.any()) for page in found] == [True, False, False]
    ends = found[0][:32].any(), found[0][64:].any()  # title at one end, author at the other
    assert ends == (True, True)
