"""The distance, the moments and the stats file, against closed forms, numpy, scipy and pytorch-fid's own formula."""

import os
import re
import tracemalloc
import types
import warnings

import numpy as np
import pytest
from scipy import linalg

import command_line
import config
import metrics
from config import UserError


def gaussian(rng, n, dims, scale=1.0, shift=0.0):
    """Correlated features (n, dims) with eigenvalues that fall off, as those of networks do."""
    spread = scale / np.arange(1, dims + 1)
    return (rng.standard_normal((n, dims)) * spread) @ np.linalg.qr(rng.standard_normal((dims, dims)))[0] + shift


def of(features):
    """Mean and covariance of features (n, dims) by numpy."""
    return features.mean(axis=0), np.cov(features, rowvar=False)


# ---------------------------------------------------------------------------------------------------------------------
# frechet_distance


def test_distance_of_diagonal_gaussians():
    """For commuting covariances: |mu1 - mu2|^2 + sum (sqrt(a) - sqrt(b))^2 over the eigenvalues."""
    mu1, mu2 = np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 1.0, 0.0, 3.5])
    a, b = np.array([4.0, 9.0, 0.25, 0.0]), np.array([1.0, 9.0, 16.0, 4.0])
    expected = 1 + 4 + 0.25 + 1 + 0 + 3.5**2 + 4
    assert metrics.frechet_distance(mu1, np.diag(a), mu2, np.diag(b)) == pytest.approx(expected, rel=1e-14)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]  # the same in a rotated frame
    sigma1, sigma2 = turn @ np.diag(a) @ turn.T, turn @ np.diag(b) @ turn.T
    assert metrics.frechet_distance(turn @ mu1, sigma1, turn @ mu2, sigma2) == pytest.approx(expected, rel=1e-13)


def test_distance_of_two_by_two():
    """Not commuting: for 2 x 2, tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) with M = sigma1 sigma2."""
    sigma1, sigma2 = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    product = sigma1 @ sigma2
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 25 + 5 + 6 - 2 * cross
    assert metrics.frechet_distance([0, 0], sigma1, [3, 4], sigma2) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("n", "rounding"), [(20, 1e-6), (400, 1e-12)])
def test_distance_to_itself_is_zero(n, rounding):
    mu, sigma = of(gaussian(np.random.default_rng(1), n, 64))
    assert 0 <= metrics.frechet_distance(mu, sigma, mu, sigma) < rounding * np.trace(sigma)
    assert metrics.frechet_distance(mu + 2, sigma, mu, sigma) == pytest.approx(4 * 64, rel=rounding)


@pytest.mark.parametrize(
    ("n1", "n2", "rounding"), [(10, 12, 1e-6), (30, 300, 1e-6), (300, 30, 1e-6), (300, 400, 1e-11)]
)
def test_distance_of_few_images(n1, n2, rounding):
    """Of any rank: with features X, Y, centred and divided by sqrt(n - 1), the last trace is |X Yᵀ|'s nuclear norm."""
    rng = np.random.default_rng(2)
    x, y = gaussian(rng, n1, 128), gaussian(rng, n2, 128, 1.2, 0.1)
    half1, half2 = (x - x.mean(0)) / np.sqrt(n1 - 1), (y - y.mean(0)) / np.sqrt(n2 - 1)
    cross = np.linalg.svd(half1 @ half2.T, compute_uv=False).sum()
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(half1**2) + np.sum(half2**2) - 2 * cross
    there, back = metrics.frechet_distance(*of(x), *of(y)), metrics.frechet_distance(*of(y), *of(x))
    assert there == pytest.approx(expected, rel=rounding)
    assert back == pytest.approx(there, rel=rounding)


