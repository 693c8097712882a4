"""ICC profiles made here from their definitions, and pictures brought into their colour spaces by closed formulas."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from data.colour_profiles import MAX_BYTES, to_srgb
from data.images import decode_image

# Columns: red, green, blue as XYZ under D50
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
PROPHOTO = np.array([[0.79767, 0.13519, 0.03135], [0.28804, 0.71187, 0.00009], [0.0, 0.0, 0.82521]])


def tag_table(space, tags, kind=b"mntr", connection=b"XYZ "):
    """An ICC profile, version 2.1, of these {name: content}; see the ICC's specification, section 7."""
    names, body = b"", b""
    start = 132 + 12 * len(tags)
    for name, content in tags.items():
        names += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s12s4s", start + len(body), b"", 0x02100000, kind, space, connection, b"", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)  # D50
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + names + body


def xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def gamma_curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma))


def rgb_profile(matrix, curve):
    columns = {name: xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)}
    return tag_table(
        b"RGB ", {b"wtpt": xyz((0.9642, 1, 0.8249)), **columns, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)}
    )


def srgb_curve():
    """sRGB's, as a table: what cameras and older editors embed."""
    codes = np.linspace(0, 1, 1024)
    linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *np.rint(65535 * linear).astype(int))


ADOBE_RGB_PROFILE = rgb_profile(ADOBE_RGB, gamma_curve(563 / 256))


def picture():
    """Smooth colours from all of sRGB, RGB of 48x64."""
    rows, columns = np.mgrid[0:1:64j, 0:1:48j]
    return np.rint(255 * np.stack([rows, columns, (rows + columns) / 2], -1)).astype(np.uint8)


def in_space(pixels, matrix, gamma):
    """sRGB pixels as pixels of the colour space of this matrix and gamma."""
    codes = pixels / 255
    linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    return np.rint(255 * (linear @ (np.linalg.inv(matrix) @ SRGB).T).clip(0, 1) ** (1 / gamma)).astype(np.uint8)


def encoded(pixels, kind="PNG", **kwargs):
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **kwargs)
    return file.getvalue()


def error(data, expected):
    """(mean, largest) absolute difference of a decoded file from the expected pixels, in levels."""
    difference = np.abs(np.subtract(decode_image(data), expected, dtype=float))
    return difference.mean(), difference.max()


@pytest.mark.parametrize(("matrix", "gamma"), [(ADOBE_RGB, 563 / 256), (PROPHOTO, 1.8)], ids=["Adobe RGB", "ProPhoto"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_wide_colours_come_back_as_srgb(matrix, gamma, kind):
    options = dict(quality=100, **(dict(subsampling=0) if kind == "JPEG" else dict(lossless=True)))
    stored = in_space(picture(), matrix, gamma)
    data = encoded(stored, kind, icc_profile=rgb_profile(matrix, gamma_curve(gamma)), **options)
    ignored = np.abs(np.subtract(stored, picture(), dtype=float)).mean()
    assert ignored > 8 and error(data, picture())[0] < 1.5  # rounding to 8 bits twice, and JPEG's


def test_transparency_palettes_and_grey_with_a_profile():
    stored = in_space(picture(), ADOBE_RGB, 563 / 256)
    image = Image.fromarray(stored)
    image.putalpha(Image.fromarray(np.repeat(np.uint8([0, 255]), 32)[:, None].repeat(48, 1)))
    on_white = picture()
    on_white[:32] = 255
    assert error(encoded(image, icc_profile=ADOBE_RGB_PROFILE), on_white)[0] < 1

    palette = Image.fromarray(stored).quantize(64)
    as_rgb = encoded(palette.convert("RGB"), icc_profile=ADOBE_RGB_PROFILE)
    assert error(encoded(palette, icc_profile=ADOBE_RGB_PROFILE), decode_image(as_rgb)) == (0, 0)

    grey = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    linear = (grey / 255) ** 1.8
    expected = np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))
    profile = tag_table(b"GRAY", {b"wtpt": xyz((0.9642, 1, 0.8249)), b"kTRC": gamma_curve(1.8)})
    assert error(encoded(grey, icc_profile=profile), expected[..., None])[1] <= 1


def test_a_print_profile_beats_the_formula():
    """A printer's profile, with full cyan at Lab (55, -37, -50), as SWOP's; by formula it would be (0, 255, 255)."""
    corners = np.full((2, 2, 2, 2, 3), (0, 128, 128), np.uint8)  # L 0..255, a and b + 128
    corners[0, 0, 0, 0], corners[1, 0, 0, 0] = (255, 128, 128), (round(55 * 2.55), 128 - 37, 128 - 50)
    matrix = struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    table = (
        b"mft1\0\0\0\0"
        + bytes([4, 3, 2, 0])
        + matrix
        + bytes(range(256)) * 4
        + corners.tobytes()
        + bytes(range(256)) * 3
    )
    tags = {b"wtpt": xyz((0.9642, 1, 0.8249)), b"A2B0": table, b"A2B1": table}
    profile = tag_table(b"CMYK", tags, b"prtr", b"Lab ")
    cyan, paper = (
        Image.merge("CMYK", [Image.new("L", (40, 60), v) for v in inks]) for inks in ((255, 0, 0, 0), (0,) * 4)
    )
    shown = np.asarray(decode_image(encoded(cyan, "JPEG", quality=100, icc_profile=profile)))
    assert np.abs(shown[30, 20].astype(int) - (0, 147, 215)).max() < 12  # outside of sRGB: red is cut at 0
    assert (np.asarray(decode_image(encoded(paper, "JPEG", quality=100, icc_profile=profile))) >= 253).all()


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile(SRGB, srgb_curve()),
        b"",
        b"not a profile",
        ADOBE_RGB_PROFILE[:-60],
        ADOBE_RGB_PROFILE[:200] + b"\xff" * (len(ADOBE_RGB_PROFILE) - 200),
        ADOBE_RGB_PROFILE.replace(b"mntr", b"link"),
        tag_table(b"GRAY", {b"kTRC": gamma_curve(1)}),  # of another mode
        ADOBE_RGB_PROFILE + b"\0" * MAX_BYTES,
    ],
    ids=["sRGB", "sRGB as a table", "empty", "text", "cut", "overwritten", "link", "grey", "huge"],
)
def test_with_srgbs_own_and_with_broken_profiles_the_bytes_stay(profile):
    image = Image.fromarray(picture())
    assert to_srgb(image, profile) is image
    assert error(encoded(picture(), icc_profile=profile), picture()) == (0, 0)
    data = encoded(picture(), "JPEG")
    assert error(encoded(picture(), "JPEG", icc_profile=profile), decode_image(data)) == (0, 0)
