"""Decodes cover files of any format to RGB and resizes them to the training size without cropping."""

from __future__ import annotations

import io
import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps

from common.errors import UserError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000")  # by content; names always end in .jpg
MIN_SIDE = 32  # pixels
MAX_PIXELS = 2**26  # 8192 x 8192: 200 MB while it is decoded
MAX_STRETCH = 1.15  # change of the aspect ratio, in either direction
INDEX_VERSION = 1  # raise it when a rule above or in decode_image changes: every file is then decoded again


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


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any of Pillow's modes to RGB: 16 bits scaled to 8, transparency on white. BadImage for float pixels."""
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
