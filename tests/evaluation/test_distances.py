"""The scores against closed forms, scipy, pytorch-fid, torchmetrics and prdc; their errors against their spread."""

import re
import tracemalloc
import warnings

import numpy as np
import pytest
from scipy import linalg, spatial

from evaluation import distances, precision_recall
from evaluation.distances import TooFewImages


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
    assert distances.frechet_distance(mu1, np.diag(a), mu2, np.diag(b)) == pytest.approx(expected, rel=1e-14)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]  # the same in a rotated frame
    sigma1, sigma2 = turn @ np.diag(a) @ turn.T, turn @ np.diag(b) @ turn.T
    assert distances.frechet_distance(turn @ mu1, sigma1, turn @ mu2, sigma2) == pytest.approx(expected, rel=1e-13)


def test_distance_of_two_by_two():
    """Not commuting: for 2 x 2, tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) with M = sigma1 sigma2."""
    sigma1, sigma2 = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    product = sigma1 @ sigma2
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 25 + 5 + 6 - 2 * cross
    assert distances.frechet_distance([0, 0], sigma1, [3, 4], sigma2) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("n", "rounding"), [(20, 1e-6), (400, 1e-12)])
def test_distance_to_itself_is_zero(n, rounding):
    mu, sigma = of(gaussian(np.random.default_rng(1), n, 64))
    assert 0 <= distances.frechet_distance(mu, sigma, mu, sigma) < rounding * np.trace(sigma)
    assert distances.frechet_distance(mu + 2, sigma, mu, sigma) == pytest.approx(4 * 64, rel=rounding)


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
    there, back = distances.frechet_distance(*of(x), *of(y)), distances.frechet_distance(*of(y), *of(x))
    assert there == pytest.approx(expected, rel=rounding)
    assert back == pytest.approx(there, rel=rounding)


def test_distance_agrees_with_scipy_and_pytorch_fid():
    from pytorch_fid.fid_score import calculate_frechet_distance

    rng = np.random.default_rng(3)
    x, y = of(gaussian(rng, 500, 100)), of(gaussian(rng, 600, 100, 1.3, 0.2))
    ours = distances.frechet_distance(*x, *y)
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
    ours = distances.frechet_distance(*of(x), *of(y))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert ours == pytest.approx(exact, rel=1e-5)


def test_distance_refuses_nonsense():
    one, two = np.eye(2), np.eye(3)
    with pytest.raises(ValueError, match="shapes"):
        distances.frechet_distance(np.zeros(2), one, np.zeros(3), two)
    with pytest.raises(ValueError, match="shapes"):
        distances.frechet_distance(np.zeros(2), two, np.zeros(2), two)
    with pytest.raises(ValueError, match="finite"):
        distances.frechet_distance(np.zeros(2), one, np.array([0, np.nan]), one)


# ---------------------------------------------------------------------------------------------------------------------
# Moments


@pytest.mark.parametrize("sizes", [[100], [1] * 100, [50, 50], [64, 0, 35, 1]])
def test_moments_are_numpys(sizes):
    features = gaussian(np.random.default_rng(4), 100, 12, shift=3)
    moments = distances.Moments(12)
    for part in np.split(features, np.cumsum(sizes)[:-1]):
        moments.update(part)
    assert moments.n == 100
    np.testing.assert_allclose(moments.mu, features.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.sigma, np.cov(features, rowvar=False), rtol=1e-11, atol=1e-14)
    assert moments.mu.dtype == moments.sigma.dtype == np.float64


def test_moments_far_from_zero():
    """A mean 1e8 times the deviation: sums of squares would lose every digit of the covariance."""
    features = np.random.default_rng(5).standard_normal((1000, 3))
    moments = distances.Moments(3)
    for part in np.split(features + 1e8, 20):
        moments.update(part)
    np.testing.assert_allclose(moments.sigma, np.cov(features, rowvar=False), rtol=1e-5, atol=1e-6)
    naive = ((features + 1e8).T @ (features + 1e8) - 1000 * np.outer(moments.mu, moments.mu)) / 999
    assert np.abs(naive - np.cov(features, rowvar=False)).max() > 0.01


