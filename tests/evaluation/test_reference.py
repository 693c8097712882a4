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
        dict(mu=np.zeros(5, np.float32)),
        dict(mu=np.zeros(0), sigma=np.zeros((0, 0))),
        *(dict(n=n) for n in (np.nan, np.inf, 2.5, -3, True, "9", 9 + 0j, np.datetime64("2020-01-01"))),
        dict(sigma=np.full((5, 5), np.inf)),
        dict(sigma=-np.eye(5)),
        dict(sigma=np.eye(5) + np.eye(5, k=1) * 1e-3),  # not symmetric
        dict(sigma=np.eye(5) + (np.eye(5, k=1) + np.eye(5, k=-1)) * 1.01),  # a correlation above 1
    ],
)
def test_stats_with_broken_numbers_are_refused(tmp_path, moments, wrong):
    whole = dict(mu=moments.mu, sigma=moments.sigma, n=9, stats_version=reference.STATS_VERSION)
    np.savez(tmp_path / "s.npz", **whole)
    assert reference.load_stats(tmp_path / "s.npz", {}).n == 9
    np.savez(tmp_path / "s.npz", **(whole | wrong))
    with pytest.raises(UserError, match="doesn't hold a mean"):
        reference.load_stats(tmp_path / "s.npz", {})


def test_moments_at_the_limits_are_sound(tmp_path):
    """Features that never vary, that are multiples of each other, and all the same but for rounding."""
    x = np.random.default_rng(3).standard_normal((3000, 3)).astype(np.float32)
    x = np.concatenate([x, x[:, :1] * 1e-30, -3 * x[:, :1], np.zeros((3000, 1)), np.full((3000, 2), 0.1)], axis=1)
    moments = distances.Moments(x.shape[1])
    for first in range(0, 3000, 500):
        moments.update(x[first : first + 500].astype(np.float32))
    reference.save_stats(tmp_path / "s.npz", moments, INFO)
    assert reference.load_stats(tmp_path / "s.npz", INFO).n == 3000


def test_moments_that_are_not_finite_are_not_written(tmp_path):
    moments = distances.Moments(2)
    moments.update(np.array([[1.0, np.nan], [2.0, 1.0]]))
    with pytest.raises(UserError, match=r"can't write .*s\.npz: they are not finite; nothing was written"):
        reference.save_stats(tmp_path / "s.npz", moments, INFO)
    assert os.listdir(tmp_path) == []


def test_no_damaged_bit_is_a_traceback_or_another_number(tmp_path, moments):
    """zip's checksums guard the numbers; damage to zip's own headers makes libraries raise what they like."""
    path = tmp_path / "s.npz"
    reference.save_stats(path, moments, INFO)
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    refused = 0
    for i in (*range(40), *range(directory, directory + 50), *range(len(whole) - 22, len(whole))):
        for bit in (1, 16):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :])
            try:
                stats = reference.load_stats(path, INFO)
            except UserError:
                refused += 1
            else:
                assert stats.n == 9 and np.array_equal(stats.mu, moments.mu)
                assert np.array_equal(stats.sigma, moments.sigma)
    assert refused > 100


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
    extractor = types.SimpleNamespace(name="inception", weights_hash="abc", resize="clean", dims=5)
    data = types.SimpleNamespace(books=lambda split: [split, "book"], fingerprint="+".join)
    info = reference.stats_info(options, extractor, data)
    assert info == INFO | {"fingerprint": "test+book"}
    reference.save_stats(path, moments, info)
    assert reference.load_reference(options, extractor, data).n == 9
    extractor.dims = 4
    with pytest.raises(UserError, match=r"has 5 features, and inception has 4: make it with: .*precalc_fid_stats"):
        reference.load_reference(options, extractor, data)
    data.books = lambda split: [split, "another"]
    with pytest.raises(UserError, match=r"fingerprint test\+book.*precalc_fid_stats --data_root"):
        reference.load_reference(options, extractor, data)
