"""Decodes cover files of any format to RGB and resizes them to the training size without cropping."""

from __future__ import annotations

import io
import pathlib
import re
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

from common.errors import UserError
from data.colour_profiles import to_srgb

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000")  # recognized by content, not by name
MIN_SIDE = 32  # pixels
MAX_PIXELS = 25_000_000  # decoding takes about 10 bytes and 50 ns for each
MAX_SCANS = 100  # of a progressive JPEG, each of which goes over all pixels; usual are 10
MAX_SCANNED_PIXELS = 20 * MAX_PIXELS  # in all scans together: 2 to 7 s
MAX_METADATA = 2**20  # bytes of a PNG's compressed metadata when unpacked; Pillow refuses files with more
MAX_STRETCH = 1.15  # change of the aspect ratio, in either direction
INDEX_VERSION = 2  # raise it when a rule above or in decode_image changes: every file is then decoded again
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_MARKER = re.compile(rb"\xff([^\0\x01\xd0-\xd8\xff])")  # of a segment with a length, or the end of the image


class BadImage(UserError):
    """A file that cannot be used as a cover; the message is the reason, in one line."""

    def __init__(self, message: str):
        # A DataLoader rebuilds its worker's exception from the whole traceback's text: its last line is the message.
        last_line = (str(message).strip().splitlines() or [""])[-1]
        super().__init__(last_line.removeprefix(f"{__name__}.BadImage: "))


def decode_image(data: bytes) -> Image.Image:
    """Decodes an image file to RGB, 8 bits: upright (EXIF), first frame, transparency on white.

    The format is recognized by content. Prints nothing. BadImage gives the reason if the file cannot be used.
    """
    # Pillow warns of odd metadata and of sizes that are refused below anyway.
    warnings.filterwarnings("ignore", module=r"PIL\.", append=True)
    if not data:
        raise BadImage("empty file")
    try:
        image = to_rgb(load_image(data))
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


def load_image(data: bytes) -> Image.Image:
    """The decoded first frame, upright. BadImage if decoding would take too much memory or time; Pillow's errors."""
    try:
        image = open_image(data)
        image.load()
    except BadImage:
        raise
    except Exception:  # perhaps only of a PNG's texts or colour profile
        plain = without_metadata(data)
        if plain == data:
            raise
        image = open_image(plain)
        image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def open_image(data: bytes) -> Image.Image:
    """The image, not decoded yet. BadImage if decoding would take too much memory or time, or print to the terminal."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"too large: {image.width}x{image.height} pixels")
    if image.format == "TIFF" and any(tile.codec_name == "libtiff" for tile in image.tile):
        raise BadImage("compressed TIFF: save it as PNG or JPEG")  # libtiff prints what it finds wrong in a file
    if image.format in ("JPEG", "MPO"):
        scans = count_scans(data)
        if scans > MAX_SCANS or scans * image.width * image.height > MAX_SCANNED_PIXELS:
            raise BadImage(f"too slow to decode: {scans} scans; save it as a plain JPEG")
    return image


def count_scans(data: bytes) -> int:
    """The number of scans of the first image in a JPEG file, from its start-of-scan markers."""
    scans, position = 0, 2
    while (found := JPEG_MARKER.search(data, position)) and found[1] != b"\xd9":
        scans += found[1] == b"\xda"
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans


def without_metadata(data: bytes) -> bytes:
    """A PNG file without its texts, and without a colour profile that is broken or unpacks to over MAX_METADATA bytes.

    Other data are returned as they are.
    """
    if not data.startswith(PNG_START):
        return data
    parts, position = [PNG_START], len(PNG_START)
    while position < len(data):  # chunks: length, name, content, checksum
        name = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        text = name in (b"tEXt", b"zTXt", b"iTXt")
        if not text and (name != b"iCCP" or unpacks(data[position + 8 : end - 4])):
            parts.append(data[position:end])
        position = end
    return b"".join(parts)


def unpacks(profile: bytes) -> bool:
    """Whether the content of a PNG's colour profile chunk (name, 0, method, compressed profile) can be used."""
    _, _, packed = profile.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed[1:], MAX_METADATA)
    except zlib.error:
        return False
    return packed[:1] == b"\0" and not unpacker.unconsumed_tail


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any of Pillow's modes to sRGB: 16 bits scaled to 8, transparency on white. BadImage for float pixels."""
    if image.mode == "F":
        raise BadImage("floating-point pixels")
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # I;16 and its byte orders; I is 32 bits wide, but holds 8 or 16
        pixels = np.asarray(image)
        if image.mode != "I" or pixels.max() > 255:
            pixels = pixels.clip(0, 65535).astype(np.uint32)
            pixels += 128  # to round
            pixels //= 257
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = to_srgb(image.convert("RGBA"), profile)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode == "P":
        image = to_srgb(image.convert("RGB"), profile)
    else:
        image = to_srgb(image, profile)
    return image.convert("RGB")


def fitted_size(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Size of a cover of size `source` when resized to fit in `target`, uncropped; all (width, height) in pixels.

    The aspect ratio is changed towards the target's by at most MAX_STRETCH; one side always equals the target's.
    """
    (width, height), (target_width, target_height) = source, target
    stretch = (target_width * height) / (target_height * width)  # of width against height, to fill the target
    if stretch > MAX_STRETCH:  # far narrower than the target
        return max(1, int(target_height * width / height * MAX_STRETCH)), target_height
    if stretch < 1 / MAX_STRETCH:  # far wider
        return target_width, max(1, int(target_width * height / width * MAX_STRETCH))
    return target_width, target_height


def fit_image(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Resizes an RGB image to size (W, H): uint8 (H, W, 3), antialiased Lanczos, nothing cropped.

    Margins that fitted_size leaves on two sides are filled with the median colour of the adjacent edge of the cover.
    """
    width, height = size
    inner_width, inner_height = fitted_size(image.size, size)
    pixels = np.asarray(image.resize((inner_width, inner_height), Image.Resampling.LANCZOS))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    right, bottom = left + inner_width, top + inner_height

    def median_colour(edge: np.ndarray) -> np.ndarray:
        return np.rint(np.median(edge, axis=0))

    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:, :left], canvas[:, right:] = median_colour(pixels[:, 0]), median_colour(pixels[:, -1])
    canvas[:top], canvas[bottom:] = median_colour(pixels[0]), median_colour(pixels[-1])
    canvas[top:bottom, left:right] = pixels
    return canvas


def read_cover(path: str | pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    """Reads the cover at `path`, resized to size (W, H): uint8 (H, W, 3). BadImage names the file and what to do."""
    try:
        return fit_image(decode_image(pathlib.Path(path).read_bytes()), size)
    except OSError as problem:
        reason = f"can't be read: {problem.strerror}"
    except BadImage as problem:
        reason = str(problem)
    raise BadImage(f"{path}: {reason}; put it right or start again: files that changed are checked anew at each start")
