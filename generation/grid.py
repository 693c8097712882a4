"""Draws grids of covers (books x prompt templates); assembles labelled images into one; saves such pictures."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import config
import dataset
from common.files import write_json
from common.png import save_png
from data import prompts
from data.folder import open_data
from diffusion.sampling import draw_images
from generation.covers import make_folder
from generation.glyph_pages import letters_of, make_pages
from generation.settings import DrawingSettings
from generation.type_on_covers import require_font, require_titles, typeset_cells
from generation.version import Version, load_version


def image_grid(images: torch.Tensor, columns: int, labels: Sequence[str] = (), label_width: int = 1) -> Image.Image:
    """Assembles uint8 images (N, H, W, 3) into one, row by row, `columns` to a row, each under its label.

    label_width: images that share a label, which stands above the first of them.

    Images higher than 384 pixels are reduced to that height; those lower than 192 are enlarged by a whole factor,
    without interpolation. There may be fewer labels than images.
    """
    height, width = images.shape[1:3]
    scale = min(1, 384 / height) if height >= 192 else -(-192 // height)
    width, height = round(width * scale), round(height * scale)
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    text, gap = (16 if any(labels) else 0), 6
    lines = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (width + gap) + gap, lines * (height + text + gap) + gap), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(11)
    for i, image in enumerate(images):
        x = gap + i % columns * (width + gap)
        y = gap + i // columns * (height + text + gap)
        if i % label_width == 0 and i // label_width < len(labels):
            room = min(label_width, columns) * (width + gap) - gap
            pen.text((x, y), shorten_label(labels[i // label_width], room, font), fill="black", font=font)
        page.paste(Image.fromarray(image.numpy()).resize((width, height), resampling), (x, y + text))
    return page


def shorten_label(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The label, cut off with "..." if it is wider than `width` pixels."""
    if len(text) <= width and font.getlength(text) <= width:
        return text
    text = text[:width]  # hardly a letter is narrower than a pixel
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def save_drawing(
    folder: pathlib.Path, front: str, picture: torch.Tensor | Image.Image, settings: DrawingSettings, **more: Any
) -> pathlib.Path:
    """Saves a picture as <folder>/<front>_<hash>.png, and how it was drawn, as JSON beside it; returns its path.

    The hash is that of the settings and of `more`, what else it was made from: the same name is the same picture.
    """
    path = drawing_path(folder, front, settings, **more)
    save_png(path, picture, parameters=settings.parameters(more.get("prompt", ""), more.get("image", 0)))
    write_json(path.with_suffix(".json"), {**settings.to_json(), **more})
    return path


def drawing_path(folder: pathlib.Path, front: str, settings: DrawingSettings, **more: Any) -> pathlib.Path:
    """Where save_drawing saves a picture."""
    record = {**settings.to_json(), **more}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:10]
    return folder / f"{front}_{digest}.png"


def draw_grid(options: config.InferenceOptions, version: Version, folder: pathlib.Path, device: torch.device) -> None:
    """Draws the grid of the original experiment: a row for each held-out book, a column for each prompt template.

    Of pictures with captions, which are their prompts, there is one column.
    All images of a book start from the same latents, so versions can be compared cell by cell.
    """
    require_font(options)
    books = open_data(options).books(options.split)[: options.num_samples]
    require_titles(options, books)
    make_folder(folder)
    pages = make_pages(options, version)
    parts, weights = load_version(options, version.source, device)
    covers = dataset.BookCoverDataset(books, config.size(options), parts.tokenizer, options)
    templates = prompts.TEMPLATES[:1] if any(book.caption for book in books) else prompts.TEMPLATES
    cells = [(book.row, covers.prompt(book, template)) for book in books for template in templates]
    books_of_cells = [book for book in books for _ in templates]
    images = []
    with tqdm(total=len(cells), desc=f"drawing {version.name}", unit="cover") as bar:
        for first in range(0, len(cells), options.batch_size):
            batch = slice(first, first + options.batch_size)
            rows, texts = zip(*cells[batch], strict=True)
            glyphs = [pages.of_book(book) for book in books_of_cells[batch]] if pages else None
            images.append(draw_images(parts, texts, rows, options, version.name, options.negative_prompt, glyphs))
            bar.update(len(rows))
    picture = image_grid(torch.cat(images), len(templates), labels=[text for _, text in cells])
    settings = DrawingSettings.from_options(options, version, weights, pages.layout if pages else None)
    letters = {"letters": [letters_of(book) for book in books]} if pages else {}
    path = save_drawing(folder, f"{version.name}_grid", picture, settings, cells=cells, **letters)
    if pages:
        pages.tell_problems()
    kind = f"books x {len(templates)} templates" if templates == prompts.TEMPLATES else "captions"
    print(f"drew {path}: {len(books)} {kind}")
    if options.typeset:
        typeset_cells(options, folder / f"{path.stem}_cells", books, torch.cat(images))