def test_moments_take_the_same_memory_for_any_number():
    def peak(batches):
        rng, moments = np.random.default_rng(6), distances.Moments(100)
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
    moments = distances.Moments(3)
    for wrong in (np.zeros(3), np.zeros((2, 4))):
        with pytest.raises(ValueError, match="features"):
            moments.update(wrong)
    moments.update(np.zeros((1, 3)))
    with pytest.raises(TooFewImages, match="at least 2 images, and there is 1"):
        moments.sigma  # noqa: B018


def test_warn_small():
    assert distances.small_sample_warning(2049, 2048) is None
    for n in (2048, 2):
        assert re.search(rf"^{n} images.*singular.*upward.*just as many", distances.small_sample_warning(n, 2048))


# ---------------------------------------------------------------------------------------------------------------------
# The error of the Fréchet distance, and its limit


@pytest.mark.parametrize(
    ("n", "m", "relative"), [(300, 400, 1e-9), (70, 400, 1e-9), (30, 400, 1e-4), (300, 30, 1e-4), (20, 30, 1e-4)]
)
def test_distance_of_rows_is_the_distance(n, m, relative):
    """64 dimensions: full rank to 9 digits; singular, where frechet_distance loses digits, to 4; by SVD to 9."""
    rng = np.random.default_rng(10)
    x, y = gaussian(rng, n, 64, shift=0.1), gaussian(rng, m, 64, 1.2)
    distance = distances.frechet_of_rows(x.astype(np.float32), *of(y))
    x = x.astype(np.float32).astype(float)
    for rows in (np.arange(n), rng.permutation(n)[: n // 2]):
        chosen = x[rows]
        loose = relative if len(rows) > 64 else max(relative, 1e-4)
        assert distance(rows) == pytest.approx(distances.frechet_distance(*of(chosen), *of(y)), rel=loose)
        half1 = (chosen - chosen.mean(0)) / np.sqrt(len(rows) - 1)
        half2 = (y - y.mean(0)) / np.sqrt(m - 1)
        cross = np.linalg.svd(half1 @ half2.T, compute_uv=False).sum()
        exact = np.sum((chosen.mean(0) - y.mean(0)) ** 2) + np.sum(half1**2) + np.sum(half2**2) - 2 * cross
        assert distance(rows) == pytest.approx(exact, rel=1e-9)


def test_distance_to_a_single_point():
    """sigma = 0: |mean - mu|² and the trace of the covariance are all that is left."""
    x = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0]])
    assert distances.frechet_of_rows(x, np.zeros(2), np.zeros((2, 2)))(np.arange(4)) == pytest.approx(
        5 + 4 / 3 + 16 / 3
    )
    assert distances.frechet_stderr(np.ones((6, 2)), np.zeros(2), np.zeros((2, 2))) == pytest.approx(0, abs=1e-12)
    value, error, r_squared = distances.frechet_infinity(np.ones((40, 2)), np.zeros(2), np.zeros((2, 2)))
    assert (value, error, r_squared) == pytest.approx((2, 0, 1), abs=1e-12)


def test_half_error_of_a_mean_is_the_known_one():
    """Of the mean of n numbers: std / √n, in expectation; with odd n too, where the factor isn't 1."""
    for n in (10, 11, 100):
        x = np.random.default_rng(n).standard_normal(n)
        error = distances.jackknife_stderr(lambda rows, x=x: x[rows].mean(), n, halves=4000)
        assert error == pytest.approx(x.std(ddof=1) / np.sqrt(n), rel=0.04)


def spread_and_error(measure, repetitions):
    """Standard deviation of the value of measure(seed) -> (value, error), and the root mean square of the error."""
    values, errors = np.transpose([measure(seed)[:2] for seed in range(repetitions)])
    return values.std(ddof=1), np.sqrt(np.mean(errors**2))


