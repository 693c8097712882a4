import copy
import io
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from common.errors import UserError
from data import images
from data.images import MAX_STRETCH, BadImage, count_scans, decode_image, fit_image, fitted_size, read_cover

SIZE = (64, 96)
ROOT = pathlib.Path(images.__file__).parent.parent


def picture(width=40, height=60, seed=0):
    """An RGB picture of four flat quarters: survives JPEG nearly unchanged."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST)


def encoded(image, kind="PNG", **kwargs):
    file = io.BytesIO()
    image.save(file, kind, **kwargs)
    return file.getvalue()


def pixels_of(data):
    return np.asarray(decode_image(data))


# ---------------------------------------------------------------------------------------------------------------------
# decode


def test_lossless_rgb_comes_back_exactly():
    for kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(pixels_of(encoded(picture(), kind)), np.asarray(picture()))


def test_grey_and_bilevel():
    grey = picture().convert("L")
    assert np.array_equal(pixels_of(encoded(grey)), np.repeat(np.asarray(grey)[..., None], 3, 2))
    assert set(np.unique(pixels_of(encoded(picture().convert("1"))))) <= {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_cut(kind):
    values = np.linspace(0, 65535, 40 * 60).astype(np.uint16).reshape(60, 40)
    expected = np.rint(values / 257)
    assert np.array_equal(pixels_of(encoded(Image.fromarray(values), kind))[..., 1], expected)


def test_cmyk_jpeg():
    cmyk = Image.merge("CMYK", [Image.new("L", (40, 60), value) for value in (255, 0, 0, 0)])  # cyan
    assert np.abs(pixels_of(encoded(cmyk, "JPEG")).astype(int) - (0, 255, 255)).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(mode):
    image = Image.new(mode, (40, 60), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    image.paste(Image.new(mode, (40, 30), (10, 10, 10, 255) if mode == "RGBA" else (10, 255)))
    pixels = pixels_of(encoded(image))
    assert (pixels[:30] == 10).all() and (pixels[30:] == 255).all()


def test_palette_with_and_without_transparency():
    palette = picture().convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(pixels_of(encoded(palette)), np.asarray(palette.convert("RGB")))
    corner = palette.getpixel((0, 0))
    shown = pixels_of(encoded(palette, transparency=corner))
    where = np.asarray(palette) == corner
    assert (shown[where] == 255).all() and np.array_equal(shown[~where], np.asarray(palette.convert("RGB"))[~where])
    several = encoded(palette, transparency=bytes([0, 128, 255]))  # as bytes Pillow would warn of
    assert pixels_of(several).shape == (60, 40, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame(kind):
    options = dict(lossless=True) if kind == "WEBP" else {}
    data = encoded(Image.new("RGB", (40, 60), "red"), kind, save_all=True, append_images=[picture()], **options)
    assert (pixels_of(data) == (255, 0, 0)).all()


def test_exif_rotation():
    exif = Image.Exif()
    exif[0x112] = 6  # turn by 90 degrees clockwise to see it upright
    data = encoded(picture(60, 40), "PNG", exif=exif)
    assert np.array_equal(pixels_of(data), np.rot90(np.asarray(picture(60, 40)), -1))


def jpeg():
    noise = np.random.default_rng(0).integers(0, 256, (200, 150, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), "JPEG")


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_claiming(width, height, depth=8):
    """A PNG whose header promises more pixels than it has."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2 if depth == 8 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + struct.pack(">I", 100) + b"IDAT" + b"\0" * 104


def jpeg2000_claiming(width, height, in_header=True):
    """A JPEG2000 that promises more pixels than it has, in its code and in its header or in the code alone."""
    data = bytearray(encoded(picture(), "JPEG2000"))
    if in_header:
        struct.pack_into(">II", data, data.index(b"ihdr") + 4, height, width)
    for offset in (6, 22):  # size of the image and of its one tile
        struct.pack_into(">II", data, data.index(b"\xff\x51") + offset, width, height)
    return bytes(data)


