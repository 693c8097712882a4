"""The demo data: layout, same bytes, readable letters, genres that look different, a folder that is all or nothing."""

import csv
import errno
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import PIL
import pytest
from PIL import Image
from support import processes

from common.errors import UserError
from demo_data import books, jacket
from demo_data import folder as demo_data_folder
from typesetting.colour import contrast, luminance
from typesetting.lines import LEADING, break_lines, font, line_width

COUNT = 40
ROOT = pathlib.Path(demo_data_folder.__file__).parent.parent


def digest(folder):
    """Name and SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return demo_data_folder.ensure_demo_data(tmp_path_factory.mktemp("demo"), COUNT)


# ---------------------------------------------------------------------------------------------------------------------
# Layout and bytes


def test_layout(folder):
    table = pd.read_csv(folder / "book_data.csv", keep_default_na=False)
    assert ",".join(table.columns) == (
        "book_authors,book_desc,book_edition,book_format,book_isbn,book_pages,book_rating,book_rating_count,"
        "book_review_count,book_title,genres,image_url"
    )
    assert len(table) == COUNT
    images = {f"images/images/{row}.jpg" for row in range(COUNT)}
    assert set(digest(folder)) == {"book_data.csv"} | images
    assert (table[["book_rating", "book_rating_count", "book_review_count"]] == 0).all(axis=None)
    assert (table.book_title.str.len() > 0).all() and (table.book_authors.str.len() > 0).all()
    assert {genres.split("|")[0] for genres in table.genres} == set(books.GENRES) == set(jacket.LOOKS)
    assert all(len(set(genres.split("|"))) >= 2 for genres in table.genres)


def test_images_are_portraits_near_two_to_three(folder):
    ratios = set()
    for row in range(COUNT):
        with Image.open(folder / "images" / "images" / f"{row}.jpg") as image:
            image.load()
            assert (image.format, image.mode) == ("JPEG", "RGB")
            ratios.add(image.width / image.height)
    assert len(ratios) >= 3 and all(0.62 < ratio < 0.7 for ratio in ratios)


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bytes_for_any_number_of_workers(folder, tmp_path, workers):
    again = demo_data_folder.ensure_demo_data(tmp_path, COUNT, workers)
    assert again.name == folder.name
    assert digest(again) == digest(folder)


def test_a_small_set_is_the_start_of_a_large_one(folder, tmp_path):
    small = demo_data_folder.ensure_demo_data(tmp_path, 7)
    assert small.name != folder.name
    images = {name: value for name, value in digest(small).items() if name.endswith(".jpg")}
    assert len(images) == 7 and images.items() <= digest(folder).items()
    lines = (folder / "book_data.csv").read_text(encoding="utf-8").splitlines()
    assert (small / "book_data.csv").read_text(encoding="utf-8").splitlines() == lines[:8]


def test_progress_goes_to_standard_error(tmp_path, capsys):
    demo_data_folder.ensure_demo_data(tmp_path, 2)
    out, err = capsys.readouterr()
    assert out == "" and "2/2" in err


# ---------------------------------------------------------------------------------------------------------------------
# Books


def test_words():
    records = [books.book_record(row) for row in range(2000)]
    assert records[:50] == [books.book_record(row) for row in range(50)]
    titles = [book["book_title"] for book in records]
    assert any("," in title for title in titles) and any("'" in title for title in titles)
    assert min(map(len, titles)) < 8 and max(map(len, titles)) > 50
    assert any("|" in book["book_authors"] for book in records)
    missing = sum(not book["book_desc"] for book in records) / len(records)
    assert 0.01 < missing < 0.05
    for book in records:
        if book["book_desc"]:
            assert 2 <= book["book_desc"].count(". ") + 1 <= 4
            assert book["book_desc"].endswith(".") and "{" not in book["book_desc"]
        assert "{" not in book["book_title"] and not book["book_title"].startswith(("A O", "A E", "A I", "A A"))
    assert len({(book["book_title"], book["book_authors"]) for book in records}) > 0.9 * len(records)


def test_second_editions_share_the_text_and_not_the_cover():
    again = [row for row in range(100) if books.text_row(row) != row]
    assert len(again) == 7
    for row in again:
        first, second = books.book_record(books.text_row(row)), books.book_record(row)
        for column in ("book_title", "book_authors", "genres", "book_desc"):
            assert first[column] == second[column]
        assert (first["book_edition"], second["book_edition"]) == ("", "Second Edition")
        assert (
            demo_data_folder.draw_row(row)[0].tobytes() != demo_data_folder.draw_row(books.text_row(row))[0].tobytes()
        )


def test_genres_take_turns():
    first = [books.genre_of(row) for row in range(12)]
    assert sorted(first[:10]) == sorted(books.GENRES)
    counts = pd.Series([books.genre_of(row) for row in range(1000)]).value_counts()
    assert counts.min() > 80 and counts.max() < 120


def test_the_font_has_every_character():
    missing = font(40).getmask("\u4e00")
    texts = [books.book_record(row) for row in range(2000)]
    used = set("".join(book["book_title"] + book["book_authors"] for book in texts)) - set(" |")
    for character in {form for c in used for form in (c, c.upper())} - {"'"} | {"’", "&"}:
        assert bytes(font(40).getmask(character)) != bytes(missing), character


# ---------------------------------------------------------------------------------------------------------------------
# Genres look different


def colour_histogram(row):
    """Share of a cover's pixels in each of 64 colour cells, and the cover's genre."""
    pixels = np.asarray(demo_data_folder.draw_row(row)[0].reduce(4)).reshape(-1, 3) // 64
    cells = np.bincount(pixels @ np.array([16, 4, 1]), minlength=64)
    return np.sqrt(cells / cells.sum()), books.genre_of(row)


@pytest.mark.slow
def test_a_simple_classifier_tells_genres_apart():
    """Nearest centroid of colour histograms, taught on 100 covers and tried on 80 others; chance is 1 in 10."""
    features, genres = map(np.array, zip(*map(colour_histogram, range(180)), strict=True))
    names = np.unique(genres)

    def accuracy(labels):
        centroids = np.stack([features[:100][labels[:100] == name].mean(0) for name in names])
        distances = np.linalg.norm(features[100:, None] - centroids, axis=-1)
        return (names[distances.argmin(1)] == labels[100:]).mean()

    assert accuracy(genres) > 0.8
    assert accuracy(np.random.default_rng(0).permutation(genres)) < 0.3  # the same test sees nothing in shuffled labels


def test_covers_of_one_genre_differ():
    for genre in books.GENRES:
        images = [
            jacket.draw_cover(genre, "The Same Title", ["One Author"], random.Random(seed))[0] for seed in range(6)
        ]
        assert len({image.resize((16, 24)).tobytes() for image in images}) == 6


# ---------------------------------------------------------------------------------------------------------------------
# Lettering


def wcag_luminance(pixels):
    """Written from WCAG 2.2's definition, apart from the code under test. uint8 (..., 3) -> (...)."""
    srgb = np.asarray(pixels, dtype=float) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[..., 0] + 0.7152 * linear[..., 1] + 0.0722 * linear[..., 2]


