"""PNG files: written atomically, and read with errors that name the file."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.errors import UserError, first_line
from common.files import atomic_write

if TYPE_CHECKING:
    import torch

PNG_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a damaged file


def save_png(
    path: str | os.PathLike[str],
    image: torch.Tensor | Image.Image,
    hint: str = "free some space or choose another --save_dir",
    **texts: str,
) -> None:
    """Write an image, uint8 (H, W, 3) on the CPU or a PIL image, as a PNG file, atomically.

    texts: text chunks by name. `parameters` is how it was drawn, which many viewers of generated images show.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image.numpy())
    chunks = PngInfo()
    for name, text in texts.items():
        chunks.add_text(name, text)
    with atomic_write(path, hint) as temporary:
        picture.save(temporary, format="PNG", pnginfo=chunks)


def png_paths(folder: str | os.PathLike[str], rows: Iterable[int]) -> list[pathlib.Path]:
    """Paths of <folder>/<row>.png for each of `rows`, to read with read_png.

    UserError if one is missing or is not a PNG file, or if their sizes differ.
    """
    folder = pathlib.Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"no folder {folder} with images to score")
    paths = [folder / f"{row}.png" for row in rows]
    sizes: dict[tuple[int, int], pathlib.Path] = {}  # (width, height) -> the first path with it
    for path in paths:
        try:
            with Image.open(path, formats=["PNG"]) as image:
                sizes.setdefault(image.size, path)
        except PNG_ERRORS as problem:
            raise unreadable_png(path, problem) from None
        if len(sizes) > 1:
            (size, first_path), (other_size, other_path) = sizes.items()
            raise UserError(
                "images of one score must have one size: {} is {}x{} and {} is {}x{}; "
                "keep those of other drawings elsewhere".format(first_path, *size, other_path, *other_size)
            )
    return paths


def read_png(path: str | os.PathLike[str]) -> np.ndarray:
    """Pixels of a PNG file: uint8 (H, W, 3), RGB. UserError names the file if it is missing or damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except PNG_ERRORS as problem:
        raise unreadable_png(path, problem) from None


def unreadable_png(path: str | os.PathLike[str], problem: Exception) -> UserError:
    """The error for a PNG file that can't be read."""
    reason = "it does not exist" if isinstance(problem, FileNotFoundError) else first_line(problem)
    return UserError(f"can't read {path} as a PNG image: {reason}; remove it, if it exists, and draw it again")
