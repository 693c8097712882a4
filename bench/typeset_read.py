"""Can type on covers be read? OCR of titles and authors set on demo scenes, from full size to thumbnails.

    python -m bench.typeset_read                        # a few minutes; the pictures are in typeset_read/

The scenes are those of the demo covers, 512x768 pixels, without their lettering. A text counts as read as in
evaluation/legibility.py: at least 0.8 of its letters are right. Besides the size that they are set in, pictures are
read at 512 pixels wide, as large as the covers that are scored, and at 107, a thumbnail in a shop. OCR overlooks some
letters that are higher than about 200 pixels.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from typing import NamedTuple

import numpy as np
from PIL import Image

from bench import positive
from cli import launch
from cli.parser import Parser
from data.book import Book
from data.csv_file import read_csv
from data.images import decode_image
from demo_data.books import genre_of, row_rng, text_row, title_and_authors
from demo_data.canvas import Art
from demo_data.jacket import LOOKS
from evaluation.legibility import READ
from ocr.engine import read_text
from ocr.text_accuracy import author_accuracy, title_accuracy
from typesetting.cover import WEIGHT, enlarge, set_type
from typesetting.faces import find_face

WIDTHS = (512, 107)  # pixels that typeset pictures are reduced to
HEAD = (
    "| font | on | n | titles read | authors read | thumbnails: titles | authors | least contrast | veiled | s each |"
)


class Scene(NamedTuple):
    """A picture and the book whose title and author are set on it."""

    picture: Image.Image
    title: str
    authors: tuple[str, ...]


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = Parser(
        prog="python -m bench.typeset_read", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=positive, default=24, help="demo scenes")
    parser.add_argument("--data_root", type=pathlib.Path, help="besides: the covers of this folder")
    parser.add_argument(
        "--place", choices=("auto", "top", "bottom"), default="auto", help="see typeset --typeset_place"
    )
    parser.add_argument("--width", type=positive, default=1600, help="width of the typeset pictures in pixels")
    parser.add_argument("--fonts", nargs="+", default=["serif", "sans"], help="fonts: serif, sans or files")
    parser.add_argument("--out", type=pathlib.Path, default="typeset_read", help="folder for the typeset pictures")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    sources = {"demo": [demo_scene(row) for row in range(args.scenes)]}
    if args.data_root:
        sources["covers"] = covers(args.data_root)
    read_at = [f"read at {width} px: titles | authors" for width in (args.width, *WIDTHS)]
    print(f"| font | on | n | {' | '.join(read_at)} | least contrast | veiled | s each |\n|" + "---|" * 12)
    for font in args.fonts:
        face = find_face(font, WEIGHT)
        for name, scenes in sources.items():
            accuracies, contrasts, veils, seconds = [], [], [], 0.0
            for i, scene in enumerate(scenes):
                began = time.monotonic()
                cover, done = set_type(
                    enlarge(scene.picture, args.width), scene.title, " & ".join(scene.authors), face, args.place
                )
                seconds += time.monotonic() - began
                contrasts.append(done.contrast)
                veils.append(done.veil)
                smaller = [resized(cover, width) for width in WIDTHS]
                smaller[0].save(args.out / f"{pathlib.Path(font).stem}-{name}-{i:02}.png")
                book = Book(i, scene.title, scene.authors)
                readings = [read_text(np.asarray(picture)) for picture in (cover, *smaller)]
                accuracies.append([measure(book, lines) for lines in readings for measure in MEASURES])
                if None not in accuracies[-1] and min(accuracies[-1]) < READ:
                    print(f"  {name} {i}: {scene.title} / {scene.authors}: {accuracies[-1]}", flush=True)
            table = np.array(accuracies, float)
            read = [f"{np.mean(column[~np.isnan(column)] >= READ):.2f}" for column in table.T]
            ends = f"{min(contrasts):.2f} | {np.mean(np.array(veils) > 0):.2f} | {seconds / len(scenes):.2f}"
            print(f"| {font} | {name} | {len(scenes)} | {' | '.join(read)} | {ends} |", flush=True)
    return 0


MEASURES = (title_accuracy, author_accuracy)


def resized(picture: Image.Image, width: int) -> Image.Image:
    """The picture, `width` pixels wide."""
    return picture.resize((width, round(width * picture.height / picture.width)), Image.Resampling.LANCZOS)


def demo_scene(row: int) -> Scene:
    """The scene and the book of a row of the demo data, without a label and without lettering; 512x768 pixels."""
    genre, rng = genre_of(row), row_rng(row, "scene")
    title, authors = title_and_authors(row_rng(text_row(row), "text"), genre)
    art = Art((256, 384), rng)  # drawn in twice this size
    LOOKS[genre].scene(art, rng, rng.choice(LOOKS[genre].palettes), 0.62)
    return Scene(art.image, title, tuple(authors))


def covers(root: pathlib.Path) -> list[Scene]:
    """The real covers of a data folder, <number>.jpg, each with title and author of the next one.

    So lettering that is on a cover already is not read as what was set.
    """
    table = read_csv(root / "book_data.csv")
    scenes = []
    for i in range(len(table.rows)):
        book = dict(zip(table.header, table.rows[(i + 1) % len(table.rows)].cells, strict=False))
        path = root / "images" / "images" / f"{i}.jpg"
        if path.exists():
            authors = tuple(book["book_authors"].split("|")[:1])
            scenes.append(Scene(decode_image(path.read_bytes()), book["book_title"], authors))
    return scenes


if __name__ == "__main__":
    launch.run_script(main)
