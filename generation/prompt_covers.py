"""Draws covers from prompts, of the command line or a file, and sheets that show them side by side."""

from __future__ import annotations

import math
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import CLIPTokenizer

import config
from common.errors import UserError, first_line
from common.png import read_png
from data import prompts
from data.book import Book, normalize_whitespace
from diffusion.parts import Parts
from diffusion.sampling import draw_images
from diffusion.tokens import token_limit
from generation.covers import make_folder
from generation.glyph_pages import BY_TITLE, GlyphPages, make_pages
from generation.grid import drawing_path, image_grid, save_drawing
from generation.settings import DrawingSettings
from generation.type_on_covers import require_font, typeset_covers
from generation.version import Version, load_version

SHEET = 64  # pictures on a sheet, at most
SHEET_COLUMNS = 8
MAX_WARNINGS = 5  # about single prompts of a file


@dataclass(frozen=True)
class Picture:
    """One of the pictures of a prompt."""

    prompt: str
    image: int  # its number, which decides on the latents that it starts from
    letters: tuple[tuple[str, str], ...] = ()  # title and author, as items of a dict, if it shows their letters

    def front(self, version: str) -> str:
        """What its file's name begins with; that of picture 0 is the name of a prompt's only picture."""
        front = f"{version}_prompt_{name_part(self.prompt)}".rstrip("_")
        return f"{front}_{self.image}" if self.image else front

    def record(self) -> dict[str, Any]:
        """What it is made from, besides the settings."""
        return {"prompt": self.prompt} | ({"image": self.image} if self.image else {}) | dict(self.letters)


def draw_prompts(
    options: config.InferenceOptions, version: Version, folder: pathlib.Path, device: torch.device
) -> None:
    """Draws --num_images pictures of --prompt, or of each line of --prompts_file, and saves each in `folder`, see
    grid.save_drawing; then, if there are several, sheets of them.

    Picture K of every prompt starts from the same latents K, so prompts can be compared. UserError for a file without
    prompts.
    """
    lines = {"the prompt": options.prompt} if options.prompt else read_prompts(options.prompts_file)
    require_font(options)
    pages = make_pages(options, version)
    page = page_of_prompt(options, pages)
    letters = (("title", options.title), ("author", options.author or "")) if pages and options.title else ()
    make_folder(folder)
    parts, weights = load_version(options, version.source, device)
    limit = token_limit(parts.tokenizer, options.max_tokens)
    warn_of_long_texts(parts.tokenizer, limit, lines | {"the negative prompt": options.negative_prompt or ""})
    settings = DrawingSettings.from_options(options, version, weights, pages.layout if pages else None)

    texts = list(dict.fromkeys(lines.values()))
    pictures = [Picture(text, image, letters) for text in texts for image in range(options.num_images)]
    paths = [drawing_path(folder, each.front(version.name), settings, **each.record()) for each in pictures]
    drawn = draw_missing(options, parts, dict(zip(paths, pictures, strict=True)), settings, page)
    if options.typeset:
        book = Book(0, options.title, (options.author,) if options.author else ())
        typeset_covers(options, folder, {path.name: book for path in paths})

    if len(paths) == 1:
        print(f"drew {paths[0]}" if drawn else f"{paths[0]} was drawn before, with the same settings")
        return
    before = f"; {len(paths) - drawn} were drawn before, with the same settings" if drawn < len(paths) else ""
    print(f"drew {drawn} covers in {folder}{before}")
    front = pictures[0].front(version.name) if options.prompt else f"{version.name}_prompts"
    for path in save_sheets(folder, front, texts, paths, settings, dict(letters)):
        print(f"drew {path}")


def page_of_prompt(options: config.InferenceOptions, pages: GlyphPages | None) -> np.ndarray | None:
    """The glyph page uint8 (H, W) of --title and --author, blank without them; None for a version without lettering.

    UserError if they can't be set, or if the file of --layout needs a title.
    """
    if pages is None:
        return None
    if options.title or options.layout not in BY_TITLE:
        return pages.page(options.title or "", options.author or "")
    print("note: no letters are drawn: " + ("give --title" if options.prompt else "prompts of a file have no title"))
    return pages.blank()


