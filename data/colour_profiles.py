"""Converts the colours of a picture to sRGB by its embedded ICC profile (Adobe RGB, ProPhoto, print profiles)."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

SPACES = {"RGB": "RGB ", "RGBA": "RGB ", "L": "GRAY", "CMYK": "CMYK"}  # Pillow's mode: colour space of its profiles
MAX_BYTES = 2**22  # of a profile; those of printers have up to 2 MB
SAME = 3  # of 255: profiles of sRGB itself differ by rounding


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image as sRGB, RGB or RGBA, if `profile`, its ICC profile, is of another colour space.

    Returned as it is without a profile, with one of sRGB, and with one that is broken or not for its mode.
    """
    transform = transform_to_srgb(profile, image.mode) if profile and image.mode in SPACES else None
    return image if transform is None else transform.apply(image)


@functools.lru_cache(maxsize=16)  # most pictures of a folder that have a profile have the same one
def transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of pictures in this mode, or None if they are to be left as they are."""
    if len(profile) > MAX_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        chart = colour_chart(mode)
        change = np.subtract(transform.apply(chart).convert("RGB"), chart.convert("RGB"), dtype=np.int16)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # broken
        return None
    return None if np.abs(change).max() <= SAME else transform


def colour_chart(mode: str) -> Image.Image:
    """A small image in this mode with colours from all of its range."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    channels = len(Image.new(mode, (1, 1)).getbands())
    colours = np.stack(np.meshgrid(*[levels] * channels), -1)
    return Image.frombytes(mode, (colours.size // channels, 1), colours.tobytes())
