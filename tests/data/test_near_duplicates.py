import base64
import hashlib
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from data.images import decode_image
from data.near_duplicates import detail, look_the_same, same_pictures, signature
from demo_data.folder import draw_row

QUALITIES = (95, 90, 80, 75, 60, 50, 40, 35, 30)


def cover(title, size=(318, 475), background="#145a32", letters=18):
    """Letters on a plain background within a frame: like a series' volumes, or the picture of a missing cover."""
    image = Image.new("RGB", size, background)
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 8, size[0] - 9, size[1] - 9), outline="#e6c878", width=2)
    middle = (size[0] // 2, size[1] // 2)
    draw.text(middle, title, font=ImageFont.load_default(letters), fill="#e6c878", anchor="mm")
    return image


def jpeg(image, quality=85):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture
def groups(tmp_path):
    """groups([file content, ...]) -> for each the index of the first of its group in the list."""

    def call(files):
        signatures, paths, contents = {}, {}, []
        for i, data in enumerate(files):
            content = hashlib.md5(data).hexdigest()
            contents.append(content)
            paths[content] = tmp_path / f"{i}.jpg"
            paths[content].write_bytes(data)
            signatures[content] = signature(decode_image(data))
        same = same_pictures(signatures, paths)
        assert same == same_pictures(dict(reversed(signatures.items())), paths)  # whatever the order
        leaders = [same[content] for content in contents]
        return [leaders.index(leader) for leader in leaders]

    return call


@pytest.mark.parametrize("size", [(64, 96), (318, 475), (200, 300), (700, 1050)])
@pytest.mark.parametrize("background", ["#e6e2d7", "#145a32"])
def test_a_picture_saved_at_other_qualities_is_one(groups, size, background):
    picture = cover("no cover available", size, background, max(8, size[0] // 16))
    assert groups([jpeg(picture, quality) for quality in QUALITIES]) == [0] * 9


@pytest.mark.parametrize(("size", "letters"), [((318, 475), 18), ((318, 475), 13), ((200, 300), 12), ((700, 1050), 40)])
def test_volumes_of_a_series_are_different_pictures(groups, size, letters):
    """They differ by one digit: a hash of 64 bits has the same value for all of them."""
    volumes = [cover(f"Collected Works, Vol. {i}", size, letters=letters) for i in range(1, 10)]
    files = [jpeg(volume, QUALITIES[i % 5]) for i, volume in enumerate(volumes)]
    assert groups(files) == list(range(9))


@pytest.mark.parametrize(("size", "letters"), [((318, 475), 18), ((200, 300), 10), ((120, 180), 9)])
def test_titles_on_one_background_are_different_pictures(groups, size, letters):
    titles = ["Crime and Punishment", "Pride and Prejudice", "The Communist Manifesto", "Around the World in Eighty"]
    titles += ["The Hound of the Baskervil", "The Playboy of the Western", "Emma", "Dialogues", "The Republic"]
    files = [jpeg(cover(title, size, letters=letters), (90, 75, 60)[i % 3]) for i, title in enumerate(titles)]
    assert groups(files) == list(range(9))


def test_covers_are_different_and_the_same_when_saved_anew(groups):
    covers = [draw_row(row)[0] for row in range(20)]
    files = [jpeg(cover, quality) for quality in (92, 50) for cover in covers]
    assert groups(files) == [*range(20), *range(20)]


def test_plain_colours(groups):
    colours = ["#000000", "#ffffff", "#808080", "#948080", "#808094", "#000000"]
    assert groups([jpeg(Image.new("RGB", (100 + i, 150), c)) for i, c in enumerate(colours)]) == [0, 1, 2, 3, 4, 5]
    same = [jpeg(Image.new("RGB", (100, 150), "#336699"), quality) for quality in (95, 60, 30)]
    assert groups(same) == [0, 0, 0]


def test_other_sizes_and_files_that_went_are_not_compared(groups, tmp_path):
    large, small = cover("no cover", (318, 475)), cover("no cover", (318, 475)).resize((106, 158))
    assert groups([jpeg(large), jpeg(small)]) == [0, 1]
    one, other = signature(large), signature(large.resize((317, 474)))
    assert same_pictures({"a": one, "b": other}, {"a": tmp_path / "a", "b": tmp_path / "b"}) == {"a": "a", "b": "b"}


def test_the_signature_is_the_mean_of_each_field():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(5, 0).repeat(3, 1)
    fields = np.asarray(Image.fromarray(pixels[::5, ::3]).convert("YCbCr")).astype(float)
    values = np.frombuffer(base64.b64decode(signature(Image.fromarray(pixels))), np.uint8)
    assert values.shape == (96,) and np.array_equal(values[:64], fields[..., 0].ravel())
    chroma = fields[..., 1:].reshape(4, 2, 4, 2, 2).mean((1, 3)).transpose(2, 0, 1).ravel()
    assert np.abs(values[64:] - chroma).max() <= 1  # rounded twice


def test_a_little_everywhere_is_the_same_and_much_in_one_place_is_not():
    image = Image.fromarray(np.full((300, 200, 3), 120, np.uint8))
    noise = np.asarray(image) + np.random.default_rng(0).integers(-12, 13, (300, 200, 1))
    spot = np.asarray(image).copy()
    spot[90:102, 60:69] = 160
    assert look_the_same(detail(image), detail(Image.fromarray(noise.astype(np.uint8))))
    assert not look_the_same(detail(image), detail(Image.fromarray(spot)))
