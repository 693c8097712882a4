"""Single cover files: decoded to RGB whatever they are, fitted to the training size, checked once and remembered.

The index of a folder of covers is a CSV in the cache: what each file was (size, time) when it was last decoded, and
what came of it. Only files that changed since are decoded again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pathlib
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from common.files import write_text
from config import UserError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000")  # by content; names always end in .jpg
MIN_SIDE = 32  # pixels
MAX_PIXELS = 2**26  # 8192 x 8192: 200 MB while it is decoded
MAX_BYTES = 2**28  # of a file
MAX_STRETCH = 1.15  # of width against height, or height against width
INDEX_VERSION = 1  # raise it when a rule above or in decode() changes: every file is then decoded again
ROOM_IN_CACHE = "make room there or choose another folder with --cache_dir"
SAVE_SECONDS = 30  # a killed check loses at most this much


class BadImage(UserError):
    """A file that can't serve as a cover; the message is the reason, in one line."""

    def __init__(self, message):
        # A DataLoader rebuilds its worker's exception from the whole traceback's text: its last line is the message.
        last_line = (str(message).strip().splitlines() or [""])[-1]
        super().__init__(last_line.removeprefix(f"{__name__}.BadImage: "))


# ---------------------------------------------------------------------------------------------------------------------
# One file -> pixels


def decode(data):
    """Bytes of an image file -> PIL image: RGB, 8 bits, upright, first frame, transparency on white.

    BadImage says what is wrong with it. The format goes by content. Nothing is printed.
    """
    # Pillow warns of odd metadata and of sizes that are refused below anyway.
    warnings.filterwarnings("ignore", module=r"PIL\.", append=True)
    if not data:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"too large: {image.width}x{image.height} pixels")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image = to_rgb(image)
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        raise BadImage("not an image") from None
    except Image.DecompressionBombError:
        raise BadImage("too large: more pixels than Pillow opens") from None
    except Exception as problem:  # a broken file can make a decoder raise nearly anything
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise BadImage(f"can't be decoded: {reason}") from problem
    if min(image.size) < MIN_SIDE:
        raise BadImage(f"too small: {image.width}x{image.height} pixels")
    return image


def to_rgb(image):
    """Any of Pillow's modes -> RGB: 16 bits scaled to 8, transparency on white."""
    if image.mode == "F":
        raise BadImage("floating-point pixels")
    if image.mode.startswith("I"):  # I;16 and its byte orders; I is 32 bits wide, but holds 8 or 16
        pixels = np.asarray(image)
        scale = 1 if image.mode == "I" and pixels.max() <= 255 else 257
        image = Image.fromarray(np.rint(pixels / scale).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fitted_size(source, target):
    """(width, height) that a cover of size `source` gets inside `target`, all in pixels, with its whole area visible.

    The shape is stretched towards the target's by at most MAX_STRETCH; one side always meets the target's.
    """
    (width, height), (target_width, target_height) = source, target
    stretch = (target_width * height) / (target_height * width)  # of width against height, to fill the target
    if stretch > MAX_STRETCH:  # far narrower than the target
        return max(1, int(target_height * width / height * MAX_STRETCH)), target_height
    if stretch < 1 / MAX_STRETCH:  # far wider
        return target_width, max(1, int(target_width * height / width * MAX_STRETCH))
    return target_width, target_height


def fit(image, size):
    """PIL image (RGB) -> uint8 (H, W, 3) for size (W, H): antialiased Lanczos, nothing cropped.

    What fitted_size leaves open is filled, on either side, with the median colour of the cover's edge there.
    """
    width, height = size
    inner_width, inner_height = fitted_size(image.size, size)
    pixels = np.asarray(image.resize((inner_width, inner_height), Image.Resampling.LANCZOS))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    right, bottom = left + inner_width, top + inner_height

    def colour(edge):
        return np.rint(np.median(edge, axis=0))

    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:, :left], canvas[:, right:] = colour(pixels[:, 0]), colour(pixels[:, -1])
    canvas[:top], canvas[bottom:] = colour(pixels[0]), colour(pixels[-1])
    canvas[top:bottom, left:right] = pixels
    return canvas