def progressive(scans, size=(40, 60)):
    """A progressive JPEG whose last scan is repeated until it has so many."""
    data = encoded(picture(*size), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


def progressive_claiming(scans, width, height):
    """A progressive JPEG that promises more pixels than it has."""
    data = bytearray(progressive(scans))
    struct.pack_into(">HH", data, data.index(b"\xff\xc2") + 5, height, width)
    return bytes(data)


def gif_of_a_larger_frame():
    frame = struct.pack("<BHHHH", 0x2C, 0, 0, 40, 60)
    return encoded(picture(), "GIF").replace(frame, struct.pack("<BHHHH", 0x2C, 0, 0, 5001, 5000))


def broken(kind, **kwargs):
    """A file of this kind in which every 50th byte is another, but for those at its start and end."""
    data = bytearray(encoded(picture(400, 600), kind, **kwargs))
    for i in range(200, len(data) - 300, 50):
        data[i] ^= 0x55
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not an image"),
        (b"\0" * 5000, "not an image"),
        (jpeg()[: len(jpeg()) // 2], "can't be decoded: .*truncated"),
        (jpeg()[:-500], "can't be decoded"),
        (encoded(picture())[:-30], "can't be decoded"),
        (encoded(picture(31, 60)), "too small: 31x60"),
        (encoded(Image.new("RGB", (1, 1))), "too small: 1x1"),
        (encoded(Image.new("F", (40, 60)), "TIFF"), "floating-point"),
        (png_claiming(9000, 9000), "too large: 9000x9000"),
        (png_claiming(12000, 12000), "too large"),  # Pillow warns
        (png_claiming(60000, 60000), "too large"),  # Pillow refuses
        (png_claiming(8192, 8192), "too large: 8192x8192"),
        (png_claiming(8192, 8192, 16), "too large: 8192x8192"),
        (png_claiming(5001, 5000), "too large: 5001x5000"),
        (jpeg2000_claiming(8192, 8192), "too large: 8192x8192"),
        (jpeg2000_claiming(8192, 8192, False), "can't be decoded"),
        (gif_of_a_larger_frame(), "too large: 5001x5000"),
        (progressive(600), "too slow to decode: 600 scans"),
        (progressive_claiming(90, 2000, 3000), "too slow to decode: 90 scans"),
        (progressive_claiming(10, 5000, 5001), "too large: 5000x5001"),
        (progressive(101), "too slow to decode: 101 scans"),
        (encoded(picture(), "TIFF", compression="tiff_lzw"), "compressed TIFF: save it as PNG or JPEG"),
        (broken("TIFF", compression="tiff_lzw"), "compressed TIFF"),
        (encoded(picture(1, 5000)), "too small: 1x5000"),
    ],
)
def test_what_cannot_serve_says_why_in_one_line(data, reason):
    with pytest.raises(BadImage, match=reason) as caught:
        decode_image(data)
    assert "\n" not in str(caught.value)


@pytest.mark.script
def test_pillow_prints_no_warnings(tmp_path):
    palette = picture().convert("P", palette=Image.Palette.ADAPTIVE)
    files = [png_claiming(12000, 12000), encoded(palette, transparency=bytes([0, 128])), jpeg()[:-500]]
    files.append(jpeg()[:2] + b"\xff\xe1\x00\x12Exif\0\0MM\0*\0\0\0\x08\0\x09" + jpeg()[2:])  # broken EXIF
    files += [broken("TIFF", compression="tiff_lzw"), broken("AVIF"), broken("JPEG2000"), broken("WEBP"), broken("GIF")]
    for i, data in enumerate(files):
        (tmp_path / f"{i}.jpg").write_bytes(data)
    code = (
        "import pathlib, sys; from data.images import BadImage, decode_image\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: decode_image(path.read_bytes()); print('used')\n"
        "    except BadImage as problem: print(problem)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    reasons = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert reasons[:5] == ["too large", "used", "can't be decoded", "used", "compressed TIFF"] and len(reasons) == 9


def test_damaged_files_never_raise_anything_else():
    chance = np.random.default_rng(0)
    good = [encoded(picture(), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP")]
    refused = 0
    for i in range(400):
        data = bytearray(good[i % len(good)])
        for index in chance.integers(0, min(len(data), chance.choice([30, 300, 10**6])), 3):
            data[index] = chance.integers(256)
        try:
            decode_image(bytes(data[: chance.integers(1, len(data))] if i % 3 == 0 else data))
        except BadImage as problem:
            refused += 1
            assert str(problem) and "\n" not in str(problem)
    assert refused > 50


def png_with(*chunks, before_pixels=True):
    data = encoded(picture())
    at = 33 if before_pixels else len(data) - 12
    return data[:at] + b"".join(chunks) + data[at:]


PACKED = zlib.compress(b"x" * 2**21)  # 2 KB that unpack to 2 MB
TURN = PngImagePlugin.Image.Exif()
TURN[0x112] = 6


@pytest.mark.parametrize(
    "data",
    [
        png_with(chunk(b"zTXt", b"note\0\0" + PACKED)),
        png_with(chunk(b"zTXt", b"note\0\0" + PACKED), before_pixels=False),
        png_with(chunk(b"iTXt", b"note\0\1\0\0\0" + PACKED)),
        png_with(chunk(b"iCCP", b"ICC\0\0" + PACKED)),
        png_with(chunk(b"iCCP", b"ICC\0\5" + PACKED)),  # an unknown method
        png_with(chunk(b"iCCP", b"ICC\0\0not packed")),
        png_with(*[chunk(b"zTXt", b"note\0\0" + zlib.compress(b"x" * 2**20))] * 65),  # 65 MB together
    ],
    ids=["zTXt", "zTXt at the end", "iTXt", "iCCP", "iCCP of another method", "iCCP not packed", "65 zTXt"],
)
def test_a_png_is_used_whatever_its_texts_and_profile_unpack_to(data):
    assert np.array_equal(pixels_of(data), np.asarray(picture()))


def test_what_a_png_needs_is_kept_when_its_texts_are_dropped():
    corner = Image.new("P", (60, 40), 1)
    corner.putpalette([9, 9, 9, 200, 100, 50])
    corner.paste(0, (0, 0, 30, 40))
    plain = encoded(corner, transparency=0, exif=TURN)
    data = plain[:33] + chunk(b"zTXt", b"note\0\0" + PACKED) + plain[33:]
    expected = np.full((60, 40, 3), (200, 100, 50))
    expected[:30] = 255
    assert np.array_equal(pixels_of(plain), expected) and np.array_equal(pixels_of(data), expected)
    with pytest.raises(BadImage, match="can't be decoded"):
        decode_image(data[:-40])


def test_scans_are_counted_in_the_picture_alone():
    assert count_scans(jpeg()) == 1 and count_scans(progressive(10)) == 10
    thumbnail = progressive(200)
    inside = jpeg()[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + jpeg()[2:]
    assert len(thumbnail) < 65000 and count_scans(inside) == 1 and count_scans(jpeg() + thumbnail) == 1
    assert np.array_equal(pixels_of(inside), pixels_of(jpeg()))
    assert pixels_of(progressive(100)).shape == (60, 40, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_many_frames_one_is_decoded(kind):
    frames = [Image.new("L", (40, 60), i % 2 * 255) for i in range(300)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert pixels_of(data).max() <= 2


# ---------------------------------------------------------------------------------------------------------------------
# fit


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((512, 768), (512, 768)),
        ((1000, 1500), (512, 768)),
        ((1000, 1400), (512, 768)),  # 7 % off: stretched to fill
        ((1000, 1725), (512, 768)),  # 15 % off
        ((1000, 2000), (441, 768)),  # stretched by 15 %, then 71 columns are left to fill
        ((1000, 1000), (512, 588)),
        ((32, 60000), (1, 768)),
    ],
)
def test_fitted_size(source, expected):
    assert fitted_size(source, (512, 768)) == expected


def test_the_stretch_stays_within_its_bound():
    chance = np.random.default_rng(0)
    for width, height in chance.integers(200, 3000, (2000, 2)):
        inner_width, inner_height = fitted_size((width, height), (512, 768))
        stretch = (inner_width / width) / (inner_height / height)
        assert inner_width <= 512 and inner_height <= 768 and (inner_width == 512 or inner_height == 768)
        # rounding down to whole pixels may only take away from stretching, or add at most one pixel's worth
        assert 1 / MAX_STRETCH - 0.01 <= stretch <= MAX_STRETCH + 0.01


def test_a_cover_of_the_target_shape_is_plain_lanczos():
    image = picture(200, 300)
    assert np.array_equal(fit_image(image, SIZE), np.asarray(image.resize(SIZE, Image.Resampling.LANCZOS)))
    assert np.array_equal(fit_image(picture(*SIZE), SIZE), np.asarray(picture(*SIZE)))


def test_nothing_is_cropped_and_gaps_get_the_colour_of_the_edge():
    image = Image.new("RGB", (300, 300), "green")
    image.paste("red", (0, 0, 300, 20))
    image.paste("blue", (0, 280, 300, 300))
    pixels = fit_image(image, (60, 120))  # 60 x 69, and 25 or 26 rows on either side
    assert pixels.shape == (120, 60, 3) and pixels.dtype == np.uint8
    assert (pixels[:26] == (255, 0, 0)).all() and (pixels[-26:] == (0, 0, 255)).all()
    assert (pixels[60] == (0, 128, 0)).all()

    wide = fit_image(image.rotate(90), (240, 60))
    assert (wide[:, :50] == (255, 0, 0)).all() and (wide[:, -50:] == (0, 0, 255)).all()


def test_downscaling_is_antialiased():
    stripes = np.zeros((384, 256, 3), np.uint8)
    stripes[::2] = 255
    assert np.abs(fit_image(Image.fromarray(stripes), SIZE).astype(int)[8:-8] - 127).max() <= 2


# ---------------------------------------------------------------------------------------------------------------------
# read_cover


def test_read_names_file_and_remedy(tmp_path):
    path = tmp_path / "7.jpg"
    with pytest.raises(UserError, match=r"7\.jpg: can't be read: No such file.*start again"):
        read_cover(path, SIZE)
    path.write_bytes(jpeg()[:500])
    with pytest.raises(UserError, match=r"7\.jpg: .*start again"):
        read_cover(path, SIZE)
    path.write_bytes(jpeg())
    assert read_cover(path, SIZE).shape == (96, 64, 3)


def test_a_bad_image_stays_one_line_through_copies_and_traceback_text():
    problem = BadImage("row 3: /x/3.jpg: empty file")
    assert str(copy.copy(problem)) == str(problem)
    text = f"Caught BadImage in DataLoader worker process 0.\nOriginal Traceback ...\ndata.images.BadImage: {problem}\n"
    assert str(BadImage(text)) == str(problem)