@pytest.mark.slow
def test_errors_are_the_spread_of_repetitions():
    """200 draws (100 for the limit, which is slower): what each score says of its error is how it varies.

    Within 20 %; the jackknife's may be too large by more (see jackknife_stderr), up to 40 %, but not too small.
    """
    spread = 1 / np.sqrt(np.arange(1, 9))
    reference = (np.zeros(8), np.diag(spread**2))
    real = np.random.default_rng(0).standard_normal((100, 8)) * spread

    def drawn(seed):
        return (np.random.default_rng([1, seed]).standard_normal((120, 8)) * 1.2 + 0.5) * spread

    def distance(seed):
        value = distances.frechet_of_rows(drawn(seed), *reference)(np.arange(120))
        return value, distances.frechet_stderr(drawn(seed), *reference, seed=seed)

    def kernel(seed):  # both sides are drawn anew: its error is of both
        other = np.random.default_rng([2, seed]).standard_normal((100, 8)) * spread
        return distances.kernel_distance(drawn(seed), other, seed=seed)

    def recall(seed):
        x = drawn(seed)
        error = distances.jackknife_stderr(
            lambda rows: precision_recall.precision_recall(x[rows], real)[1], len(x), seed=seed
        )
        return precision_recall.precision_recall(x, real)[1], error

    def covered(seed):
        x = drawn(seed)
        error = distances.jackknife_stderr(lambda rows: precision_recall.coverage(x[rows], real), len(x), seed=seed)
        return precision_recall.coverage(x, real), error

    def precise(seed):
        precision = precision_recall.precision_recall(drawn(seed), real)[0]
        return precision, precision_recall.fraction_stderr(precision, 120)

    cases = {
        "fréchet": (distance, 200, 1.2),
        "kernel": (kernel, 200, 1.2),
        "limit": (lambda seed: distances.frechet_infinity(drawn(seed), *reference, seed=seed), 100, 1.4),
        "cmmd": (lambda seed: distances.cmmd(drawn(seed) + 1, real + 1, seed=seed), 200, 1.4),
        "precision": (precise, 200, 1.2),
        "recall": (recall, 200, 1.4),
        "coverage": (covered, 200, 1.4),
    }
    ratios = {}
    for name, (measure, repetitions, _) in cases.items():
        actual, estimated = spread_and_error(measure, repetitions)
        ratios[name] = estimated / actual
    print({name: round(float(ratio), 2) for name, ratio in ratios.items()})
    for name, (_, _, most) in cases.items():
        assert 0.8 < ratios[name] < most, name


def test_the_limit_is_nearer_to_the_truth():
    """Gaussians of known distance, n = 10 D: the mean of 10 draws has less than a fifth of the distance's bias."""
    sd = 1 / np.sqrt(np.arange(1, 33))
    reference = (np.zeros(32), np.diag(sd**2))
    true = distances.frechet_distance(np.full(32, 0.3) * sd, np.diag(sd**2), *reference)
    plain, limits = [], []
    for seed in range(10):
        x = (np.random.default_rng(seed).standard_normal((320, 32)) + 0.3) * sd
        plain.append(distances.frechet_of_rows(x, *reference)(np.arange(320)))
        limits.append(distances.frechet_infinity(x, *reference, seed=seed))
    bias, left = np.mean(plain) - true, np.mean([value for value, _, _ in limits]) - true
    assert bias > 0.05 * true
    assert abs(left) < bias / 5
    assert all(0.8 < r_squared <= 1 for _, _, r_squared in limits)  # chance moves the points, too


def test_what_few_images_do_to_the_limit():
    """As frechet_infinity says: too large for n < D though nearer, a little too small for n = 2 D; r² doesn't tell."""
    sd = 1 / np.sqrt(np.arange(1, 101))
    reference = (np.zeros(100), np.diag(sd**2))
    true = distances.frechet_distance(np.full(100, 0.3) * sd, np.diag(sd**2), *reference)
    for n, low, high in ((50, 0.5, 0.9), (200, -0.5, -0.05)):
        x = (np.random.default_rng(1).standard_normal((n, 100)) + 0.3) * sd
        bias = distances.frechet_of_rows(x, *reference)(np.arange(n)) - true
        value, _, r_squared = distances.frechet_infinity(x, *reference)
        assert low * bias < value - true < high * bias
        assert r_squared > 0.95


def test_the_same_seed_makes_the_same_figures():
    rng = np.random.default_rng(11)
    x, y = gaussian(rng, 60, 12), gaussian(rng, 50, 12, 1.2)
    before = np.random.get_state()[1].copy()
    for measure in (
        lambda seed: distances.frechet_stderr(x, *of(y), seed=seed),
        lambda seed: distances.frechet_infinity(x, *of(y), seed=seed),
        lambda seed: distances.kernel_distance(x, y, seed=seed),
        lambda seed: distances.cmmd(x, y, seed=seed),
    ):
        assert measure(3) == measure(3) != measure(4)
    assert np.array_equal(before, np.random.get_state()[1])