def test_contrast_closed_form():
    white, black = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)
    assert contrast("#000000", white) == pytest.approx(21)
    assert contrast("#ffffff", white) == 1
    assert contrast("#777777", white) == pytest.approx(4.478, abs=1e-3)  # the well-known grey that just fails
    assert contrast("#777777", np.concatenate([white, black])) == 1  # between the two: not readable on both
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3), np.uint8)
    np.testing.assert_allclose(luminance(pixels), wcag_luminance(pixels), rtol=1e-12)


@pytest.mark.slow
def test_letters_are_there_and_can_be_read():
    """Letters change many pixels, only in their boxes, and stand out from the ground by WCAG's 4.5 to 1.

    The ink is measured where the picture changes most; the ground is what the same cover shows without letters, in the
    final pixels; 5 % off the bound is left for halving.
    """
    for row in range(80):
        image, boxes = demo_data_folder.draw_row(row)
        bare, same_boxes = demo_data_folder.draw_row(row, lettering=False)
        assert boxes == same_boxes
        pixels, ground = np.asarray(image), np.asarray(bare)
        change = np.abs(pixels.astype(int) - ground).sum(-1)
        for left, top, right, bottom in boxes:
            here = np.s_[max(0, top - 1) : bottom + 2, max(0, left - 1) : right + 2]
            share = (change[here] > 100).mean()
            assert 0.08 < share < 0.7, row
            ink = np.median(pixels[here][change[here] >= np.percentile(change[here], 95)], axis=0)
            low, high = np.percentile(wcag_luminance(ground[here]), (5, 95))
            mine = wcag_luminance(ink)
            assert not low <= mine <= high, row
            ratio = min((max(mine, y) + 0.05) / (min(mine, y) + 0.05) for y in (low, high))
            assert ratio >= 0.95 * 4.5, (row, ratio)
            change[here] = 0
        assert not change.any(), f"row {row}: letters outside of their boxes"


