"""Glyph pages of covers that are drawn: title and author, white on black, at the places that --layout gives them.

A version with lettering draws its letters from them, see diffusion/lettering.py; others have none.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterable

import numpy as np

import config
from common.errors import UserError
from data.book import Book
from data.folder import open_data
from diffusion import pipeline
from generation.type_on_covers import byline
from generation.version import Version
from lettering.layout import filled, layout_by_rule, layout_like, read_layout
from lettering.page import draw_page
from lettering.readings import known_layouts
from lettering.records import Layout, Size

BY_TITLE = ("rule", "like")  # values of --layout that are no files
SHOWN = 3  # problems that a warning names


class GlyphPages:
    """The pages of covers of one size, by one --layout."""

    def __init__(self, layout: str, size: Size, place: Callable[[str, str, str], Layout]):
        """layout: how settings.json names it; size: (width, height) in pixels; place: (title, author, key of the
        cover) -> where their letters stand. It raises UserError for what can't be set."""
        self.layout, self.size, self.place = layout, size, place
        self.problems: dict[str, str] = {}  # {book whose letters can't be set: why}

    def page(self, title: str, author: str, key: str = "") -> np.ndarray:
        """uint8 (H, W), 255 = letter. UserError if title or author can't be set."""
        return draw_page(self.place(title, author, key), self.size)

    def blank(self) -> np.ndarray:
        """The page of a cover without letters."""
        return np.zeros(self.size[::-1], np.uint8)

    def of_book(self, book: Book) -> np.ndarray:
        """The page of a book; a blank one if its title or author can't be set, which tell_problems tells."""
        try:
            return self.page(*letters_of(book), str(book.row))
        except UserError as problem:
            self.problems[book.name] = str(problem)
            return self.blank()

    def tell_problems(self) -> None:
        """Warns of the books that were drawn without letters."""
        if self.problems:
            first = "; ".join(f"{book}: {why}" for book, why in list(self.problems.items())[:SHOWN])
            print(f"warning: {len(self.problems)} books were drawn without letters: {first}", file=sys.stderr)


def letters_of(book: Book) -> list[str]:
    """[title, author] whose letters the cover of a book shows."""
    return [book.title, byline(book.authors)]


def pages_by_rule(size: Size) -> GlyphPages:
    """Pages whose lines stand where a rule places them."""
    return GlyphPages("rule", size, lambda title, author, _: layout_by_rule(title, author, size))


def pages_by_file(path: str, size: Size) -> GlyphPages:
    """Pages by the layout in a file, which is named by its hash. UserError if it can't be used."""
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"--layout {path}: expected {', '.join(BY_TITLE)}, or a JSON file, and there is no such file")
    layout = read_layout(file)
    return GlyphPages(json_hash(layout.to_json()), size, lambda title, author, _: filled(layout, title, author, size))


def pages_like_training(options: config.InferenceOptions, size: Size) -> GlyphPages:
    """Pages whose lines stand as on training covers; named by a hash of where those stand. UserError if training left
    no readings of them."""
    try:
        examples = known_layouts(open_data(options).books("train"), options, size)
    except UserError as problem:
        raise UserError(f"--layout like: {problem}, or --layout rule") from None
    places = {key: layout.to_json() for key, layout in examples.items()}
    return GlyphPages(
        f"like {json_hash(places)}", size, lambda title, author, key: layout_like(title, author, size, examples, key)
    )


def json_hash(value: object) -> str:
    """32 hex digits that identify a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def make_pages(options: config.InferenceOptions, version: Version) -> GlyphPages | None:
    """The pages that --layout gives the covers of a version; None for a version without lettering.

    UserError if the layout can't be used.
    """
    if not pipeline.has_lettering(version.source):
        return None
    size = config.size(options)
    if options.layout == "rule":
        return pages_by_rule(size)
    return pages_like_training(options, size) if options.layout == "like" else pages_by_file(options.layout, size)


def require_lettering(options: config.InferenceOptions, versions: Iterable[Version]) -> None:
    """UserError, before anything long, if options ask for letters and none of the versions draws any, or if the
    --layout can't be used."""
    versions = list(versions)
    lettered = any(pipeline.has_lettering(version.source) for version in versions)
    names = ", ".join(version.name for version in versions)
    why = f"{names} has no lettering (versions of runs with --train_lettering True have)"
    if options.layout != "rule" and not lettered:
        raise UserError(f"--layout {options.layout}: {why}: leave --layout out")
    if options.layout not in BY_TITLE:
        pages_by_file(options.layout, config.size(options))
    if options.title and not lettered and not options.typeset:
        raise UserError(f"--title: {why}: leave --title out, or set it as type with --typeset True")
