import dataclasses
import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from config import DatasetOptions
from data import image_index, pictures
from data.folder import Data, open_data
from data.pictures import Collection, Picture, number_of, quote, require_captions, split_rule
from data.summary import summarize


def jpeg(seed, quality=75):
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize((40, 60), Image.Resampling.NEAREST).save(file, "JPEG", quality=quality)
    return file.getvalue()


def add(root, name, picture, caption):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(picture)
    (root / name).with_suffix(".txt").write_text(caption, encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """30 pictures with captions."""
    for i in range(30):
        add(tmp_path / "data", f"{i:02d}.jpg", jpeg(i), f"caption {i}")
    return tmp_path / "data"


def opened(root, **options):
    return open_data(DatasetOptions(data_root=str(root), cache_dir=str(root.parent / "cache"), **options))


def by_file(data):
    return {book.file: book for book in data.kept}


def test_numbers_split_and_order_are_functions_of_the_name(folder, monkeypatch):
    before = opened(folder)
    assert len(before.kept) == 30 and before.books("train") and before.books("test")
    assert all(0 <= book.row < pictures.NUMBERS for book in before.kept)
    assert all(book.caption == f"caption {int(book.file[:2])}" for book in before.kept)
    prints = {before.fingerprint(before.kept)}

    add(folder, "000.jpg", jpeg(100), "the first by name")
    add(folder, "sub/a b ü.png", jpeg(101), "another")
    after = opened(folder)
    rest = [book for book in after.kept if book.file in by_file(before)]
    assert rest == before.kept and len(after.kept) == 32  # nothing else has moved, got another number or side
    assert number_of("sub/\u00fc.png") == number_of("sub/u\u0308.png") != number_of("\u00fc.png")
    table = (after.cache / "pictures.csv").read_text(encoding="utf-8")
    assert f"{number_of('sub/a b ü.png')},sub/a b ü.png\n" in table and table.startswith("row,file\n")
    prints.add(after.fingerprint(after.kept))

    (folder / "05.txt").write_text("another caption", encoding="utf-8")
    monkeypatch.setattr(image_index, "check_file", None)  # pictures are not decoded again for that
    changed = opened(folder)
    prints.add(changed.fingerprint(changed.kept))
    assert len(prints) == 3
    assert 0.2 < len(opened(folder, test_fraction=0.5).books("test")) / 32 < 0.8


def test_what_is_left_out_and_why(folder):
    (folder / "00.txt").unlink()
    (folder / "01.jpg").write_bytes(b"x")
    add(folder, "copies/02.jpg", jpeg(2, quality=60), "Caption 2")
    add(folder, "copies/03.jpg", jpeg(3), "of something else")
    add(folder, "line\nbreak.jpg", jpeg(200), "not to be written into a line")
    (folder / "notes.txt").write_text("about the data")
    data = opened(folder)
    assert {row.file: (row.kind, row.reason) for row in data.dropped} == {
        "00.jpg": ("no caption", "no caption: there is no .txt file of this name"),
        "01.jpg": ("image: not an image", "image: not an image"),
        "copies/02.jpg": ("same picture as an earlier one", "same picture as an earlier one: 02.jpg"),
        **dict.fromkeys(
            ("03.jpg", "copies/03.jpg"),
            ("picture with several captions", "picture with several captions: '03.jpg', 'copies/03.jpg'"),
        ),
        "line\nbreak.jpg": ("name", "name: has control characters or is not UTF-8"),
        "notes.txt": ("caption without a picture", "caption without a picture"),
    }
    assert len(data.kept) == 27 and "02.jpg" in by_file(data)
    lines = data.quarantine_path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 9 and f"{number_of('00.jpg')},00.jpg,no caption: there is no .txt file of this name" in lines
    assert ",notes.txt,caption without a picture" in lines

    summary = [" ".join(line.split()) for line in summarize(data, lambda text: len(text.split()) + 2).split("\n")]
    for expected in [
        "pictures 33 .txt captions",
        "left out 6",
        "picture with several captions 2",
        "kept 27",
        f"train {len(data.books('train'))} by file name, --test_fraction 0.1",
        "captions without a picture 1",
        "prompts over 77 tokens 0 before shortening",
        f"numbers of the pictures {data.cache / 'pictures.csv'}",
    ]:
        assert expected in summary, expected


def test_titles_of_a_table_are_known_and_decide_the_split(tmp_path):
    root = tmp_path / "data"
    rows = ["file_name,text,title,author,genres"]
    for i in range(30):
        add(root, f"{i}.jpg", jpeg(i % 29), "")
        (root / f"{i}.txt").unlink()
        rows.append(f"{i}.jpg,caption {i},Book {i % 15} (part {i}),Ann|Bo,Fantasy")
    (root / "metadata.csv").write_text("\n".join(rows))
    data = opened(root)
    assert {row.file for row in data.dropped} == {"0.jpg", "29.jpg"}  # one picture of two books
    book = by_file(data)["17.jpg"]
    assert (book.title, book.authors, book.genres) == ("Book 2 (part 17)", ("Ann", "Bo"), ("Fantasy",))
    assert (book.heading, book.name, book.caption) == ("Book 2 (part 17)", "17.jpg", "caption 17")
    assert all(by_file(data)[f"{i}.jpg"].split == by_file(data)[f"{i + 15}.jpg"].split for i in range(1, 14))
    assert data.split_rule == "by title and first author, --test_fraction 0.1"
    assert "with a title 28" in " ".join(summarize(data).split())


def test_the_folders_train_and_test_are_the_split():
    def rule(*files):
        return split_rule(Collection([Picture(file) for file in files]), DatasetOptions())

    sides = dict(train="train", test="test")
    assert rule("train/a.jpg", "test/b.jpg") == (sides, "by the folders train and test")
    by_name = "by file name, --test_fraction 0.1"
    assert rule("train/a.jpg", "test/b.jpg", "c.jpg") == (sides, f"by the folders train and test, others {by_name}")
    assert rule("train/a.jpg", "sub/test/b.jpg") == rule("test.jpg", "train.jpg") == ({}, by_name)


def test_a_split_by_folders_that_is_empty(folder):
    (folder / "test").mkdir()
    (folder / "train").mkdir()
    for path in list(folder.glob("*.jpg")) + list(folder.glob("*.txt")):
        path.rename(folder / "train" / path.name)
    add(folder, "test/a.jpg", b"x", "broken")
    with pytest.raises(UserError, match="no usable picture in the test split, by the folders train and test: mend"):
        opened(folder)


@pytest.mark.parametrize(
    ("without", "orphans", "message"),
    [
        (0, 3, None),
        (2, 0, None),  # a tenth
        (
            3,
            0,
            r"3 of the 20 pictures .* \(no caption 2, empty caption 1\): '0\.jpg', '1\.jpg', '2\.jpg'; to ",
        ),
        (10, 0, r"10 of the 20 pictures .*: '0\.jpg', '1\.jpg', '2\.jpg' and 7 more; .*--allow_unpaired True"),
        (0, 4, r"4 captions in .* have no picture: '0\.txt', '1\.txt', '2\.txt' and 1 more; .*--allow_unpaired True"),
    ],
)
def test_more_than_a_few_without_a_partner_are_an_error(tmp_path, without, orphans, message):
    problems = ["no caption: x", "no caption: x", *["empty caption"] * 8][:without]
    collection = Collection(
        [Picture(f"{i}.jpg", problem=problems[i] if i < without else "") for i in range(20)],
        [(f"{i}.txt", "caption without a picture") for i in range(orphans)],
    )
    require_captions(tmp_path, collection, DatasetOptions(allow_unpaired=True))
    if message is None:
        require_captions(tmp_path, collection, DatasetOptions())
    else:
        with pytest.raises(UserError, match=message):
            require_captions(tmp_path, collection, DatasetOptions())


def test_options_that_need_books_are_refused(folder):
    with pytest.raises(UserError, match=r"--include_desc is about descriptions, and .* has captions: leave it out"):
        opened(folder, include_desc=True)
    with pytest.raises(UserError, match="--min_ascii is about titles"):
        opened(folder, min_ascii=0)
    for path in folder.glob("*.jpg"):
        path.write_bytes(b"x")
    with pytest.raises(UserError, match=r"no usable picture in .*: image: not an image 30; each picture's reason"):
        opened(folder)


def test_two_names_of_one_number(tmp_path):
    collection = Collection([Picture("\u00fc.jpg", "a"), Picture("u\u0308.jpg", "b")])
    with pytest.raises(UserError, match=r"'\\xfc\.jpg' and 'u\\u0308\.jpg' come to one number: rename one of them"):
        pictures.select_books(tmp_path, collection, {}, {}, DatasetOptions())
    assert quote(["a", "b"]) == "'a', 'b'" and quote("abcde") == "'a', 'b', 'c' and 2 more"


def test_the_fingerprint_of_books_is_as_it_was_and_captions_count(folder):
    book = opened(folder).kept[0]
    plain = dataclasses.replace(book, caption="", file="", title="T", authors=("A",), genres=("G",), desc="D")
    assert plain.name == f"row {book.row}" and book.name == book.file
    texts = [plain.row, "T", ("A",), ("G",), "D", plain.content]
    assert Data.fingerprint([plain]) == hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).hexdigest()
    assert Data.fingerprint([plain]) != Data.fingerprint([dataclasses.replace(plain, caption="C")])