@pytest.mark.slow
def test_boxes_lie_inside_and_apart():
    for row in range(200):
        image, (title, author) = demo_data_folder.draw_row(row)
        for left, top, right, bottom in (title, author):
            assert 4 <= left < right <= image.width - 4 and 4 <= top < bottom <= image.height - 4, row
        assert title[3] <= author[1] or author[3] <= title[1], row


@pytest.mark.parametrize("title", ["It", "Incomprehensibilities", "A " * 20 + "Z", "one two three four " * 8])
@pytest.mark.parametrize("genre", jacket.LOOKS)
def test_any_title_fits(genre, title):
    image, boxes = jacket.draw_cover(genre, title, ["Ada Fenwick", "J. M. Harrow"], random.Random(1))
    for left, top, right, bottom in boxes:
        assert 0 < left < right < image.width and 0 < top < bottom < image.height


def test_lines_break_for_the_largest_letters():
    """Against trying every way to break six words."""
    words = ["The", "Island", "at", "the", "End", "of"]
    for width, height in ((200, 300), (500, 100), (300, 120), (120, 400)):
        best = 0
        for breaks in range(2 ** (len(words) - 1)):
            lines = [words[0]]
            for k, word in enumerate(words[1:]):
                lines = [*lines, word] if breaks >> k & 1 else [*lines[:-1], f"{lines[-1]} {word}"]
            widest = max(line_width(line, 0.05) for line in lines)
            best = max(best, int(min(width / widest, height / (LEADING * len(lines)))))
        lines, size = break_lines(" ".join(words), width, height, 0.05, largest=1000)
        assert size == best and " ".join(lines) == " ".join(words)


def test_every_palette_has_a_readable_plate():
    for look in jacket.LOOKS.values():
        plate = np.full((2, 2, 3), jacket.rgb(look.plate), np.uint8)
        assert max(contrast(ink, plate) for ink in look.inks) >= jacket.MIN_CONTRAST


# ---------------------------------------------------------------------------------------------------------------------
# All or nothing


