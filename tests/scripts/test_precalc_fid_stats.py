"""The statistics script as a user runs it, on a small data folder in the Goodreads layout."""

import csv
import os

import numpy as np
import pytest
import torch
from PIL import Image

import config
import precalc_fid_stats
from cli import parser
from common.errors import UserError
from data.folder import open_data
from data.images import read_cover
from evaluation import distances, feature_cache, features, reference

COLUMNS = [
    *("book_authors", "book_desc", "book_edition", "book_format", "book_isbn", "book_pages", "book_rating"),
    *("book_rating_count", "book_review_count", "book_title", "genres", "image_url"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data folder with 14 covers, 9 for training and 5 held out by its own df_test.csv."""
    root = tmp_path_factory.mktemp("data")
    (root / "images" / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for row in range(14):
        small = rng.integers(0, 256, (3, 2, 3)).astype(np.uint8)
        image = Image.fromarray(small).resize((80, 120), Image.Resampling.BICUBIC)
        image.save(root / "images" / "images" / f"{row}.jpg", quality=95)
        known = dict(book_title=f"Title {row}", book_authors=f"Author {row}", genres="Fantasy", book_desc="A story.")
        rows.append([known.get(column, "") for column in COLUMNS])
    lines = {"book_data": rows, "df_train": rows[:9], "df_test": rows[9:]}
    for name, chosen in lines.items():
        with open(root / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if name == "book_data":
                writer.writerows([COLUMNS, *chosen])
            else:  # the first column is the row index
                first = 0 if name == "df_train" else 9
                writer.writerows([["", *COLUMNS], *([first + i, *row] for i, row in enumerate(chosen))])
    return root


def words(root, path, *more):
    where = ["--data_root", str(root), "--fid_stats_path", str(path)]
    return [*where, "--fid_features", "efficientnet", "--resolution", "64x96", *more]


@pytest.mark.script
def test_statistics_are_those_of_the_held_out_covers(root, tmp_path, run_script):
    """The real script against numpy on the same pixels; the file fits the same options and no others."""
    path = tmp_path / "new" / "fid_stats.npz"
    done = run_script("precalc_fid_stats", *words(root, path, "--fid_batch_size", "2"), fresh=True)
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip()
    assert line.startswith("5 real covers (test, 64x96), 1280 features for FD (EfficientNet-Lite0), clean resize -> ")
    assert str(path) in line
    assert "warning: 5 images for 1280 feature dimensions" in done.stderr
    assert "test covers: 100%" in done.stderr
    assert os.listdir(path.parent) == ["fid_stats.npz"]

    options, _ = parser.parse(config.StatsOptions, words(root, path))
    extractor = features.load_extractor(options, torch.device("cpu"))
    data = open_data(options)
    stats = reference.load_reference(options, extractor, data)
    held_out = data.books("test")
    assert sorted(book.row for book in held_out) == [9, 10, 11, 12, 13]
    pixels = np.stack([read_cover(book.image, (64, 96)) for book in held_out])
    expected = extractor(pixels)
    assert stats.n == 5
    np.testing.assert_allclose(stats.mu, expected.mean(axis=0), rtol=1e-4, atol=1e-5)
    sigma = np.cov(expected, rowvar=False)
    np.testing.assert_allclose(stats.sigma, sigma, atol=1e-4 * sigma.max())
    assert distances.frechet_distance(stats.mu, stats.sigma, expected.mean(axis=0), sigma) < 1e-6 * np.trace(sigma)

    others = (["--resolution", "64x64"], ["--split", "train"], ["--split", "all"])
    for change, name in zip(others, ("resolution", "split", "split"), strict=True):
        other, _ = parser.parse(config.StatsOptions, words(root, path, *change))
        with pytest.raises(UserError, match=f"was made with {name} ") as problem:
            reference.load_reference(other, extractor, data)
        assert f"precalc_fid_stats --data_root {root}" in str(problem.value)
        assert " ".join(change) in str(problem.value)


def test_the_same_file_whatever_the_number_of_threads(root, tmp_path):
    for name, workers in (("a.npz", "0"), ("b.npz", "3")):
        precalc_fid_stats.main(words(root, tmp_path / name, "--split", "all", "--num_workers", workers))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as stats:
        assert stats["n"] == 14
        assert stats["split"] == "all"


def test_what_is_wrong_is_found_before_the_long_work(root, tmp_path, monkeypatch):
    def long_work(*_):
        raise AssertionError("the long work has begun")

    monkeypatch.setattr(feature_cache, "real_features", long_work)
    (tmp_path / "file").touch()
    wrong = {
        "must end in .npz": words(root, tmp_path / "stats.txt"),
        "can't write": words(root, tmp_path / "file" / "stats.npz"),
        "--fid_resize clean": words(root, tmp_path / "s.npz", "--fid_resize", "legacy"),
        "no weights file": words(root, tmp_path / "s.npz", "--fid_features=inception", "--fid_weights", "none.pth"),
        "--data_root": words(tmp_path / "none", tmp_path / "s.npz"),
    }
    for message, given in wrong.items():
        with pytest.raises(UserError) as problem:
            precalc_fid_stats.main(given)
        assert message in str(problem.value)
        assert not (tmp_path / "s.npz").exists()
    with pytest.raises(AssertionError, match="long work"):
        precalc_fid_stats.main(words(root, tmp_path / "s.npz"))


@pytest.mark.script
def test_one_line_and_exit_code_2(tmp_path, run_script):
    done = run_script("precalc_fid_stats", *words(tmp_path / "none", tmp_path / "s.npz"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