def read(path, size):
    """The cover at `path` -> uint8 (H, W, 3) for size (W, H). BadImage names the file, and what to do."""
    try:
        return fit(decode(pathlib.Path(path).read_bytes()), size)
    except OSError as problem:
        reason = f"can't be read: {problem.strerror}"
    except BadImage as problem:
        reason = str(problem)
    raise BadImage(f"{path}: {reason}; put it right or start again: files that changed are checked anew at each start")


# ---------------------------------------------------------------------------------------------------------------------
# Many files -> index


class Entry(NamedTuple):
    """What is known of one file. `problem` is '' if it can serve; `content` is '' if its bytes were not read."""

    size: int  # bytes
    mtime_ns: int
    content: str = ""  # blake2b of the file's bytes, 128 bits
    width: int = 0  # pixels, upright
    height: int = 0
    problem: str = ""


def check_file(path, size, mtime_ns):
    """Entry of one file, fully decoded. Whatever is wrong with the file becomes the entry's problem."""
    if size > MAX_BYTES:
        return Entry(size, mtime_ns, problem=f"too large: {size / 1e6:.0f} MB")
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as problem:
        return Entry(size, mtime_ns, problem=f"can't be read: {problem.strerror}")
    content = hashlib.blake2b(data, digest_size=16).hexdigest()
    try:
        image = decode(data)
    except BadImage as problem:
        return Entry(size, mtime_ns, content, problem=str(problem))
    return Entry(size, mtime_ns, content, *image.size)


def check_folder(folder, names, index_path, workers):
    """Check those of the named files in `folder` that are new or changed. Returns {name: Entry}, {other .jpg names}.

    Names without a file are left out. The index is written every SAVE_SECONDS, at the end, and on the way out of any
    exception, so that a check which was stopped goes on where it was.
    """
    try:
        with os.scandir(folder) as files:
            found = {f.name: f.stat() for f in files if f.name.lower().endswith(".jpg") and f.is_file()}
    except OSError as problem:
        raise UserError(f"can't read the folder {folder}: {problem.strerror}") from None
    names = [name for name in names if name in found]
    stamps = {name: (found[name].st_size, found[name].st_mtime_ns) for name in names}
    index = read_index(index_path)
    index = {name: index[name] for name in names if name in index and index[name][:2] == stamps[name]}
    # An entry without content tells of a file that could not be read: that may be over.
    due = [name for name in names if name not in index or not index[name].content]
    if due:
        pool = ThreadPoolExecutor(max(1, workers))  # threads: Pillow decodes outside Python's global lock
        try:
            entries = pool.map(lambda name: check_file(os.path.join(folder, name), *stamps[name]), due)
            saved = time.monotonic()
            for name, entry in zip(due, tqdm(entries, "checking covers", len(due), unit=" covers"), strict=True):
                index[name] = entry
                if time.monotonic() - saved > SAVE_SECONDS:
                    write_index(index_path, index)
                    saved = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
            write_index(index_path, index)
    return index, set(found).difference(names)


def read_index(path):
    """{name: Entry} from the index file; empty if there is none that this version can use."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
            if header != index_header():
                return {}
            return {
                name: Entry(int(size), int(mtime_ns), content, int(width), int(height), problem)
                for name, size, mtime_ns, content, width, height, problem in lines
            }
    except (OSError, ValueError, csv.Error):  # not there or damaged: the files are simply checked again
        return {}


def write_index(path, index):
    write_csv(path, index_header(), ((name, *entry) for name, entry in index.items()))


def index_header():
    return [f"file v{INDEX_VERSION}", *Entry._fields]


def write_csv(path, header, rows):
    """Write a CSV file of the cache in one atomic step. UserError if that can't be done."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue(), ROOM_IN_CACHE)
