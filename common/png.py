"""PNG files: written whole or not at all, read with errors that name the file."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from common.errors import UserError, first_line
from common.files import atomic_write


def save_png(path, image, hint="free some space or choose another --save_dir"):
    """Write a picture (uint8 (H, W, 3) or PIL image) as PNG, whole or not at all."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image.numpy())
    with atomic_write(path, hint) as temporary:
        image.save(temporary, format="PNG")


PNG_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a broken file


def png_paths(folder, rows):
    """Paths of <folder>/<row>.png for each of `rows`, whose pixels read_png reads.

    UserError if one is missing or no PNG, or if their sizes differ.
    """
    folder = pathlib.Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"no folder {folder} with images to score")
    paths = [folder / f"{row}.png" for row in rows]
    sizes = {}  # (width, height) -> first path
    for path in paths:
        try:
            with Image.open(path, formats=["PNG"]) as image:
                sizes.setdefault(image.size, path)
        except PNG_ERRORS as problem:
            raise unreadable(path, problem) from None
        if len(sizes) > 1:
            (first, where), (second, there) = sizes.items()
            raise UserError(
                "images of one score must have one size: {} is {}x{} and {} is {}x{}; "
                "keep those of other drawings elsewhere".format(where, *first, there, *second)
            )
    return paths


def read_png(path):
    """uint8 (H, W, 3) of a PNG file. UserError names the file if it is damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except PNG_ERRORS as problem:
        raise unreadable(path, problem) from None


def unreadable(path, problem):
    reason = "it is not there" if isinstance(problem, FileNotFoundError) else first_line(problem)
    return UserError(f"can't read {path} as a PNG image: {reason}; remove it, if it is there, and draw it again")
