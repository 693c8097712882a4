"""Legibility: OCR of each cover, and how much of its title and author can be read.

    readings = read_covers(images, total=len(books), cache_folder=folder, desc="reading covers")
    values = legibility(readings, books, real=legibility(readings_of_real_covers, their_books))

OCR is rapidocr's: text is found by differentiable binarization (Liao et al., arXiv:1911.08947) and read by a CTC
network; both networks (PP-OCRv6, Latin and Chinese letters) come with the package. text_accuracy.py compares the lines
with title and author.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import sys
import threading
import zlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from checkpoints.scores import ScoreValue, make_value
from common.errors import UserError, first_line
from common.files import atomic_write
from common.hashing import file_sha256
from common.prefetch import read_ahead
from evaluation.text_accuracy import Line, author_accuracy, normalise, title_accuracy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from data.book import Book

READ = 0.8  # accuracy that counts as read: one wrong letter in five is still readable; other books' titles stay below
SHORT, LONG = 512, 2000  # px: small covers are enlarged until their short side or their long side has this
READING_VERSION = 1  # raise it when the same cover would get other lines from the same networks
CACHE_HINT = "free some space there or choose another --cache_dir"
NETWORKS = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}  # text detection, text recognition
ENGINE_LOCK = threading.Lock()  # held by the thread that builds the engine; the others wait for it


class OCRUnavailable(UserError):
    """OCR does not work on this machine: a package, a system library that it needs, or a network is missing."""


# ---------------------------------------------------------------------------------------------------------------------
# OCR of one cover


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
    result = engine()(np.ascontiguousarray(enlarge(image)[:, :, ::-1]))  # it expects BGR, as OpenCV does
    if result.txts is None:
        return []
    return [Line(result.txts[i], round(float(result.scores[i]), 4)) for i in reading_order(result.boxes)]


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


# ---------------------------------------------------------------------------------------------------------------------
# OCR of many covers, cached


def read_covers(
    images: Iterable[np.ndarray],
    total: int,
    cache_folder: str | pathlib.Path,
    desc: str = "reading covers",
    workers: int | None = None,
) -> list[list[Line]]:
    """The lines on each of `images`, `total` covers uint8 (H, W, 3), in their order; with a progress bar.

    Results are cached in cache_folder, so no cover is read twice. workers: covers read at a time, None = one per core,
    at most 8. OCRUnavailable if OCR does not work here, UserError if the folder can't be written.
    """
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    cache = ReadingsCache(pathlib.Path(cache_folder).expanduser() / f"readings-{engine_hash()}.jsonl")
    readings = read_ahead(cache.read, images, workers)
    with tqdm(readings, desc=desc, total=total, unit=" covers") as bar:
        return list(bar)


class ReadingsCache:
    """A JSON Lines file of OCR results: {"cover": hash of its pixels, "lines": [[text, score], ...], "crc32": of both}.

    A result is appended as soon as a cover was read. Damaged lines (the last one of a killed process, say, or one of
    before there were checksums) are dropped, and their covers read again.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self.known: dict[str, list[Line]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            if content and not content.endswith(b"\n"):
                self.append(b"\n")
        except OSError as problem:
            raise self.write_error(problem) from None
        texts = content.splitlines()
        sound = [text for text in texts if self.take(text)]
        if len(sound) < len(texts):  # what another process appends just now is lost with them, and read again
            print(
                f"{path}: lines damaged or without a checksum, whose covers are read again: {len(texts) - len(sound)}",
                file=sys.stderr,
            )
            with atomic_write(path, CACHE_HINT) as temporary:
                temporary.write_bytes(b"".join(text + b"\n" for text in sound))

    def take(self, text: bytes) -> bool:
        """Make the result in a line of the file known. False if the line is damaged."""
        try:
            entry = json.loads(text)
            key, lines = entry["cover"], entry["lines"]
            if entry["crc32"] != reading_crc32(key, lines):
                return False
            self.known[key] = [Line(str(text), float(score)) for text, score in lines]
        except (ValueError, TypeError, KeyError, RecursionError):
            return False
        return True

    def read(self, image: np.ndarray) -> list[Line]:
        """The lines on a cover, cached or read now."""
        key = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        if key not in self.known:
            lines = read_text(image)
            with self.lock:
                entry = {"cover": key, "lines": lines, "crc32": reading_crc32(key, lines)}
                self.append(json.dumps(entry).encode() + b"\n")
                self.known[key] = lines
        return self.known[key]

    def append(self, content: bytes) -> None:
        """Append to the file. UserError if it can't be written."""
        try:
            with open(self.path, "ab", buffering=0) as file:
                file.write(content)
        except OSError as problem:
            raise self.write_error(problem) from None

    def write_error(self, problem: OSError) -> UserError:
        """The UserError for a failed write."""
        return UserError(f"can't cache OCR results in {self.path}: {problem.strerror or problem}; {CACHE_HINT}")


def reading_crc32(key: str, lines: Sequence[Sequence[Any]]) -> int:
    """The checksum of a result in the file of ReadingsCache."""
    return zlib.crc32(json.dumps([key, lines]).encode())


# ---------------------------------------------------------------------------------------------------------------------
# Legibility


def legibility(
    readings: Sequence[Sequence[Line]], books: Sequence[Book], real: Mapping[str, ScoreValue] | None = None
) -> dict[str, ScoreValue]:
    """{key: value} with the keys title_accuracy, titles_read, author_accuracy, authors_read.

    readings: the result of read_covers for the covers of `books`, in the same order; real: the result of this function
    for the real covers, the upper limit. Keys of titles are left out if no title has letters, those of authors if no
    book has an author. ValueError if readings and books differ in number.

    accuracy: the mean; its standard error is std / √n, None for one cover. read: the fraction of covers with an
    accuracy of at least READ; its standard error is half of Wilson's interval at one standard deviation (J. Am. Stat.
    Assoc. 22, 1927): √(p (1 - p) / n), but not 0 for p near 0 or 1. The note has the same value for wrong titles (for
    each cover the next different one in the list), which any text would get by chance.
    """
    if len(readings) != len(books):
        raise ValueError(f"{len(readings)} readings of {len(books)} books")
    values = {}
    for what, measure in {"title": title_accuracy, "author": author_accuracy}.items():
        accuracies = known([measure(book, lines) for book, lines in zip(books, readings, strict=True)])
        wrong_books = zip(other_books(books, what), readings, strict=True)
        by_chance = known([measure(book, lines) for book, lines in wrong_books if book])
        if not len(accuracies):
            continue
        n, read = len(accuracies), float(np.mean(accuracies >= READ))
        stderr = float(accuracies.std(ddof=1) / math.sqrt(n)) if n > 1 else None
        wilson = math.sqrt(read * (1 - read) * n + 1 / 4) / (n + 1)
        means = {
            f"{what}_accuracy": (f"{what} accuracy", accuracies.mean(), stderr, by_chance),
            f"{what}s_read": (f"{what}s read", read, wilson, by_chance >= READ),
        }
        for key, (name, mean, error, chance) in means.items():
            limit = real[key].value if real and key in real else None
            note = f"another book's {what} gets {chance.mean():.2f}" if len(chance) else None
            values[key] = make_value(name, mean, n=n, better="higher", error=error, real=limit, note=note)
    return values


def known(accuracies: Iterable[float | None]) -> np.ndarray:
    """Those that are not None, as an array."""
    return np.array([accuracy for accuracy in accuracies if accuracy is not None])


def other_books(books: Sequence[Book], what: str) -> list[Book | None]:
    """For each book the next one in the list, cyclically, with another title (or first author); None if all agree.

    what: "title" or "author".
    """
    names = [normalise(book.title if what == "title" else "".join(book.authors[:1])) for book in books]
    found = []
    for i, name in enumerate(names):
        after = itertools.chain(range(i + 1, len(books)), range(i))
        found.append(next((books[k] for k in after if name and names[k] and names[k] != name), None))
    return found
