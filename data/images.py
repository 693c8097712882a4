"""Single cover files: decoded to RGB whatever they are, fitted to the training size, checked once and remembered.

The index of a folder of covers is a CSV in the cache: what each file was (size, time) when it was last decoded, and
what came of it. Only files that changed since are decoded again.
"""

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
MAX_STRETCH = 1.15  # of width against height, or height against width
INDEX_VERSION = 1  # raise it when a rule above or in decode() changes: every file is then decoded again


class BadImage(UserError):
    """A file that can't serve as a cover; the message is the reason, in one line."""

    def __init__(self, message):
        # A DataLoader rebuilds its worker's exception from the whole traceback's text: its last line is the message.
        last_line = (str(message).strip().splitlines() or [""])[-1]
        super().__init__(last_line.removeprefix(f"{__name__}.BadImage: "))


# ---------------------------------------------------------------------------------------------------------------------
# One file -> pixels


def decode_image(data):
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


def fit_image(image, size):
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


def read_cover(path, size):
    """The cover at `path` -> uint8 (H, W, 3) for size (W, H). BadImage names the file, and what to do."""
    try:
        return fit_image(decode_image(pathlib.Path(path).read_bytes()), size)
    except OSError as problem:
        reason = f"can't be read: {problem.strerror}"
    except BadImage as problem:
        reason = str(problem)
    raise BadImage(f"{path}: {reason}; put it right or start again: files that changed are checked anew at each start")
