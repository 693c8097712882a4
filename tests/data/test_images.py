import copy
import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data import image_index
from data.image_index import MAX_BYTES, check_folder, read_index, write_csv
from data.images import MAX_STRETCH, BadImage, decode_image, fit_image, fitted_size, read_cover

SIZE = (64, 96)
ROOT = pathlib.Path(image_index.__file__).parent.parent


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


def png_claiming(width, height):
    """A PNG whose header promises more pixels than it has."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return start + struct.pack(">I", 100) + b"IDAT" + b"\0" * 104


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
    for i, data in enumerate(files):
        (tmp_path / f"{i}.jpg").write_bytes(data)
    code = (
        "import pathlib, sys; from data.image_index import check_file\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()): print(check_file(path, 1, 1).problem)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(":")[0] for line in done.stdout.split("\n")] == ["too large", "", "can't be decoded", "", ""]


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
# read, check_folder


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


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.jpg").write_bytes(encoded(picture(seed=i), "JPEG"))
    (folder / "3.jpg").write_bytes(b"")
    (folder / "99.jpg").write_bytes(jpeg())
    (folder / "4.jpg").unlink()
    (folder / "4.jpg").mkdir()
    (folder / "notes.txt").write_text("x")
    return folder


NAMES = [f"{i}.jpg" for i in range(8)]


def test_check_folder(folder, tmp_path):
    entries, strays = check_folder(folder, NAMES, tmp_path / "cache" / "images.csv", 2)
    assert list(entries) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "5.jpg"] and strays == {"99.jpg"}
    assert entries["0.jpg"][3:] == (40, 60, "") and entries["3.jpg"].problem == "empty file"
    assert len({entry.content for entry in entries.values()}) == 5
    assert read_index(tmp_path / "cache" / "images.csv") == entries
    assert os.listdir(tmp_path / "cache") == ["images.csv"]  # no temporary file is left


def decoded_names(monkeypatch, *args):
    """check_folder(*args) -> (entries, names of the files that were decoded)."""
    names, check_file = [], image_index.check_file

    def spy(path, *stamp):
        names.append(os.path.basename(path))
        return check_file(path, *stamp)

    with monkeypatch.context() as patch:
        patch.setattr(image_index, "check_file", spy)
        entries, _ = check_folder(*args)
    return entries, sorted(names)


def test_only_files_that_changed_are_decoded_again(folder, tmp_path, monkeypatch):
    index = tmp_path / "images.csv"
    first, names = decoded_names(monkeypatch, folder, NAMES, index, 1)
    assert names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "5.jpg"]
    second, names = decoded_names(monkeypatch, folder, NAMES, index, 1)
    assert names == [] and second == first

    (folder / "3.jpg").write_bytes(jpeg())  # other size
    os.utime(folder / "1.jpg", ns=(1, 1))  # other time
    (folder / "2.jpg").unlink()
    third, names = decoded_names(monkeypatch, folder, NAMES, index, 1)
    assert names == ["1.jpg", "3.jpg"] and "2.jpg" not in third and third["3.jpg"].problem == ""
    assert third["1.jpg"].content == first["1.jpg"].content

    index.write_text("file v0,size\n0.jpg,1\n")  # another version of the index, then a damaged one
    assert decoded_names(monkeypatch, folder, NAMES, index, 1) == (third, ["0.jpg", "1.jpg", "3.jpg", "5.jpg"])
    index.write_bytes(index.read_bytes()[:-40])
    assert decoded_names(monkeypatch, folder, NAMES, index, 1)[0] == third


def test_a_file_that_could_not_be_read_is_tried_again(folder, tmp_path, monkeypatch):
    index = tmp_path / "images.csv"
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", lambda self: (_ for _ in ()).throw(OSError(5, "I/O error")))
        entries, _ = check_folder(folder, ["0.jpg"], index, 1)
    assert entries["0.jpg"].problem == "can't be read: I/O error"
    assert check_folder(folder, ["0.jpg"], index, 1)[0]["0.jpg"].problem == ""


def test_a_check_that_was_stopped_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    index, check_file = tmp_path / "images.csv", image_index.check_file

    def stops(path, *stamp):
        if path.endswith("3.jpg"):
            raise KeyboardInterrupt
        return check_file(path, *stamp)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(image_index, "check_file", stops)
        check_folder(folder, NAMES, index, 1)
    assert list(read_index(index)) == ["0.jpg", "1.jpg", "2.jpg"]
    assert decoded_names(monkeypatch, folder, NAMES, index, 1)[1] == ["3.jpg", "5.jpg"]


def test_the_index_is_written_on_the_way(folder, tmp_path, monkeypatch):
    sizes, write_index = [], image_index.write_index
    monkeypatch.setattr(image_index, "SAVE_SECONDS", -1)
    monkeypatch.setattr(
        image_index, "write_index", lambda path, index: (sizes.append(len(index)), write_index(path, index))
    )
    check_folder(folder, NAMES, tmp_path / "images.csv", 1)
    assert sizes == [1, 2, 3, 4, 5, 5]


def test_a_disk_without_room_is_said_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "images.csv"
    path.write_text("old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"can't write .*images\.csv: No space left on device.*--cache_dir"):
        write_csv(path, ["a"], [["new"]])
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["images.csv"]


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "0.jpg"
    path.write_bytes(jpeg())
    os.truncate(path, MAX_BYTES + 1)  # sparse: takes no space
    entries, _ = check_folder(tmp_path, ["0.jpg"], tmp_path / "cache" / "images.csv", 1)
    assert entries["0.jpg"].problem == "too large: 268 MB" and entries["0.jpg"].content == ""
