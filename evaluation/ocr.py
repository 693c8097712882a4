"""Can the lettering be read? OCR of each cover, and how much of its title and author is found in it.

    readings = read_covers(images, total=len(books), cache_folder=folder, desc="reading covers")
    values = legibility(readings, books, real=legibility(readings_of_real_covers, their_books))

OCR is rapidocr's: text is found by differentiable binarization (Liao et al., arXiv:1911.08947) and read by a CTC
network; both networks (PP-OCRv6, Latin and Chinese letters) come with the package. How much of a text stands in what
was read, lettering.py says.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import threading
from importlib.metadata import version

import numpy as np
from PIL import Image
from tqdm import tqdm

from checkpoints import scores
from common.errors import UserError, first_line
from common.hashing import file_sha256
from common.prefetch import read_ahead
from evaluation.text_accuracy import Line, author_accuracy, normalise, title_accuracy

READ = 0.8  # of the letters: the eye completes a word with one letter in five wrong; other books' titles stay below
SHORT, LONG = 512, 2000  # px: small covers are enlarged until one of their sides has this
READING_VERSION = 1  # raise it when the same cover would get other lines from the same networks
NETWORKS = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}  # that find lines, that read them
BUILDING = threading.Lock()  # held by the thread that builds the engine; the others wait for it


class NoOCR(UserError):
    """No cover can be read here: a package is missing, or a library that it wants from the system, or a network."""


# ---------------------------------------------------------------------------------------------------------------------
# Cover -> lines


def engine():
    """The OCR engine, silent and off the network; the same lines on each call, from any thread. NoOCR without it."""
    with BUILDING:  # functools.cache alone lets threads that come at once build one each
        return build_engine()


@functools.cache
def build_engine():
    """engine's. One thread for each cover: several covers at once fill the cores better, and sums are the same."""
    networks = {f"{part}.model_path": str(path) for part, path in network_paths().items()}
    import rapidocr

    params = {
        "Global.log_level": "critical",
        "Global.use_cls": False,  # it turns lines that stand on their heads
        "Global.max_side_len": LONG,
        "Det.limit_type": "max",  # lines are looked for in the cover as large as it comes
        "Det.limit_side_len": LONG,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return rapidocr.RapidOCR(params=params | networks)  # without their paths it downloads what it doesn't find


def network_paths():
    """{part: path} of the networks in the installed package. NoOCR if one is missing, or what they need to run."""
    try:
        import onnxruntime  # noqa: F401  rapidocr itself imports this one and OpenCV late, when the first cover is read
        import rapidocr.main
    except ImportError as problem:  # also of a library that OpenCV wants from the system
        raise NoOCR(
            f"covers can't be read by OCR: {first_line(problem)}; pip install -r requirements.txt brings "
            "packages, the system's package manager brings a lib*.so (libgl1 has libGL.so.1)"
        ) from None
    folder = pathlib.Path(rapidocr.__file__).parent / "models"
    paths = {part: folder / name for part, name in NETWORKS.items()}
    for path in paths.values():
        if not path.is_file():
            raise NoOCR(
                f"covers can't be read by OCR: rapidocr {version('rapidocr')} has no {path}; "
                "pip install --force-reinstall -r requirements.txt brings it"
            )
    return paths


@functools.cache
def engine_hash():
    """16 hex digits of what readings depend on besides the cover: the code here and of rapidocr, and the networks."""
    networks = [file_sha256(path) for path in network_paths().values()]  # first: it tells if rapidocr isn't there
    made = [READING_VERSION, SHORT, LONG, version("rapidocr"), *networks]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]