def test_a_second_call_touches_nothing(folder, monkeypatch):
    def no_drawing(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(demo_data_folder, "write", no_drawing)
    before = {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}
    start = time.perf_counter()
    assert demo_data_folder.ensure_demo_data(folder.parent, COUNT) == folder
    assert time.perf_counter() - start < 0.5
    assert before == {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_the_name_follows_what_the_bytes_depend_on(monkeypatch):
    name = demo_data_folder.fingerprint(COUNT)
    assert demo_data_folder.fingerprint(COUNT) == name != demo_data_folder.fingerprint(COUNT + 1)
    monkeypatch.setattr(PIL, "__version__", "0.0.1")
    assert demo_data_folder.fingerprint(COUNT) != name


def start(cache_dir, count):
    words = [sys.executable, "-m", "support.draw_demo_data", cache_dir, count]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return processes.Process(words, cwd=processes.ROOT, **pipes)


@pytest.mark.script
def test_what_a_killed_process_leaves_does_not_count(folder, tmp_path):
    process = start(tmp_path, COUNT)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.rglob("*.jpg"))) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    leftovers = list(tmp_path.iterdir())
    assert len(leftovers) == 1 and leftovers[0].name.startswith(".") and not (leftovers[0] / "book_data.csv").exists()
    assert digest(demo_data_folder.ensure_demo_data(tmp_path, COUNT)) == digest(folder)
    assert leftovers[0].exists()  # it might be another process at work
    os.utime(leftovers[0], (0, 0))
    demo_data_folder.clear_leftovers(tmp_path / folder.name)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.script
def test_two_processes_at_once(tmp_path):
    processes = [start(tmp_path, 12) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    made = pathlib.Path(answers[0][0].strip())
    assert list(tmp_path.iterdir()) == [made]
    with open(made / "book_data.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 12
    assert len(list(made.rglob("*.jpg"))) == 12


def test_the_slower_of_two_takes_the_folder_of_the_faster(tmp_path, monkeypatch):
    write = demo_data_folder.write

    def overtaken(unfinished, count, workers):
        monkeypatch.setattr(demo_data_folder, "write", write)
        demo_data_folder.ensure_demo_data(tmp_path, count)  # another process starts later and ends earlier
        write(unfinished, count, workers)

    monkeypatch.setattr(demo_data_folder, "write", overtaken)
    made = demo_data_folder.ensure_demo_data(tmp_path, 3)
    assert list(tmp_path.iterdir()) == [made] and len(digest(made)) == 4


def test_a_cache_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="--cache_dir") as caught:
        demo_data_folder.ensure_demo_data(tmp_path / "file", 2)
    assert str(tmp_path / "file") in str(caught.value) and "\n" not in str(caught.value)


def test_a_cache_without_permission_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(
        demo_data_folder, "fingerprint", lambda count: "0" * 12
    )  # reads the project, which is not at issue
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:  # root may write everywhere, so be nobody for a moment
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            demo_data_folder.ensure_demo_data(tmp_path, 2)
    finally:
        os.seteuid(user)


def test_the_name_is_given_to_a_complete_folder(tmp_path, monkeypatch):
    rename, seen = os.rename, []

    def watch(source, target):
        seen.append((len(digest(pathlib.Path(source))), pathlib.Path(target).exists()))
        rename(source, target)

    monkeypatch.setattr(os, "rename", watch)
    demo_data_folder.ensure_demo_data(tmp_path, 3)
    assert seen == [(4, False)]


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_stays_when_drawing_stops(tmp_path, monkeypatch, problem):
    save_cover = demo_data_folder.save_cover

    def stops(folder, row):
        if row == 2:
            raise problem
        save_cover(folder, row)

    monkeypatch.setattr(demo_data_folder, "save_cover", stops)
    expected = UserError if isinstance(problem, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        demo_data_folder.ensure_demo_data(tmp_path, 5)
    assert list(tmp_path.iterdir()) == []


def test_half_of_the_books_are_enough_to_measure_1280_features():
    """The full comparison scores 1,000 covers against at least as many held-out ones."""
    from data import goodreads

    records = [books.book_record(row) for row in range(books.NUM_BOOKS)]
    assert len(records) >= 2000
    keys = [goodreads.book_key(book["book_title"], book["book_authors"].split("|")) for book in records]
    held_out = sum(goodreads.split_of(key, 0.5) == "test" for key in keys)
    assert held_out >= 1000 and len(records) - held_out >= 1000
