"""The stats file: what is wrong is said before covers are read. tests/scripts/ checks its figures."""

import shutil

import pytest

from cli import parser
from common.errors import UserError
from config import StatsOptions
from evaluation import precalculate, reference


def options(root, path, split="test"):
    words = f"--data_root {root} --resolution 32x48 --split {split} --fid_features efficientnet --fid_stats_path {path}"
    return parser.parse(StatsOptions, words.split())[0]


def test_the_file_is_written_and_summarized(small_data, tmp_path, capsys):
    path = tmp_path / "stats.npz"
    precalculate.write_statistics(options(small_data, path))
    out = capsys.readouterr().out
    assert out.startswith("4 real covers (test, 32x48), 1280 features for ") and f"-> {path} in " in out
    assert out.count("\n") == 1 and path.exists()


def test_one_cover_has_no_statistics(small_data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(small_data, root)
    (root / "df_test.csv").write_text("0\n22\n")
    with pytest.raises(UserError, match="statistics need at least 2 covers, and --split test has 1"):
        precalculate.write_statistics(options(root, tmp_path / "stats.npz"))
    assert not (tmp_path / "stats.npz").exists()


def test_a_path_that_can_not_be_written_comes_before_the_data(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't write") as problem:
        precalculate.write_statistics(options(tmp_path / "none", tmp_path / "file" / "stats.npz"))
    assert reference.WRITE_HINT in str(problem.value)