# ---------------------------------------------------------------------------------------------------------------------
# The kernel distances and the CLIP score


def test_kernel_distance_of_single_points():
    """All of x at a, all of y at b: k(a, a) + k(b, b) - 2 k(a, b), with no error."""
    value, error = distances.kernel_distance(np.full((20, 2), 1.0), np.full((23, 2), 3.0))
    assert (value, error) == (2**3 + 10**3 - 2 * 4**3, 0)
    assert distances.kernel_distance(np.full((20, 2), 3.0), np.full((20, 2), 3.0)) == (0, 0)


def test_kernel_distance_is_zero_on_average_for_one_distribution():
    rng = np.random.default_rng(12)
    values = [distances.kernel_distance(rng.random((40, 5)), rng.random((30, 5)))[0] for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20  # the biased estimate would be 20 such deviations off
    assert min(values) < 0


def test_kernel_distance_uses_each_image_once(monkeypatch):
    parts = []
    monkeypatch.setattr(distances, "unbiased_mmd", lambda x, y: parts.append((x, y)) or len(parts))
    x, y = np.arange(25.0)[:, None], np.arange(31.0)[:, None]
    value, error = distances.kernel_distance(x, y, subsets=4)
    assert (value, error) == pytest.approx((2.5, np.std([1, 2, 3, 4], ddof=1) / 2))
    for side, whole in zip(zip(*parts, strict=True), (x, y), strict=True):
        assert sorted(np.concatenate(side).ravel()) == list(whole.ravel())
        assert not np.array_equal(np.concatenate(side), whole)
    assert [len(part) for part, _ in parts] == [7, 6, 6, 6]


def test_kernel_distance_agrees_with_torchmetrics(monkeypatch):
    """KID of torchmetrics on the same features, one subset of all: the estimate of each part, and so their mean."""
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    def theirs(x, y):
        kid = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=len(x))
        kid.update(torch.from_numpy(y), real=True)
        kid.update(torch.from_numpy(x), real=False)
        return float(kid.compute()[0])

    rng = np.random.default_rng(13)
    x, y = gaussian(rng, 60, 20, 3), gaussian(rng, 60, 20, 3.5, 0.2)
    assert distances.unbiased_mmd(x, y) == pytest.approx(theirs(x, y), rel=1e-10)
    ours = distances.kernel_distance(x, y, subsets=3)
    monkeypatch.setattr(distances, "unbiased_mmd", theirs)
    assert ours == pytest.approx(distances.kernel_distance(x, y, subsets=3), rel=1e-10)


def test_cmmd_of_two_directions():
    """All of x along one axis, all of y along another: |a - b|² = 2, so 2 - 2 exp(-1/100); lengths don't matter."""
    x, y = np.zeros((5, 3)), np.zeros((7, 3))
    x[:, 0], y[:, 1] = np.arange(1, 6), 0.1
    value, error = distances.cmmd(x, y)
    assert value == pytest.approx(2000 * (1 - np.exp(-0.01)), rel=1e-12)
    assert error == pytest.approx(0, abs=1e-12)
    assert distances.cmmd(x, 3 * x)[0] == pytest.approx(0, abs=1e-12)


def test_cmmd_is_the_published_formula(monkeypatch):
    """Means of the whole kernel matrices by scipy's distances, as its authors' code takes them; in any chunks."""
    rng = np.random.default_rng(14)
    x, y = rng.standard_normal((50, 16)) + 0.5, rng.standard_normal((70, 16))
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    kernel = [np.exp(-(spatial.distance.cdist(p, q) ** 2) / 200).mean() for p, q in ((a, a), (b, b), (a, b))]
    expected = 1000 * (kernel[0] + kernel[1] - 2 * kernel[2])
    assert distances.cmmd(x, y)[0] == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr(distances, "CHUNK", 9)
    assert distances.cmmd(x, y)[0] == pytest.approx(expected, rel=1e-10)


