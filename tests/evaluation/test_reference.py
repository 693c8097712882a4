"""The moments of images and the stats file, against numpy and pytorch-fid."""

import os
import types

import numpy as np
import pytest

import config
from cli import parser
from common.errors import UserError
from evaluation import distances, reference

INFO = dict(
    fid_features="inception", weights_hash="abc", fid_resize="clean", resolution="64x96", split="test", fingerprint="f0"
)


@pytest.fixture
def moments():
    result = distances.Moments(5)
    result.update(np.random.default_rng(8).standard_normal((9, 5)))
    return result


def test_stats_come_back_exactly(tmp_path, moments):
    path = tmp_path / "new" / "fid_stats.npz"
    reference.save_stats(path, moments, INFO)
    stats = reference.load_stats(path, INFO)
    assert stats.n == 9
    assert np.array_equal(stats.mu, moments.mu)
    assert np.array_equal(stats.sigma, moments.sigma)
    assert stats.info.items() >= INFO.items()
    assert "torch 2" in stats.info["created_by"]
    assert os.listdir(path.parent) == ["fid_stats.npz"]
    before = path.read_bytes()
    reference.save_stats(path, moments, INFO)
    assert path.read_bytes() == before


def test_stats_are_what_pytorch_fid_reads(tmp_path, moments):
    from pytorch_fid.fid_score import compute_statistics_of_path

    path = tmp_path / "fid_stats.npz"
    reference.save_stats(path, moments, INFO)
    mu, sigma = compute_statistics_of_path(str(path), None, 1, 5, "cpu")
    assert np.array_equal(mu, moments.mu)
    assert np.array_equal(sigma, moments.sigma)


@pytest.mark.parametrize("name", INFO)
def test_stats_made_otherwise_are_refused(tmp_path, moments, name):
    reference.save_stats(tmp_path / "s.npz", moments, INFO)
    with pytest.raises(UserError) as problem:
        reference.load_stats(tmp_path / "s.npz", INFO | {name: "another"}, "python -m this --that")
    message = str(problem.value)
    assert f"{name} {INFO[name]}" in message
    assert "another" in message
    assert message.endswith("make it with: python -m this --that")
    assert "\n" not in message


def test_stats_of_another_version_are_refused(tmp_path, moments, monkeypatch):
    reference.save_stats(tmp_path / "s.npz", moments, INFO)
    monkeypatch.setattr(reference, "STATS_VERSION", reference.STATS_VERSION + 1)
    with pytest.raises(UserError, match="stats_version"):
        reference.load_stats(tmp_path / "s.npz", INFO)


def test_stats_that_are_no_stats_are_refused(tmp_path, moments):
    path = tmp_path / "s.npz"
    with pytest.raises(UserError, match="no statistics of real covers"):
        reference.load_stats(path, INFO)
    with pytest.raises(UserError, match="not a stats file"):
        reference.load_stats(tmp_path, INFO)
    reference.save_stats(path, moments, INFO)
    whole = path.read_bytes()
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, mu=np.array([{}], dtype=object))
    flipped = bytearray(whole)
    flipped[whole.index(moments.sigma.tobytes()) + 3] ^= 1  # one bit of one number: zip's checksum tells
    for data in (b"", b"hello", whole[: len(whole) // 2], pickled.read_bytes(), bytes(flipped)):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"not a stats file.*make it with"):
            reference.load_stats(path, INFO)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="not a stats file"):
        reference.load_stats(path, INFO)
    np.savez(path, mu=moments.mu, sigma=moments.sigma)  # as pytorch-fid --save-stats writes it
    with pytest.raises(UserError, match="doesn't say its n,"):
        reference.load_stats(path, INFO)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(sigma=np.eye(4)),
        dict(mu=np.zeros((5, 1))),
        dict(mu=np.full(5, np.nan)),
        dict(n=1),
        dict(n=[9]),
        dict(mu=["a"] * 5),
    ],
)
def test_stats_with_broken_numbers_are_refused(tmp_path, moments, wrong):
    whole = dict(mu=moments.mu, sigma=moments.sigma, n=9, stats_version=reference.STATS_VERSION)
    np.savez(tmp_path / "s.npz", **whole)
    assert reference.load_stats(tmp_path / "s.npz", {}).n == 9
    np.savez(tmp_path / "s.npz", **(whole | wrong))
    with pytest.raises(UserError, match="doesn't hold a mean"):
        reference.load_stats(tmp_path / "s.npz", {})


def test_a_failed_save_leaves_the_old_file(tmp_path, moments, monkeypatch):
    path = tmp_path / "s.npz"
    reference.save_stats(path, moments, INFO)
    before = path.read_bytes()

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"s\.npz.*No space left.*--fid_stats_path"):
        reference.save_stats(path, moments, INFO)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["s.npz"]


def test_require_writable(tmp_path, monkeypatch):
    reference.require_writable(tmp_path / "deep" / "s.npz")
    assert os.listdir(tmp_path / "deep") == []
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    for path, match in (("s.txt", "must end in .npz"), ("folder.npz", "is a folder"), ("file/s.npz", "can't write")):
        with pytest.raises(UserError, match=match):
            reference.require_writable(tmp_path / path)
    monkeypatch.setattr(reference.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="No space left"):
        reference.require_writable(tmp_path / "s.npz")


def test_the_command_that_makes_the_right_file():
    given = ["--data_root", "my covers", "--resolution", "64x96", "--split", "all", "--fid_features", "efficientnet"]
    options, _ = parser.parse(config.InferenceOptions, [*given, "--fid_batch_size", "50"])
    command = reference.stats_command(options)
    assert command == (
        "python -m precalc_fid_stats --data_root 'my covers' --resolution 64x96 "
        "--fid_stats_path fid_stats.npz --fid_features efficientnet --split all"
    )


def test_reference_of_the_options(tmp_path, moments):
    """load_reference ties options, extractor and data to the file."""
    path = tmp_path / "s.npz"
    options, _ = parser.parse(config.StatsOptions, ["--fid_stats_path", str(path), "--resolution", "64x96"])
    extractor = types.SimpleNamespace(name="inception", weights_hash="abc", resize="clean")
    data = types.SimpleNamespace(books=lambda split: [split, "book"], fingerprint="+".join)
    info = reference.stats_info(options, extractor, data)
    assert info == INFO | {"fingerprint": "test+book"}
    reference.save_stats(path, moments, info)
    assert reference.load_reference(options, extractor, data).n == 9
    data.books = lambda split: [split, "another"]
    with pytest.raises(UserError, match=r"fingerprint test\+book.*precalc_fid_stats --data_root"):
        reference.load_reference(options, extractor, data)
