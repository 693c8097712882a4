import csv
import hashlib
import io
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import dataset
import precalc_fid_stats
import training
from common.errors import UserError
from config import DatasetOptions, StatsOptions, TrainingOptions
from data import image_index, prompts
from data.folder import open_data
from data.prompts import TEMPLATES, build_prompt
from data.summary import summarize
from dataset import BookCoverDataset, load_image
from diffusion import pipeline

SIZE = (32, 48)
FIELDS = ("book_authors", "book_desc", "book_title", "genres")


def jpeg(seed, size=(40, 60), quality=75):
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).save(file, "JPEG", quality=quality)
    return file.getvalue()


def row(i, **changes):
    book = dict(book_title=f"Book {i}", book_authors=f"Ann {i}|Bo Ray", genres="Fantasy|Horror", book_desc="A tale.")
    return book | changes


def write_folder(root, rows, images=None):
    """A data folder with these rows; images: {row: bytes or None} where they differ from a fine JPEG."""
    (root / "images/images").mkdir(parents=True)
    write_table(root, rows)
    for i in range(len(rows)):
        data = (images or {}).get(i, jpeg(i))
        if data is not None:
            (root / f"images/images/{i}.jpg").write_bytes(data)
    return root


def write_table(root, rows):
    with open(root / "book_data.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def opened(tmp_path):
    """opened(root, **options) -> Data, with a cache folder of its own."""

    def call(root, cls=DatasetOptions, **options):
        return open_data(cls(data_root=str(root), cache_dir=str(tmp_path / "cache"), **options))

    return call


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A data folder of 40 rows without any fault."""
    return write_folder(tmp_path_factory.mktemp("plain") / "data", [row(i) for i in range(40)])


def rows_of(books):
    return [book.row for book in books]


# ---------------------------------------------------------------------------------------------------------------------
# open_data


def test_every_row_is_kept_or_dropped_with_a_reason(tmp_path, opened):
    rows = [row(i) for i in range(40)]
    rows[0] |= dict(book_title="NA", book_authors="", genres="", book_desc="")
    rows[1] |= dict(book_title="None", book_authors="nan")
    rows[2] |= dict(book_title=' Commas, "quotes"\nand\tlines ', book_desc="“Typography” — it’s fine…")
    rows[3] |= dict(book_title=" \n")
    rows[4] |= dict(book_title="Преступление и наказание")
    rows[5] |= dict(book_title="Wuthering Heights", book_authors="Emily Brontë")
    rows[10] |= dict(book_title="Café", book_desc="word " * 30)
    rows[13] |= dict(book_title="BOOK 12 (Penguin Classics)", book_authors="Ann 12")
    images = {6: None, 7: b"", 8: jpeg(8)[:300], 9: jpeg(9, (20, 60)), 11: jpeg(20), 12: jpeg(3), 13: jpeg(3)}
    data = opened(write_folder(tmp_path / "data", rows, images))
    reasons = {row.row: (row.kind, row.reason) for row in data.dropped}
    assert sorted([*reasons, *rows_of(data.kept)]) == list(range(40))
    assert reasons.pop(3) == ("no title", "no title")
    assert reasons.pop(4)[0] == "not English"
    assert reasons.pop(6) == ("no image file", "no image file")
    assert reasons.pop(7) == ("image: empty file", "image: empty file")
    assert reasons.pop(8)[0] in ("image: not an image", "image: can't be decoded")
    assert reasons.pop(9) == ("image: too small", "image: too small: 20x60 pixels")
    several = ("picture of several books", "picture of several books: 2 rows, 11 the first")
    assert reasons.pop(11) == several and reasons.pop(20) == several
    assert reasons.pop(13) == ("same picture as an earlier row", "same picture as row 12")  # an edition of this
    assert reasons == {}  # row 3, which has it too, has no title to tell whether it is another book

    books = {book.row: book for book in data.kept}
    assert (books[0].title, books[0].authors, books[0].genres, books[0].desc) == ("NA", (), (), "")
    assert (books[1].title, books[1].authors) == ("None", ("nan",))
    assert books[2].title == 'Commas, "quotes" and lines'
    assert books[5].authors == ("Emily Brontë",)
    assert (books[14].width, books[14].height, books[14].authors) == (40, 60, ("Ann 14", "Bo Ray"))

    with open(data.cache / "quarantine.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [int(line["row"]) for line in listed] == [3, 4, 6, 7, 8, 9, 11, 13, 20]
    assert listed[-2] == dict(row="13", file="images/images/13.jpg", reason="same picture as row 12")


def test_a_picture_of_several_books_is_of_none_of_them(tmp_path, opened):
    """Nine books have the picture of a missing cover: the same file, or saved anew; two editions share a real cover."""
    picture = jpeg(100, (120, 180))
    qualities = {10 + i: jpeg(100, (120, 180), quality) for i, quality in enumerate((95, 80, 60, 40))}
    rows = [row(i) for i in range(40)]
    rows[21] |= dict(book_title="Book 20: (A Novel)", book_authors="ann 20")
    rows[22] |= dict(book_title="\u041f\u0440\u0435\u0441\u0442")  # not used for its language, but it counts
    images = {
        **dict.fromkeys(range(5), picture),
        **qualities,
        20: jpeg(20),
        21: jpeg(20, quality=60),
        22: jpeg(23),
        23: jpeg(23),
    }
    data = opened(write_folder(tmp_path / "data", rows, images))
    nobodys = {r.row for r in data.dropped if r.reason == "picture of several books: 9 rows, 0 the first"}
    assert nobodys == {*range(5), *range(10, 14)}
    others = {r.row: r.kind for r in data.dropped if r.row not in nobodys}
    assert others == {22: "not English", 23: "picture of several books"}


def test_images_of_other_names_are_taken(tmp_path, opened):
    root = write_folder(tmp_path / "data", [row(i) for i in range(40)])
    images = root / "images/images"
    (images / "3.jpg").rename(images / "3.JPG")
    (images / "4.jpg").rename(images / "00004.jpeg")
    (images / "5.jpg").rename(images / "5.PNG")
    (images / "5.PNG").write_bytes(b"")
    data = opened(root)
    paths = {book.row: book.image for book in data.kept}
    assert len(paths) == 39 and (paths[3], paths[4]) == (f"{images}/3.JPG", f"{images}/00004.jpeg")
    assert data.num_unmatched_images == 0 and load_image(paths[4], SIZE).shape == (3, 48, 32)
    assert "5,images/images/5.PNG,image: empty file" in data.quarantine_path.read_text()

    (root / "images/images").rename(root / "all")
    (root / "images/images").mkdir()
    (root / "all").rename(images / "all")
    assert {book.row for book in opened(root).kept} == set(paths)
    for path in (images / "all").iterdir():
        path.rename(path.with_name(f"cover_{path.name}"))
    there = r"looked for 0\.jpg in .*images; there is only 'all'; each row's"
    with pytest.raises(UserError, match=f"no usable book in .*: no image file 40; {there}"):
        opened(root)


def test_min_ascii_0_keeps_every_language(tmp_path, opened):
    root = write_folder(tmp_path / "data", [row(i, book_title=f"戦争と平和 {i}", book_desc="") for i in range(30)])
    assert len(opened(root, min_ascii=0.0).kept) == 30
    with pytest.raises(UserError, match=r"no usable book in .*not English 30.*quarantine\.csv; --min_ascii 0"):
        opened(root)


def test_editions_of_one_book_never_straddle_the_split(tmp_path, opened):
    rows = [
        row(i // 3, book_title=("Book {}", "BOOK {} (2nd ed.)", "book, {}")[i % 3].format(i // 3)) for i in range(90)
    ]
    data = opened(write_folder(tmp_path / "data", rows), test_fraction=0.4)
    sides = {}
    for book in data.kept:
        sides.setdefault(book.row // 3, set()).add(book.split)
    assert len(sides) == 30 and all(len(side) == 1 for side in sides.values())
    assert "books in several editions 30 90 rows; 0 in both splits" in " ".join(summarize(data).split())


def test_the_order_is_mixed_and_does_not_change_when_rows_are_added(plain, tmp_path, opened):
    data = opened(plain)
    order = rows_of(data.books("all"))
    assert order != sorted(order) and sorted(order) == list(range(40))
    assert rows_of(data.books("train")) == [i for i in order if i not in rows_of(data.books("test"))]
    with pytest.raises(ValueError, match="no split"):
        data.books("validation")

    longer = opened(write_folder(tmp_path / "longer", [row(i) for i in range(60)]))
    for split in ("train", "test", "all"):
        assert [i for i in rows_of(longer.books(split)) if i < 40] == rows_of(data.books(split))


def test_split_files_are_honoured(plain, tmp_path, opened):
    root = shutil.copytree(plain, tmp_path / "data")
    (root / "df_train.csv").write_text(",book_title\n" + "".join(f"{i},Book {i}\n" for i in range(30)))
    (root / "df_test.csv").write_text(",book_title\n" + "".join(f"{i},Book {i}\n" for i in range(30, 38)))
    data = opened(root)
    assert sorted(rows_of(data.books("train"))) == list(range(30))
    assert sorted(rows_of(data.books("test"))) == list(range(30, 38))
    assert [(row.row, row.kind) for row in data.dropped] == [(38, "in no split"), (39, "in no split")]

    (root / "df_test.csv").write_text(",book_title\n")
    with pytest.raises(UserError, match=r"no usable book in the test split, by df_train\.csv and df_test\.csv"):
        opened(root)


# Six books T0 to T5 with six images: what was done to their table, and what is right: the rows that are kept, each with
# its own title, or the message. All of this was read with exit status 0 once, much of it with wrong titles
TABLE = "book_authors,book_desc,book_title,genres\n"
BOOKS = [f"A{i},d{i},T{i},G\n" for i in range(6)]
EVERY = [0, 1, 2, 3, 4, 5]


def replaced(text, i=1):
    """The table with another text instead of row i."""
    return TABLE + "".join([*BOOKS[:i], text, *BOOKS[i + 1 :]])


def with_numbers(rows, first="", number=str):
    """The table of some rows, in this order, with a column of their numbers before the others."""
    return f"{first},{TABLE}" + "".join(f"{number(i)},{BOOKS[i]}" for i in rows)


CASES = {
    # Quotes and line breaks
    "a quote never closed, another later": (
        replaced('A1,"never closed,T1,G\n').replace("d3", '"d3"'),
        "line 5 has text after a closing quote.*in the row that begins in line 3",
    ),
    "a quote never closed, a comma in one later": (
        replaced('A1,"never closed,T1,G\n').replace("d2", '", d2"'),
        "line 3 begins a row of several lines with 5 fields where the header has 4",
    ),
    "a quote never closed": (replaced('A5,"d5,T5,G\n', 5), "line 7 begins a row with a quote that is never closed"),
    "a quote never opened": (
        replaced('A1,first, half, and\nsecond, half",T1,G\n'),
        "line 4 has a quote without a partner.* last row is 6",
    ),
    "line feed without quotes": (replaced("A1,first\nsecond,T1,G\n"), "line 3 has only 2 of the header's 4 fields"),
    "carriage return without quotes": (replaced("A1,first\rsecond,T1,G\n"), "line 3 has only 2 of the header's 4 "),
    "backslash before a line break": (replaced('A1,"first\\"\nsecond",T1,G\n'), "line 3 has only 2 of the header's 4 "),
    "backslash within a line": (replaced('A1,"a \\"b\\" c",T1,G\n'), "line 3 has text after a closing quote"),
    "all as it should be": (replaced('A1,"first\n""second"" half",T1,G\r\n'), EVERY),
    "inches": (replaced('A1,5" disc,T1,G\n'), EVERY),
    # Rows that are gone, and lines that are none
    "a row deleted": (replaced("", 2), r"no row in .*: 1, first 5\.jpg \(its rows are 0 to 4\).*--allow_extra_images"),
    "cut after row 3": (TABLE + "".join(BOOKS[:4]), r"images that have no row in .*: 2, first 4\.jpg"),
    "cut within row 5": (TABLE + "".join(BOOKS)[:-5], "line 7 has only 3 .* it was cut: get it anew"),
    "two rows in a line": (
        TABLE + BOOKS[0] + "A1,d1,T1,GA2,d2,T2,G\n" + "".join(BOOKS[3:]),
        r"images that have no row .*: 1, first 5\.jpg",
    ),
    "a comment": (replaced("# a note\n" + BOOKS[1]), "line 3 has only 1 "),
    "files joined": (replaced(TABLE + BOOKS[3], 3), "line 5 is the header again"),
    "a row made empty": (replaced("\n"), r"images that have no row in .*: 1, first 5\.jpg"),
    "an empty line": (replaced("\n" + BOOKS[1]), EVERY),
    "an empty line and a row twice": (
        replaced("\n" + BOOKS[1] * 2),
        "line 3 is empty.* the last row is 6 where the last image is 5",
    ),
    "a row twice": (
        replaced(BOOKS[1] * 2),
        "line 4 repeats an earlier row.* the last row is 6 where the last image is 5",
    ),
    "empty rows at the end": (replaced(BOOKS[5] + ",,,\n\n", 5), EVERY),
    # Numbers
    "numbers of rows": (with_numbers([0, 2, 5]), [0, 2, 5]),
    "numbers in another order": (with_numbers([5, 0, 2], "Unnamed: 0"), [0, 2, 5]),
    "numbers with a fraction of 0": (with_numbers([2, 5], number=float), [2, 5]),
    "a number twice": (with_numbers([0, 2, 2]), "line 4: in the column of row numbers is 2, as in line 3"),
    "numbers from 1": (
        with_numbers(EVERY, number=lambda i: i + 1),
        "numbers its rows 1 to 6, and the images begin at 0",
    ),
    "numbers made anew after rows were deleted": (
        f",{TABLE}" + "".join(f"{i},{book}" for i, book in enumerate(BOOKS[2:])),
        r"images that have no row in .*: 2, first 4\.jpg \(its rows are 0 to 3\).* give its rows back the numbers",
    ),
    # Damage of one row, and of all
    "a field too many": (replaced("A1,d1,more,T1,G\n"), [0, 2, 3, 4, 5]),
    "not UTF-8": (replaced("A1,caf\xe9,T1,G\n").encode("latin-1"), [0, 2, 3, 4, 5]),
    "NUL": (replaced("A1,d\0,T1,G\n"), "line 3 has NUL bytes"),
    "commas without quotes": (TABLE + "".join(BOOKS).replace(",d", ",one, d"), "is damaged in 6 of 6 rows: line 2 "),
    # Other formats
    "byte order mark": ("\ufeff" + TABLE + "".join(BOOKS), EVERY),
    "semicolons": ((TABLE + "".join(BOOKS)).replace(",", ";"), EVERY),
    "mixed line ends": (TABLE + "".join(BOOKS).replace("T2,G\n", "T2,G\r\n"), EVERY),
    "UTF-16": ((TABLE + "".join(BOOKS)).encode("utf-16"), "is UTF-16 text"),
    "Excel's first line": ("sep=,\n" + TABLE + "".join(BOOKS), "has no column .*begins 'sep=, '"),
    "no header": ("".join(BOOKS), "has no column .*begins 'a0, d0, t0, g'"),
}
SPLIT_CASES = {
    "shifted": (",book_title\n0,T1\n1,T2\n2,T3\n", "df_test.csv does not fit .*row 0 is 'T1' there and 'T0'"),
    "right": (",book_title\n0,T0\n1,T1\n2,T2\n", EVERY),
    "without a header": ("0\n1\n2\n", "df_test.csv begins with the number 0 where the header must be"),
}


@pytest.mark.parametrize(
    ("content", "split", "right"),
    [
        *((content, "row\n0\n2\n", right) for content, right in CASES.values()),
        *((TABLE + "".join(BOOKS), split, right) for split, right in SPLIT_CASES.values()),
    ],
    ids=[*CASES, *(f"split file {name}" for name in SPLIT_CASES)],
)
def test_each_row_has_its_own_image_or_the_folder_is_refused(tmp_path, opened, monkeypatch, content, split, right):
    root = write_folder(tmp_path / "data", [row(i) for i in range(6)])
    (root / "book_data.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    (root / "df_test.csv").write_text(split)
    if isinstance(right, list):
        assert {book.row: book.title for book in opened(root).kept} == {i: f"T{i}" for i in right}
    else:
        monkeypatch.setattr(image_index, "check_file", None)  # it is said before any image is decoded
        with pytest.raises(UserError, match=right):
            opened(root)


@pytest.mark.parametrize("script", [dataset, precalc_fid_stats, training])
def test_every_script_refuses_a_folder_whose_rows_may_be_shifted(tmp_path, script):
    root = write_folder(tmp_path / "data", [row(i) for i in range(40)])
    write_table(root, [row(i) for i in range(40) if i != 7])
    words = ["--data_root", str(root), "--cache_dir", str(tmp_path / "cache"), "--resolution", "32x48"]
    if script is training:
        words += ["--pretrained_model", "tiny", "--output_dir", str(tmp_path / "runs")]
    if script is precalc_fid_stats:
        words += ["--fid_features", "efficientnet", "--fid_stats_path", str(tmp_path / "stats.npz")]
    with pytest.raises(UserError, match=r"images that have no row in .*book_data\.csv: 1, first 39\.jpg"):
        script.main(words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_nobody_reads_the_table_without_these_checks():
    root = pathlib.Path(dataset.__file__).parent
    files = [path for path in root.glob("*/*.py") if "read_table" in path.read_text(encoding="utf-8")]
    assert {path.relative_to(root).as_posix() for path in files if "tests" not in path.parts} == {
        *("data/table.py", "data/folder.py")
    }


def test_extra_images_may_be_allowed(tmp_path, opened):
    root = write_folder(tmp_path / "data", [row(i) for i in range(40)])
    shutil.copy(root / "images/images/0.jpg", root / "images/images/front page.jpg")  # not a number: of no row
    assert opened(root).num_unmatched_images == 1
    write_table(root, [row(i) for i in range(38)])
    with pytest.raises(UserError, match=r"images that have no row in .*: 2, first 38\.jpg .*--allow_extra_images True"):
        opened(root)
    data = opened(root, allow_extra_images=True)
    assert len(data.kept) == 38 and data.num_unmatched_images == 3


def test_an_empty_split_says_which_option_to_change(tmp_path, opened):
    root = write_folder(tmp_path / "data", [row(i) for i in range(3)])
    with pytest.raises(UserError, match=r"the test split is empty: all 3 .*raise --test_fraction \(now 0.001\)"):
        opened(root, test_fraction=0.001)
    data = opened(root, test_fraction=0.5)
    shares = [hashlib.blake2b(f"split\0book{i}/ann{i}".encode(), digest_size=8).digest() for i in range(3)]
    shares = [int.from_bytes(share, "big") / 2**64 for share in shares]  # the rule, written out
    assert {book.row: book.split for book in data.kept} == {
        i: "test" if share < 0.5 else "train" for i, share in enumerate(shares)
    }
    only = write_folder(tmp_path / "only", [row(shares.index(min(shares)))])
    with pytest.raises(UserError, match=r"the train split is empty: all 1 .*lower --test_fraction"):
        opened(only, test_fraction=min(shares) + 0.01)
    with pytest.raises(UserError, match=r"no usable book in .*book_data\.csv has no rows"):
        opened(write_folder(tmp_path / "none", []))


def test_missing_folders_and_columns_are_errors(tmp_path, opened):
    with pytest.raises(UserError, match=r"no data folder .*kaggle"):
        opened(tmp_path / "nowhere")
    root = write_folder(tmp_path / "data", [row(i) for i in range(3)])
    (root / "book_data.csv").write_text("book_title,genres\na,b\n")
    with pytest.raises(UserError, match="has no column book_authors, book_desc"):
        opened(root)
    shutil.rmtree(root / "images")
    with pytest.raises(UserError, match="no folder images/images"):
        opened(root)


def test_the_data_folder_is_never_written_to(plain, opened):
    def listing():
        return sorted((str(path), path.stat().st_mtime_ns) for path in [plain, *plain.rglob("*")])

    before = listing()
    data = opened(plain)
    summarize(data)
    assert listing() == before and data.cache.is_dir() and plain not in data.cache.parents


def test_the_second_start_decodes_nothing_and_finds_the_same(plain, opened, monkeypatch):
    first = opened(plain)
    monkeypatch.setattr(image_index, "check_file", None)
    second = opened(plain, resolution="64x64", min_ascii=0.5)  # the index does not depend on the options
    assert second.kept == first.kept


def test_a_changed_table_decodes_nothing_anew(plain, tmp_path, opened, monkeypatch):
    root = shutil.copytree(plain, tmp_path / "data")
    first = opened(root)
    monkeypatch.setattr(image_index, "check_file", None)
    write_table(root, [row(i, book_desc="Another tale.") for i in range(40)])
    assert rows_of(opened(root).kept) == rows_of(first.kept)


def test_the_fingerprint_tells_of_contents_alone(plain, tmp_path, opened):
    data = opened(plain)
    prints = {data.fingerprint(data.books("all")), data.fingerprint(data.books("train"))}
    prints.add(data.fingerprint(data.books("all")[::-1]))
    assert len(prints) == 3

    moved = shutil.copytree(plain, tmp_path / "moved")
    assert opened(moved).fingerprint(opened(moved).books("all")) == data.fingerprint(data.books("all"))
    (moved / "images/images/5.jpg").write_bytes(jpeg(1000))
    prints.add(data.fingerprint(opened(moved).books("all")))
    for change in (dict(book_title="Other"), dict(book_authors="A"), dict(genres=""), dict(book_desc="")):
        write_table(moved, [row(i, **(change if i == 7 else {})) for i in range(40)])
        prints.add(data.fingerprint(opened(moved).books("all")))
    assert len(prints) == 8


def test_demo_is_made_in_the_cache(plain, tmp_path, opened, monkeypatch):
    asked = []

    def ensure(cache_dir, count=400, workers=1):
        asked.append((cache_dir, workers))
        return plain

    monkeypatch.setattr("data.folder.ensure_demo_data", ensure)
    assert len(opened("demo", num_workers=3).kept) == 40
    assert asked == [(tmp_path / "cache", 3)]


def test_any_options_class_with_data_options_serves(plain, opened):
    assert opened(plain, TrainingOptions).kept == opened(plain, StatsOptions).kept


# ---------------------------------------------------------------------------------------------------------------------
# report and script


def test_report(tmp_path, opened):
    rows = [row(i) for i in range(40)]
    rows[1] |= dict(book_title="long " * 60, book_desc="")
    rows[2] |= dict(book_title="")
    images = {3: b"x", 4: b"y", 5: jpeg(5, (60, 60)), 6: jpeg(6, (40, 54))}
    root = write_folder(tmp_path / "data", rows, images)
    (root / "images/images/77.jpg").write_bytes(jpeg(77))
    data = opened(root, resolution="512x768", allow_extra_images=True)
    lines = [" ".join(line.split()) for line in summarize(data, lambda text: len(text.split()) + 2).split("\n")]
    for expected in [
        f"data folder {root}",
        "rows 40 counted from 0",
        "dropped 3",
        "image: not an image 2",
        "no title 1",
        "kept 37",
        f"train {len(data.books('train'))} by title and first author, --test_fraction 0.1",
        f"test {len(data.books('test'))}",
        "without a description 1",
        "without an author 0",
        "image files without a row 1",
        "width / height percentiles 1, 25, 50, 75, 99: 0.667, 0.667, 0.667, 0.667, 0.907",
        "from 0.65 35 " + "#" * 40,
        "from 0.70 1 ##",
        "from 1.00 1 ##",
        "resize to 512x768 Lanczos, antialiased; the whole cover stays visible",
        "largest distortion 14.8% row 5; the limit is 15%",  # 512 x 588 of 60 x 60
        "covers with filled edges 1 what stretching leaves gets the colour of the edge",
        "largest filled area 23.4% row 5",
        "prompts over 77 tokens 0 before shortening",
        "longest 75 row 1",
        f"index {data.cache / 'images.csv'}",
        f"quarantine {data.cache / 'quarantine.csv'}",
    ]:
        assert expected in lines, expected
    assert "prompts" not in summarize(data)


def test_the_report_counts_descriptions_that_prompts_include(plain, opened):
    def count(text):
        return 100 if text.endswith("A tale.") else 10

    assert "prompts over 77 tokens                   40" in summarize(opened(plain, include_desc=True), count)
    assert "prompts over 77 tokens                    0" in summarize(opened(plain), count)
    assert "prompts over 9 tokens                    40" in summarize(opened(plain), count, 9)


def test_the_report_goes_by_what_the_model_reads(plain, tmp_path, capsys):
    words = ["--data_root", str(plain), "--cache_dir", str(tmp_path / "cache"), "--pretrained_model", "mini"]
    assert dataset.main(words) == 0
    assert "prompts over 40 tokens" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.script
def test_the_script_prints_the_report(plain, tmp_path, run_script):
    done = run_script("dataset", "--data_root", plain, "--cache_dir", tmp_path / "cache", real=True)
    assert done.returncode == 0 and "kept                                   40" in done.stdout, done.stderr
    assert "prompts over 77 tokens" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.script
def test_the_script_ends_a_users_mistake_with_one_line(tmp_path, run_script):
    done = run_script("dataset", "--data_root", tmp_path / "nowhere", "--cache_dir", tmp_path / "cache")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: there is no data folder") and done.stderr.count("\n") == 1


@pytest.mark.script
def test_importing_the_script_loads_nothing_heavy():
    code = "import sys, dataset; print({'torch', 'pandas', 'numpy', 'PIL', 'tqdm', 'transformers'} & set(sys.modules))"
    root = pathlib.Path(dataset.__file__).parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "set()\n"


# ---------------------------------------------------------------------------------------------------------------------
# load_image, BookCoverDataset


@pytest.fixture(scope="module")
def tokenizer():
    return pipeline.load_tokenizer("tiny")


@pytest.fixture
def books(plain, opened):
    return opened(plain).books("all")


def test_load_image_gives_bytes_that_can_be_had_back(plain):
    path = plain / "images/images/3.jpg"
    pixels = load_image(path, SIZE)
    assert pixels.shape == (3, 48, 32) and pixels.dtype == torch.float32 and pixels.is_contiguous()
    with Image.open(path) as image:
        expected = np.asarray(image.resize(SIZE, Image.Resampling.LANCZOS))
    assert np.array_equal(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), expected)
    whole = torch.arange(256, dtype=torch.float32) / 127.5 - 1
    assert torch.isin(pixels, whole).all() and torch.equal(((whole + 1) * 127.5).round(), torch.arange(256.0))


def test_a_plain_index_has_the_canonical_prompt(books, tokenizer):
    data = BookCoverDataset(books, SIZE, tokenizer, TrainingOptions(caption_dropout=1.0))
    item = data[2]
    expected = tokenizer(build_prompt(books[2]), padding="max_length", max_length=77, return_tensors="pt").input_ids[0]
    assert len(data) == 40 and set(item) == {"pixel_values", "input_ids", "row"} and item["row"] == books[2].row
    assert item["input_ids"].dtype == torch.int64 and torch.equal(item["input_ids"], expected)
    assert torch.equal(item["pixel_values"], load_image(books[2].image, SIZE))
    assert torch.equal(BookCoverDataset(books, SIZE, tokenizer, StatsOptions())[2]["input_ids"], expected)


@pytest.mark.slow
def test_in_training_the_prompt_is_a_function_of_seed_and_position(books, tokenizer):
    def prompts(seed, dropout=0.3):
        data = BookCoverDataset(books, SIZE, tokenizer, TrainingOptions(seed=seed, caption_dropout=dropout))
        return [data.training_prompt(books[0], position) for position in range(2000)]

    assert prompts(1) == prompts(1) != prompts(2)
    assert prompts(1).count("") / 2000 == pytest.approx(0.3, abs=0.04)  # 4 standard deviations
    assert set(prompts(1, 1.0)) == {""}
    without = prompts(1, 0.0)
    for template in TEMPLATES:
        share = without.count(build_prompt(books[0], template)) / 2000
        assert share == pytest.approx(1 / len(TEMPLATES), abs=0.04)
    assert all(prompt in ("", whole) for prompt, whole in zip(prompts(1), without, strict=True))

    data = BookCoverDataset(books, SIZE, tokenizer, TrainingOptions(seed=1, caption_dropout=0.3))
    empty = torch.tensor(tokenizer("", padding="max_length", max_length=77).input_ids)
    assert torch.equal(data[0, prompts(1).index("")]["input_ids"], empty)


def test_pages_go_with_the_prompt(plain, opened):
    """The page of a model with lettering, which an empty prompt has not."""
    books = opened(plain).books("train")[:4]
    options = TrainingOptions(caption_dropout=0.5)
    covers = BookCoverDataset(books, SIZE, pipeline.load_tokenizer("tiny"), options)
    assert "page" not in covers[0]
    covers.pages = lambda book, size: np.full(size[::-1], book.row, np.uint8)
    dropped = 0
    for i, sample in [(0, None), *((i % 4, i) for i in range(16))]:
        page = covers[i if sample is None else (i, sample)]["page"]
        prompt = covers.prompt(books[i]) if sample is None else covers.training_prompt(books[i], sample)
        assert page.shape == (1, 48, 32) and page.dtype == torch.uint8
        assert page.eq(books[i].row if prompt else 0).all()
        dropped += not prompt
    assert 0 < dropped < 16


def test_descriptions_fill_the_prompt_but_never_overflow_it(plain, tmp_path, opened, tokenizer):
    root = shutil.copytree(plain, tmp_path / "data")
    write_table(root, [row(i, book_desc="" if i == 1 else "the night of the king " * 30) for i in range(40)])
    books = sorted(opened(root).kept, key=lambda book: book.row)
    data = BookCoverDataset(books, SIZE, tokenizer, DatasetOptions(include_desc=True))
    prompt = data.prompt(books[0])
    assert prompt.startswith(build_prompt(books[0]) + ". the night of the king the")
    assert 75 <= prompts.count_tokens(tokenizer, prompt) <= 77
    assert data.prompt(books[1]) == build_prompt(books[1])
    assert data[0]["input_ids"].tolist() == tokenizer(prompt, padding="max_length", max_length=77)["input_ids"]
    assert BookCoverDataset(books, SIZE, tokenizer, DatasetOptions()).prompt(books[0]) == build_prompt(books[0])


def test_count_tokens_sees_start_and_end_and_does_not_stop_at_77(tokenizer, capfd):
    assert prompts.count_tokens(tokenizer, "") == 2
    assert prompts.count_tokens(tokenizer, "the " * 500) == 502
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_yield_the_same_items(books, tokenizer, start):
    data = BookCoverDataset(books[:8], SIZE, tokenizer, TrainingOptions())
    keys = [(i % 8, position) for position, i in enumerate([3, 1, 4, 1, 5, 2, 6, 7])]
    loader = torch.utils.data.DataLoader(data, batch_size=4, sampler=keys, num_workers=1, multiprocessing_context=start)
    batches = list(loader)
    assert [batch["pixel_values"].shape for batch in batches] == [(4, 3, 48, 32)] * 2
    rows = torch.cat([batch["row"] for batch in batches]).tolist()
    ids = torch.cat([batch["input_ids"] for batch in batches])
    assert rows == [data[key]["row"] for key in keys]
    assert torch.equal(ids, torch.stack([data[key]["input_ids"] for key in keys]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanished_or_broke_since_the_check(plain, tmp_path, opened, tokenizer, workers):
    root = shutil.copytree(plain, tmp_path / "data")
    books = opened(root).books("all")
    os.unlink(books[0].image)
    pathlib.Path(books[1].image).write_bytes(b"broken")
    data = BookCoverDataset(books, SIZE, tokenizer, TrainingOptions())
    for i, reason in enumerate(("can't be read: No such file or directory", "not an image")):
        loader = torch.utils.data.DataLoader(data, batch_size=1, sampler=[i], num_workers=workers)
        with pytest.raises(UserError) as caught:
            list(loader)
        start = f"row {books[i].row}: {books[i].image}: {reason}; put it right or start again"
        assert str(caught.value).startswith(start) and "\n" not in str(caught.value)
    assert len(opened(root).kept) == 38  # "start again" helps