def test_clip_score_of_known_angles():
    """cos = 1, 0.6, and -1, which counts as 0; lengths don't matter."""
    images = np.array([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    texts = np.array([[1.0, 0.0], [3.0, 4.0], [-5.0, 0.0]])
    mean, error = distances.clip_score(images, texts)
    assert mean == pytest.approx(160 / 3)
    assert error == pytest.approx(np.std([100, 60, 0], ddof=1) / np.sqrt(3))


def test_clip_score_agrees_with_torchmetrics():
    """Its CLIPScore with a model that looks the embeddings up; all cosines are above 0 here."""
    import types

    import torch
    from torchmetrics.multimodal.clip_score import CLIPScore

    rng = np.random.default_rng(15)
    of_images, of_texts = (torch.from_numpy(rng.random((30, 8))) for _ in range(2))

    class Model(torch.nn.Module):
        config = types.SimpleNamespace()

        def get_image_features(self, pixels):
            return of_images[pixels[:, 0, 0, 0]]

        def get_text_features(self, ids, mask):
            return of_texts[ids]

    def processor(images=None, text=None, **_):
        if images is not None:
            return {"pixel_values": torch.stack(images)}
        return {"input_ids": torch.tensor([int(t) for t in text]), "attention_mask": torch.ones(len(text))}

    theirs = CLIPScore(lambda: (Model(), processor))
    theirs.update([torch.full((3, 2, 2), i) for i in range(30)], [str(i) for i in range(30)])
    assert distances.clip_score(of_images.numpy(), of_texts.numpy())[0] == pytest.approx(
        float(theirs.compute()), rel=1e-6
    )


# ---------------------------------------------------------------------------------------------------------------------
# Bad input

SCORES = {
    "kernel_distance": (lambda x, y: distances.kernel_distance(x, y), 20, 20),
    "frechet_error": (lambda x, y: distances.frechet_stderr(x, *of(y)), 4, None),
    "frechet_infinity": (lambda x, y: distances.frechet_infinity(x, *of(y)), 20, None),
    "precision_recall": (lambda x, y: precision_recall.precision_recall(x, y), 4, 4),
    "coverage": (lambda x, y: precision_recall.coverage(x, y), 1, 6),
    "nearest": (lambda x, y: precision_recall.nearest(x, [y]), None, 1),
    "cmmd": (lambda x, y: distances.cmmd(x, y), 4, 1),
    "clip_score": (lambda x, y: distances.clip_score(x, y[: len(x)]), 2, None),
}


@pytest.mark.parametrize("name", SCORES)
def test_too_few_images_are_told(name):
    score, drawn, real = SCORES[name]
    x, y = np.random.default_rng(21).random((2, 25, 3))
    score(x[:drawn], y[:real])  # just enough
    for least, arguments in ((drawn, lambda n: (x[:n], y)), (real, lambda n: (x, y[:n]))):
        if least:
            with pytest.raises(TooFewImages, match=rf"needs at least {least} images, and there (is|are) {least - 1}$"):
                score(*arguments(least - 1))


@pytest.mark.parametrize("name", SCORES)
def test_what_are_no_features_is_refused(name):
    score, _, _ = SCORES[name]
    x, y = np.random.default_rng(22).random((2, 25, 3))
    wrong = x.copy()
    wrong[7, 1] = np.nan
    for bad in ((wrong, y), (x, wrong), (x * np.inf, y)):
        with pytest.raises(ValueError, match="finite"):
            score(*bad)
    for bad in ((x, y[:, :2]), (x[0], y)):
        with pytest.raises(ValueError, match=r"expected features|shapes don't match"):
            score(*bad)


def test_more_that_is_refused():
    x = np.ones((5, 3))
    with pytest.raises(ValueError, match="5 images and 4 texts"):
        distances.clip_score(x, x[:4])
    for score in (distances.clip_score, distances.cmmd):
        with pytest.raises(distances.ZeroEmbedding, match="length 0"):  # a metric alone is then skipped
            score(x, x * 0)
    with pytest.raises(TooFewImages, match="memorisation needs at least 1 images, and there are 0"):
        precision_recall.memorisation([], [1.0])
    with pytest.raises(ValueError, match="finite distances"):
        precision_recall.memorisation([np.inf], [1.0])