def test_distance_agrees_with_scipy_and_pytorch_fid():
    from pytorch_fid.fid_score import calculate_frechet_distance

    rng = np.random.default_rng(3)
    x, y = of(gaussian(rng, 500, 100)), of(gaussian(rng, 600, 100, 1.3, 0.2))
    ours = metrics.frechet_distance(*x, *y)
    cross = np.trace(linalg.sqrtm(x[1] @ y[1])).real
    assert ours == pytest.approx(np.sum((x[0] - y[0]) ** 2) + np.trace(x[1] + y[1]) - 2 * cross, rel=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls scipy's sqrtm with disp, which goes in 1.18
        assert ours == pytest.approx(calculate_frechet_distance(*x, *y), rel=1e-9)


def test_few_images_agree_with_pytorch_fid_to_six_digits():
    """Singular covariances, near each other: both are off the exact value, by rounding, and by the same amount."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    rng = np.random.default_rng(9)
    x, y = gaussian(rng, 90, 400), gaussian(rng, 20, 400)
    half1, half2 = (x - x.mean(0)) / np.sqrt(89), (y - y.mean(0)) / np.sqrt(19)
    cross = np.linalg.svd(half1 @ half2.T, compute_uv=False).sum()
    exact = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(half1**2) + np.sum(half2**2) - 2 * cross
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # disp is deprecated, and scipy says that the matrix is singular
        theirs = calculate_frechet_distance(*of(x), *of(y))
    ours = metrics.frechet_distance(*of(x), *of(y))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert ours == pytest.approx(exact, rel=1e-5)


def test_distance_refuses_nonsense():
    one, two = np.eye(2), np.eye(3)
    with pytest.raises(ValueError, match="shapes"):
        metrics.frechet_distance(np.zeros(2), one, np.zeros(3), two)
    with pytest.raises(ValueError, match="shapes"):
        metrics.frechet_distance(np.zeros(2), two, np.zeros(2), two)
    with pytest.raises(ValueError, match="finite"):
        metrics.frechet_distance(np.zeros(2), one, np.array([0, np.nan]), one)


# ---------------------------------------------------------------------------------------------------------------------
# Moments


@pytest.mark.parametrize("sizes", [[100], [1] * 100, [50, 50], [64, 0, 35, 1]])
def test_moments_are_numpys(sizes):
    features = gaussian(np.random.default_rng(4), 100, 12, shift=3)
    moments = metrics.Moments(12)
    for part in np.split(features, np.cumsum(sizes)[:-1]):
        moments.update(part)
    assert moments.n == 100
    np.testing.assert_allclose(moments.mu, features.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.sigma, np.cov(features, rowvar=False), rtol=1e-11, atol=1e-14)
    assert moments.mu.dtype == moments.sigma.dtype == np.float64


def test_moments_far_from_zero():
    """A mean 1e8 times the deviation: sums of squares would lose every digit of the covariance."""
    features = np.random.default_rng(5).standard_normal((1000, 3))
    moments = metrics.Moments(3)
    for part in np.split(features + 1e8, 20):
        moments.update(part)
    np.testing.assert_allclose(moments.sigma, np.cov(features, rowvar=False), rtol=1e-5, atol=1e-6)
    naive = ((features + 1e8).T @ (features + 1e8) - 1000 * np.outer(moments.mu, moments.mu)) / 999
    assert np.abs(naive - np.cov(features, rowvar=False)).max() > 0.01


def test_moments_take_the_same_memory_for_any_number():
    def peak(batches):
        rng, moments = np.random.default_rng(6), metrics.Moments(100)
        tracemalloc.start()
        for _ in range(batches):
            moments.update(rng.standard_normal((50, 100)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert moments.n == 50 * batches
        return top

    peak(2)  # warm up
    assert peak(400) < 1.1 * peak(4)


def test_moments_refuse_nonsense():
    moments = metrics.Moments(3)
    for wrong in (np.zeros(3), np.zeros((2, 4))):
        with pytest.raises(ValueError, match="features"):
            moments.update(wrong)
    moments.update(np.zeros((1, 3)))
    with pytest.raises(UserError, match="at least 2"):
        moments.sigma  # noqa: B018


class Brightness:
    """A stand-in for an extractor: the mean of each channel."""

    dims, batch_size = 3, 4

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        return images.mean(axis=(1, 2))


def test_moments_of_images_include_the_last_part_of_a_batch(capsys):
    images = np.random.default_rng(7).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
    extractor = Brightness()
    moments = metrics.moments(iter(images), extractor, 10, "looking")
    assert extractor.batches == [4, 4, 2]
    assert moments.n == 10
    np.testing.assert_allclose(moments.mu, images.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(moments.sigma, np.cov(images.mean(axis=(1, 2)), rowvar=False))
    assert "looking" in capsys.readouterr().err


def test_warn_small():
    assert metrics.warn_small(2049, 2048) is None
    for n in (2048, 2):
        assert re.search(rf"^{n} images.*singular.*upward.*just as many", metrics.warn_small(n, 2048))


# ---------------------------------------------------------------------------------------------------------------------
# The stats file

INFO = dict(
    fid_features="inception", weights_hash="abc", fid_resize="clean", resolution="64x96", split="test", fingerprint="f0"
)


@pytest.fixture
def moments():
    result = metrics.Moments(5)
    result.update(np.random.default_rng(8).standard_normal((9, 5)))
    return result


def test_stats_come_back_exactly(tmp_path, moments):
    path = tmp_path / "new" / "fid_stats.npz"
    metrics.save_stats(path, moments, INFO)
    stats = metrics.load_stats(path, INFO)
    assert stats.n == 9
    assert np.array_equal(stats.mu, moments.mu)
    assert np.array_equal(stats.sigma, moments.sigma)
    assert stats.info.items() >= INFO.items()
    assert "torch 2" in stats.info["created_by"]
    assert os.listdir(path.parent) == ["fid_stats.npz"]
    before = path.read_bytes()
    metrics.save_stats(path, moments, INFO)
    assert path.read_bytes() == before


def test_stats_are_what_pytorch_fid_reads(tmp_path, moments):
    from pytorch_fid.fid_score import compute_statistics_of_path

    path = tmp_path / "fid_stats.npz"
    metrics.save_stats(path, moments, INFO)
    mu, sigma = compute_statistics_of_path(str(path), None, 1, 5, "cpu")
    assert np.array_equal(mu, moments.mu)
    assert np.array_equal(sigma, moments.sigma)


@pytest.mark.parametrize("name", INFO)
def test_stats_made_otherwise_are_refused(tmp_path, moments, name):
    metrics.save_stats(tmp_path / "s.npz", moments, INFO)
    with pytest.raises(UserError) as problem:
        metrics.load_stats(tmp_path / "s.npz", INFO | {name: "another"}, "python -m this --that")
    message = str(problem.value)
    assert f"{name} {INFO[name]}" in message
    assert "another" in message
    assert message.endswith("make it with: python -m this --that")
    assert "\n" not in message


def test_stats_of_another_version_are_refused(tmp_path, moments, monkeypatch):
    metrics.save_stats(tmp_path / "s.npz", moments, INFO)
    monkeypatch.setattr(metrics, "STATS_VERSION", metrics.STATS_VERSION + 1)
    with pytest.raises(UserError, match="stats_version"):
        metrics.load_stats(tmp_path / "s.npz", INFO)


def test_stats_that_are_no_stats_are_refused(tmp_path, moments):
    path = tmp_path / "s.npz"
    with pytest.raises(UserError, match="no statistics of real covers"):
        metrics.load_stats(path, INFO)
    with pytest.raises(UserError, match="not a stats file"):
        metrics.load_stats(tmp_path, INFO)
    metrics.save_stats(path, moments, INFO)
    whole = path.read_bytes()
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, mu=np.array([{}], dtype=object))
    flipped = bytearray(whole)
    flipped[whole.index(moments.sigma.tobytes()) + 3] ^= 1  # one bit of one number: zip's checksum tells
    for data in (b"", b"hello", whole[: len(whole) // 2], pickled.read_bytes(), bytes(flipped)):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"not a stats file.*make it with"):
            metrics.load_stats(path, INFO)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="not a stats file"):
        metrics.load_stats(path, INFO)
    np.savez(path, mu=moments.mu, sigma=moments.sigma)  # as pytorch-fid --save-stats writes it
    with pytest.raises(UserError, match="doesn't say its n,"):
        metrics.load_stats(path, INFO)


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
    whole = dict(mu=moments.mu, sigma=moments.sigma, n=9, stats_version=metrics.STATS_VERSION)
    np.savez(tmp_path / "s.npz", **whole)
    assert metrics.load_stats(tmp_path / "s.npz", {}).n == 9
    np.savez(tmp_path / "s.npz", **(whole | wrong))
    with pytest.raises(UserError, match="doesn't hold a mean"):
        metrics.load_stats(tmp_path / "s.npz", {})


def test_a_failed_save_leaves_the_old_file(tmp_path, moments, monkeypatch):
    path = tmp_path / "s.npz"
    metrics.save_stats(path, moments, INFO)
    before = path.read_bytes()

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"s\.npz.*No space left.*--fid_stats_path"):
        metrics.save_stats(path, moments, INFO)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["s.npz"]


def test_require_writable(tmp_path, monkeypatch):
    metrics.require_writable(tmp_path / "deep" / "s.npz")
    assert os.listdir(tmp_path / "deep") == []
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    for path, match in (("s.txt", "must end in .npz"), ("folder.npz", "is a folder"), ("file/s.npz", "can't write")):
        with pytest.raises(UserError, match=match):
            metrics.require_writable(tmp_path / path)
    monkeypatch.setattr(metrics.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="No space left"):
        metrics.require_writable(tmp_path / "s.npz")


def test_the_command_that_makes_the_right_file():
    given = ["--data_root", "my covers", "--resolution", "64x96", "--split", "all", "--fid_features", "efficientnet"]
    options, _ = command_line.parse(config.InferenceOptions, [*given, "--fid_batch_size", "50"])
    command = metrics.stats_command(options)
    assert command == (
        "python -m precalc_fid_stats --data_root 'my covers' --resolution 64x96 "
        "--fid_stats_path fid_stats.npz --fid_features efficientnet --split all"
    )


def test_reference_of_the_options(tmp_path, moments):
    """load_reference ties options, extractor and data to the file."""
    path = tmp_path / "s.npz"
    options, _ = command_line.parse(config.StatsOptions, ["--fid_stats_path", str(path), "--resolution", "64x96"])
    extractor = types.SimpleNamespace(name="inception", weights_hash="abc", resize="clean")
    data = types.SimpleNamespace(books=lambda split: [split, "book"], fingerprint="+".join)
    info = metrics.stats_info(options, extractor, data)
    assert info == INFO | {"fingerprint": "test+book"}
    metrics.save_stats(path, moments, info)
    assert metrics.load_reference(options, extractor, data).n == 9
    data.books = lambda split: [split, "another"]
    with pytest.raises(UserError, match=r"fingerprint test\+book.*precalc_fid_stats --data_root"):
        metrics.load_reference(options, extractor, data)