def read_text(image):
    """The Lines on a cover, uint8 (H, W, 3) RGB, in reading order: from the top down, and from left to right."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    result = engine()(np.ascontiguousarray(enlarge(image)[:, :, ::-1]))  # it wants BGR, as OpenCV has it
    if result.txts is None:
        return []
    return [Line(result.txts[i], round(float(result.scores[i]), 4)) for i in reading_order(result.boxes)]


def enlarge(image):
    """The cover, if small enlarged as SHORT and LONG say: letters are cut out of it, and small ones are read worse."""

    scale = min(SHORT / min(image.shape[:2]), LONG / max(image.shape[:2]))
    if scale <= 1:
        return image
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def reading_order(boxes):
    """Indices of text boxes (N, 4 corners, 2) in reading order.

    Two boxes stand in one line if their middles are less than half of the lower one's height apart.
    """
    boxes = np.asarray(boxes, float)
    left, top, bottom = boxes[:, :, 0].min(1), boxes[:, :, 1].min(1), boxes[:, :, 1].max(1)
    middle, height = (top + bottom) / 2, bottom - top
    rows = []
    for i in np.lexsort((left, middle)):
        first = rows[-1][0] if rows else None
        if rows and middle[i] - middle[first] < min(height[i], height[first]) / 2:
            rows[-1].append(i)
        else:
            rows.append([i])
    return [int(i) for row in rows for i in sorted(row, key=lambda i: left[i])]


# ---------------------------------------------------------------------------------------------------------------------
# Covers -> readings, kept


def read_covers(images, total, cache_folder, desc="reading covers", workers=None):
    """For each of `images`, an iterable of `total` uint8 (H, W, 3), its Lines, in order; with a progress bar.

    What was read is kept in cache_folder, and no cover is read twice. workers: covers read at a time, None = one for
    each core, at most 8. NoOCR if there is none, UserError if the folder can't be written.
    """
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    kept = Readings(pathlib.Path(cache_folder).expanduser() / f"readings-{engine_hash()}.jsonl")
    readings = read_ahead(kept.read, images, workers)
    with tqdm(readings, desc=desc, total=total, unit=" covers") as bar:
        return list(bar)


class Readings:
    """A file of what was read: a JSON object a line, {"cover": hash of its pixels, "lines": [[text, score], ...]}.

    A line is added as soon as a cover was read. One that is damaged (a killed run's last, say) doesn't count.
    """

    def __init__(self, path):
        self.path, self.lock, self.known = path, threading.Lock(), {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            if content and not content.endswith(b"\n"):
                self.append(b"\n")
        except OSError as problem:
            raise self.unusable(problem) from None
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                self.known[entry["cover"]] = [Line(str(text), float(score)) for text, score in entry["lines"]]
            except (ValueError, TypeError, KeyError):
                continue

    def read(self, image):
        """The Lines of a cover, from the file if they are there."""
        key = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        if key not in self.known:
            lines = read_text(image)
            with self.lock:
                self.append(json.dumps({"cover": key, "lines": lines}).encode() + b"\n")
                self.known[key] = lines
        return self.known[key]

    def append(self, content):
        try:
            with open(self.path, "ab", buffering=0) as file:
                file.write(content)
        except OSError as problem:
            raise self.unusable(problem) from None

    def unusable(self, problem):
        return UserError(
            f"can't keep what was read in {self.path}: {problem.strerror or problem}; free some space there or choose "
            "another --cache_dir"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Readings -> values


def legibility(readings, books, real=None):
    """Values by their keys: title_accuracy, titles_read, author_accuracy, authors_read (see scoring.py for a value).

    readings: what read_covers gave for the covers of `books`, in the same order; real: what this function gave for
    real covers, the ceiling. Where no book has an author (or a title with letters), these keys are left out.

    accuracy: mean; its error is the standard deviation / √n, None for one cover. read: share of covers with an accuracy
    of READ or more; its error is half of Wilson's interval at one standard deviation (J. Am. Stat. Assoc. 22, 1927),
    which is √(p (1 - p) / n) but for a share near 0 or 1, where it doesn't vanish. The note tells the same figure for
    other books' titles (of each cover, the next in the list that is another), which any lettering would get.
    """
    if len(readings) != len(books):
        raise ValueError(f"{len(readings)} readings of {len(books)} books")
    told = {}
    for what, measure in {"title": title_accuracy, "author": author_accuracy}.items():
        shares = [measure(book, lines) for book, lines in zip(books, readings, strict=True)]
        pairs = zip(others(books, what), readings, strict=True)
        chances = [measure(book, lines) for book, lines in pairs if book]
        shares, chances = (np.array([share for share in found if share is not None]) for found in (shares, chances))
        if not len(shares):
            continue
        n, read = len(shares), float(np.mean(shares >= READ))
        error = float(shares.std(ddof=1) / math.sqrt(n)) if n > 1 else None
        wilson = math.sqrt(read * (1 - read) * n + 1 / 4) / (n + 1)
        means = {
            f"{what}_accuracy": (f"{what} accuracy", shares.mean(), error, chances),
            f"{what}s_read": (f"{what}s read", read, wilson, chances >= READ),
        }
        for key, (name, mean, spread, chance) in means.items():
            ceiling = real[key]["value"] if real and key in real else None
            note = f"another book's {what} gets {chance.mean():.2f}" if len(chance) else None
            told[key] = scores.make(name, mean, n=n, better="higher", error=spread, real=ceiling, note=note)
    return told


def others(books, what):
    """For each book the next in the list, around its end, with another title (or first author); None if none has."""
    names = [normalise(book.title if what == "title" else "".join(book.authors[:1])) for book in books]
    found = []
    for i, name in enumerate(names):
        after = itertools.chain(range(i + 1, len(books)), range(i))
        found.append(next((books[k] for k in after if name and names[k] and names[k] != name), None))
    return found
