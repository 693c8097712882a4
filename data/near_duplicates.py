"""Near-duplicates: which image files show the same picture, also when it was saved anew at another JPEG quality.

Two steps. Each picture has a signature, a tiny image of 8x8 (A. Torralba, R. Fergus, W. T. Freeman, "80 million tiny
images", 2008, find duplicates by the differences of such images), which is kept in the index: those of two different
covers hardly ever agree, but volumes of a series do, which differ by one digit. So pictures with close signatures are
compared in detail: saving anew changes a picture a little all over, another digit changes one place much.

The usual hashes of 64 bits (average, difference, DCT hash) do not suffice: on a plain background, as of the pictures
that stand for a missing cover, noise turns their bits; they do not see colours; and they are one for a whole series.
"""

from __future__ import annotations

import base64
import collections
import itertools
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.images import BadImage, decode_image

SIZE, CHROMA_SIZE = (8, 8), (4, 4)  # of a signature
SIGNATURE_BYTES = 8 * 8 + 2 * 4 * 4
# How far pictures may differ that are the same, in levels of 0..255. Measured on covers with small letters, and on 110
# real ones: a JPEG saved anew at quality 30 or better differs by at most 4, 7 and 16, with a share of 0.06 (most at
# quality 10 by less than 5, 11 and 28); other titles on the same background by 10 or more in the middle grid and 43 or
# more in the fine one, other numbers of a volume by a share of 0.07. Signatures of real covers differ by 43 or more.
MAX_SIGNATURE = 5
MAX_MIDDLE = 10
MAX_FINE = 30  # and if it is more than NOISE, not all in one place:
NOISE = 4
MAX_SHARE = 0.065  # of the squared differences in the fine grid, in a single cell;
MAX_TIMES_MEAN = 40  # of a grid of few cells, as many times a cell's mean share
MIDDLE_GRID, FINE_GRID = (7, 64), (3, 128)  # (pixels that a cell is wide at least, cells on the longer side at most)
CELL = 16  # levels; only pictures in the same or neighbouring cells of brightness are compared


@dataclass(frozen=True)
class Detail:
    """Grey values of a picture in two grids of cells: each uint8 (rows, columns)."""

    middle: np.ndarray
    fine: np.ndarray


def signature(image: Image.Image) -> str:
    """The signature of an RGB image, as text: mean brightness in 8x8 fields, mean chroma (Cb, Cr) in 4x4 fields."""
    box = Image.Resampling.BOX
    brightness, *chroma = image.resize(SIZE, box).convert("YCbCr").split()
    parts = [brightness, *(channel.resize(CHROMA_SIZE, box) for channel in chroma)]
    return base64.b64encode(b"".join(part.tobytes() for part in parts)).decode()


def same_pictures(signatures: Mapping[str, str], paths: Mapping[str, pathlib.Path]) -> dict[str, str]:
    """{content: content of the file that stands for all that show the same picture}, which may be itself.

    signatures: of each different file {content: signature}, paths: where one such file is; a content is the hash of a
    file's bytes. The result does not depend on their order. Decodes only files whose signature is close to another's.
    """
    contents = sorted(signatures)
    packed = b"".join(base64.b64decode(signatures[content]) for content in contents)
    pixels = np.frombuffer(packed, np.uint8).reshape(-1, SIGNATURE_BYTES).astype(np.int16)
    brightness = pixels[:, : SIZE[0] * SIZE[1]].reshape(-1, 2, SIZE[1] // 2, 2, SIZE[0] // 2)
    quarters = brightness.mean((2, 4)).reshape(-1, 4).tolist()  # close, where all pixels are close

    first = list(range(len(contents)))
    groups = collections.defaultdict(list)  # {cell of the quarters' brightness: the first picture of each group there}
    details: dict[int, Detail | None] = {}
    for index in tqdm(range(len(first)), "comparing covers", unit=" covers", delay=3):
        around = [{int((q + d) // CELL) for d in (-MAX_SIGNATURE, MAX_SIGNATURE)} for q in quarters[index]]
        others = [other for cell in itertools.product(*around) for other in groups.get(cell, ())]
        close = (np.abs(pixels[others] - pixels[index]) <= MAX_SIGNATURE).all(1) if others else []
        for other in sorted(itertools.compress(others, close)):
            for i in {index, other} - details.keys():
                details[i] = read_detail(paths[contents[i]])
            if look_the_same(details[index], details[other]):
                first[index] = other
                del details[index]
                break
        else:
            groups[tuple(int(q // CELL) for q in quarters[index])].append(index)
    return {content: contents[i] for content, i in zip(contents, first, strict=True)}


def read_detail(path: pathlib.Path) -> Detail | None:
    """The detail of a picture; None if the file can't be read any more."""
    try:
        return detail(decode_image(path.read_bytes()))
    except (OSError, BadImage):
        return None


def detail(image: Image.Image) -> Detail:
    """The detail of an RGB image."""

    def cells(width: int, most: int) -> np.ndarray:
        scale = min(1 / width, most / max(image.size))
        columns, rows = (max(1, round(side * scale)) for side in image.size)
        return np.asarray(image.convert("L").resize((columns, rows), Image.Resampling.BOX))

    return Detail(cells(*MIDDLE_GRID), cells(*FINE_GRID))


def look_the_same(one: Detail | None, other: Detail | None) -> bool:
    """Whether two pictures with close signatures differ no more than by being saved anew. False for other sizes."""
    if one is None or other is None or one.fine.shape != other.fine.shape or one.middle.shape != other.middle.shape:
        return False
    if np.abs(np.subtract(one.middle, other.middle, dtype=np.int16)).max() > MAX_MIDDLE:
        return False
    squares = np.subtract(one.fine, other.fine, dtype=np.int32) ** 2
    spread = max(NOISE**2, MAX_SHARE * squares.sum(), MAX_TIMES_MEAN * squares.mean())
    return bool(squares.max() <= min(MAX_FINE**2, spread))
