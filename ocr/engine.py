"""OCR of a cover: the lines of text on it, with the places where they stand.

    for line in read_text(image): print(line.text, line.corners)

OCR is rapidocr's: text is found by differentiable binarization (Liao et al., arXiv:1911.08947) and read by a CTC
network; both networks (PP-OCRv6, Latin and Chinese letters) come with the package.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError, first_line
from common.hashing import file_sha256
from ocr.slant import slant_of

if TYPE_CHECKING:
    from collections.abc import Sequence

SHORT, LONG = 512, 2000  # px: small covers are enlarged until their short side or their long side has this
READING_VERSION = 2  # raise it when the same cover would get other lines from the same networks
NETWORKS = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}  # text detection, text recognition
UPENDED = 1.5  # see as_read
ENGINE_LOCK = threading.Lock()  # held by the thread that builds the engine; the others wait for it

Point = tuple[float, float]


class Line(NamedTuple):
    """A line of text found by OCR."""

    text: str
    score: float  # confidence in [0, 1]
    corners: tuple[Point, ...] = ()  # four (x, y) in fractions of the cover's width and height, clockwise from the
    # upper left of the text as it is read; () if nobody asked where it stands
    slant: float = 0.0  # of italics: how far an upright stroke goes to the right for each pixel that it rises


class OCRUnavailable(UserError):
    """OCR does not work on this machine: a package, a system library that it needs, or a network is missing."""


def engine() -> Any:
    """The OCR engine (rapidocr.RapidOCR): silent, offline, deterministic, thread-safe. OCRUnavailable without it."""
    with ENGINE_LOCK:  # functools.cache alone would let simultaneous threads build one each
        return build_engine()


@functools.cache
def build_engine() -> Any:
    """A new engine with one thread a cover: several covers at once use the cores better, and results do not vary."""
    networks = {f"{part}.model_path": str(path) for part, path in network_paths().items()}
    import rapidocr

    params = {
        "Global.log_level": "critical",
        "Global.use_cls": False,  # would turn lines that are upside down
        "Global.max_side_len": LONG,
        "Det.limit_type": "max",  # detect lines at full size
        "Det.limit_side_len": LONG,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return rapidocr.RapidOCR(params=params | networks)  # without these paths it downloads missing networks


def network_paths() -> dict[str, pathlib.Path]:
    """{"Det" or "Rec": path} of the networks in the installed package. OCRUnavailable if anything is missing."""
    try:
        import onnxruntime  # noqa: F401  rapidocr imports it and OpenCV only when it reads the first cover
        import rapidocr.main
    except ImportError as problem:  # also for a system library that OpenCV needs
        raise OCRUnavailable(
            f"covers can't be read by OCR: {first_line(problem)}; pip install -r requirements.txt brings "
            "packages, the system's package manager brings a lib*.so (libgl1 has libGL.so.1)"
        ) from None
    folder = pathlib.Path(rapidocr.__file__).parent / "models"
    paths = {part: folder / name for part, name in NETWORKS.items()}
    for path in paths.values():
        if not path.is_file():
            raise OCRUnavailable(
                f"covers can't be read by OCR: rapidocr {version('rapidocr')} has no {path}; "
                "pip install --force-reinstall -r requirements.txt brings it"
            )
    return paths


@functools.cache
def engine_hash() -> str:
    """16 hex digits of everything but the cover that a reading depends on: this code, rapidocr and its networks."""
    networks = [file_sha256(path) for path in network_paths().values()]  # first: it explains a missing rapidocr
    inputs = [READING_VERSION, SHORT, LONG, version("rapidocr"), *networks]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def read_text(image: np.ndarray) -> list[Line]:
    """The lines on a cover, uint8 (H, W, 3) RGB, in reading order: from top to bottom, and from left to right.

    ValueError for another dtype or shape.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    image = enlarge(image)
    result = engine()(np.ascontiguousarray(image[:, :, ::-1]))  # it expects BGR, as OpenCV does
    if result.txts is None:
        return []
    lines, grey = [], Image.fromarray(image).convert("L")
    for i in reading_order(result.boxes):
        corners = as_read(np.asarray(result.boxes[i], float))
        fractions = corners / (image.shape[1], image.shape[0])  # both sides of `image`: enlarging rounds each of them
        places = tuple((round(float(x), 5), round(float(y), 5)) for x, y in fractions)
        lines.append(Line(result.txts[i], round(float(result.scores[i]), 4), places, slant_of(grey, corners)))
    return lines


def as_read(box: np.ndarray) -> np.ndarray:
    """The corners (4, 2) of a box, clockwise from its upper left, from the upper left of its text: rapidocr reads a box
    that is at least UPENDED times as high as it is wide as one line from top to bottom."""
    sides = np.linalg.norm(box - np.roll(box, -1, 0), axis=1)  # upper, right, lower, left
    width, height = int(max(sides[0], sides[2])), int(max(sides[1], sides[3]))
    return np.roll(box, -1, 0) if height >= UPENDED * width else box


def enlarge(image: np.ndarray) -> np.ndarray:
    """The cover, enlarged if it is small (see SHORT and LONG): OCR reads small letters worse."""
    scale = min(SHORT / min(image.shape[:2]), LONG / max(image.shape[:2]))
    if scale <= 1:
        return image
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def reading_order(boxes: np.ndarray | Sequence) -> list[int]:
    """Indices of text boxes (N, 4 corners, 2) in reading order.

    Two boxes are in one line if the distance of their centres is less than half the height of the smaller one.
    """
    boxes = np.asarray(boxes, float)
    left, top, bottom = boxes[:, :, 0].min(1), boxes[:, :, 1].min(1), boxes[:, :, 1].max(1)
    middle, height = (top + bottom) / 2, bottom - top
    rows: list[list[int]] = []
    for i in np.lexsort((left, middle)):
        first = rows[-1][0] if rows else None
        if rows and middle[i] - middle[first] < min(height[i], height[first]) / 2:
            rows[-1].append(i)
        else:
            rows.append([i])
    return [int(i) for row in rows for i in sorted(row, key=lambda i: left[i])]
