"""Sets title and author on a picture: the one function behind python -m typeset and sd_inference --typeset.

picture, type_set = set_type(picture, "The Glass Crown", "Ada Fenwick", find_face("serif", WEIGHT), "auto")
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from common.errors import UserError
from typesetting.faces import Face
from typesetting.ground import prepare, quieter
from typesetting.layout import Box, letters, margin, set_block

WEIGHT = 650  # of the letters, between semibold and bold: thin ones vanish on a thumbnail
MOST_PIXELS = 2**26  # of an enlarged picture: 8192 x 8192


class TypeSet(NamedTuple):
    """What was set."""

    lines: tuple[str, ...]
    boxes: tuple[Box, ...]  # of the lines, in pixels of the typeset picture
    place: str  # 'top' or 'bottom'
    contrast: float  # the least of all lines, see colour.contrast
    veil: float  # opacity of the veil, 0 = none


def enlarge(picture: Image.Image, width: int) -> Image.Image:
    """The picture, enlarged to `width` pixels with Lanczos; one that is wider stays as it is. UserError: too high."""
    if picture.width >= width:
        return picture
    height = round(picture.height * width / picture.width)
    if width * height > MOST_PIXELS:
        raise UserError(
            f"enlarged from {picture.width}x{picture.height} it would have {width}x{height} pixels, which "
            "is too large: lower --typeset_width"
        )
    return picture.resize((width, max(1, height)), Image.Resampling.LANCZOS)


def set_type(picture: Image.Image, title: str, author: str, face: Face, place: str) -> tuple[Image.Image, TypeSet]:
    """An RGB picture with title and author (may be empty), and what was set. place: auto, top or bottom.

    UserError if the title is empty, has a character that can't be set, or does not fit.
    """
    block = set_block(title, author, face, picture.size)
    edge = margin(picture.size)
    if place == "auto":
        place = quieter(picture, edge + block.height)
    block = block.moved(edge if place == "top" else picture.height - edge - block.height)
    boxes = tuple(line.box for line in block.lines)
    ground = prepare(picture, boxes, place, edge // 2)
    result = ground.picture.copy()
    result.paste(ground.ink, (0, 0), letters(block.lines, picture.size))
    lines = tuple(line.text for line in block.lines)
    return result, TypeSet(lines, boxes, place, ground.contrast, ground.veil)