def draw_missing(
    options: config.InferenceOptions,
    parts: Parts,
    pictures: Mapping[pathlib.Path, Picture],
    settings: DrawingSettings,
    page: np.ndarray | None = None,
) -> int:
    """Draws those of the pictures {path: Picture} that are not there, and saves each batch as soon as it is drawn;
    returns how many. page: uint8 (H, W), the glyph page of all of them, for a version with lettering."""
    missing = {
        path: each for path, each in pictures.items() if not (path.exists() and path.with_suffix(".json").exists())
    }
    paths, limit = list(missing), token_limit(parts.tokenizer, options.max_tokens)
    negative_prompt = options.negative_prompt and readable(options.negative_prompt, limit)
    done = len(pictures) - len(missing)
    with tqdm(
        total=len(pictures), initial=done, desc=f"drawing {settings.version}", unit="cover", disable=len(pictures) == 1
    ) as bar:
        for first in range(0, len(paths), options.batch_size):
            batch = [missing[path] for path in paths[first : first + options.batch_size]]
            texts, rows = [readable(each.prompt, limit) for each in batch], [each.image for each in batch]
            pages = None if page is None else [page] * len(batch)
            images = draw_images(parts, texts, rows, options, settings.version, negative_prompt, pages)
            for each, image in zip(batch, images, strict=True):
                save_drawing(paths[0].parent, each.front(settings.version), image, settings, **each.record())
            bar.update(len(batch))
    return len(missing)


def save_sheets(
    folder: pathlib.Path,
    front: str,
    texts: Sequence[str],
    paths: Sequence[pathlib.Path],
    settings: DrawingSettings,
    letters: Mapping[str, str] | None = None,
) -> list[pathlib.Path]:
    """Saves sheets of pictures, each of about SHEET at most, and returns where; see grid.save_drawing.

    letters: {"title": ..., "author": ...} if the pictures show their letters;
    paths: of the pictures, equally many for each of the prompts `texts`. The pictures of a prompt stand in one row; if
    they are too many for that, on a sheet of their own.
    """
    images = len(paths) // len(texts)
    on_sheet = SHEET // images if images <= SHEET_COLUMNS else 1  # prompts
    saved = []
    for first in range(0, len(texts), on_sheet):
        shown = list(texts[first : first + on_sheet])
        pixels = np.stack([read_png(path) for path in paths[first * images : (first + on_sheet) * images]])
        in_row = min(SHEET_COLUMNS // images, math.ceil(math.sqrt(len(shown) / images)))  # prompts: about a square
        columns = images * in_row or SHEET_COLUMNS
        sheet = image_grid(torch.from_numpy(pixels), columns, shown, label_width=images)
        name = f"{front}_sheet" if len(texts) <= on_sheet else f"{front}_sheet_{first // on_sheet + 1:03}"
        made_from = ({"prompt": shown[0]} if len(shown) == 1 else {"prompts": shown}) | dict(letters or {})
        saved.append(save_drawing(folder, name, sheet, settings, **made_from, images=images))
    return saved


def name_part(prompt: str) -> str:
    """The words of a prompt, for a file's name; different prompts can have the same."""
    return "-".join(re.findall("[a-z0-9]+", prompt.lower()))[:40].strip("-")


# ---------------------------------------------------------------------------------------------------------------------
# Texts


def read_prompts(file: str) -> dict[str, str]:
    """{"line N": prompt} of a text file with one prompt a line, without empty lines and those that begin with #.

    UserError if it can't be read, or has no prompt.
    """
    path = pathlib.Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise UserError(f"can't read --prompts_file {path}: {problem.strerror or first_line(problem)}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"--prompts_file {path} is not text in UTF-8: save it as that, with one prompt on each line")
    lines = {f"line {number}": line.strip() for number, line in enumerate(text.split("\n"), 1)}
    found = {where: line for where, line in lines.items() if line and not line.startswith("#")}
    if not found:
        raise UserError(
            f"--prompts_file {path} has no prompts: write one on each line; empty lines and those that begin with # "
            "are skipped"
        )
    return found


def readable(text: str, limit: int) -> str:
    """The text; or of one that is so long that its tokens would take seconds to count, a start that has too many, too.

    limit: number of tokens that are read.
    """
    longest = limit * prompts.LONGEST_TOKEN
    return normalize_whitespace(text)[:longest] if len(text) > longest else text


def warn_of_long_texts(tokenizer: CLIPTokenizer, limit: int, texts: Mapping[str, str]) -> None:
    """Warns of texts of which only the first `limit` tokens are read. texts: {what it is: text}."""
    warnings = []
    for what, text in texts.items():
        shown = readable(text, limit)
        if (tokens := prompts.count_tokens(tokenizer, shown)) > limit:
            known = tokens if shown == text else f"at least {tokens}"
            warnings.append(f"{what} has {known} tokens, and only the first {limit} are read")
    if len(warnings) > MAX_WARNINGS:
        warnings[MAX_WARNINGS:] = [f"{len(warnings) - MAX_WARNINGS} more prompts are too long"]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
