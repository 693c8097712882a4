"""Neighbourhoods: known geometry, prdc, and the rules of chance."""

import tracemalloc

import numpy as np
import pytest
from scipy import spatial, stats

from evaluation import distances, precision_recall


def gaussian(rng, n, dims, scale=1.0, shift=0.0):
    """Features (n, dims) with deviations that fall off, as those of networks do."""
    return rng.standard_normal((n, dims)) * scale / np.arange(1, dims + 1) + shift


@pytest.fixture(params=[1024, 3])
def chunks(request, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", request.param)


@pytest.mark.usefixtures("chunks")
def test_neighbourhoods_on_a_line():
    """Real at 0, 1, 2, 10: the nearest other is 1, 1, 1, 8 away. Drawn: 2, 2.5, 0.5, 0.5, 2 away. Edges count."""
    y = np.array([[0.0], [1.0], [2.0], [10.0]])
    x = np.array([[0.5], [3.0], [18.0], [18.5], [-1.5]])
    assert precision_recall.precision_recall(x, y, k=1) == (3 / 5, 3 / 4)
    assert precision_recall.coverage(x, y, k=1) == 1
    assert precision_recall.coverage(x[[0, 3]], y, k=1) == 1 / 2
    assert precision_recall.precision_recall(y, y, k=2) == (1, 1)
    assert precision_recall.coverage(y, y, k=2) == 1
    assert precision_recall.precision_recall(y, y + 1000, k=2) == (0, 0)
    assert precision_recall.coverage(y, y + 1000, k=2) == 0


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_and_coverage_agree_with_prdc(k):
    from prdc import compute_prdc

    rng = np.random.default_rng(16)
    x, y = gaussian(rng, 80, 10, 1.2, 0.4).astype(np.float32), gaussian(rng, 60, 10).astype(np.float32)
    theirs = compute_prdc(y.astype(np.float64), x.astype(np.float64), k)
    assert precision_recall.precision_recall(x, y, k) == (theirs["precision"], theirs["recall"])
    assert precision_recall.coverage(x, y, k) == theirs["coverage"]
    assert all(0 < theirs[name] < 1 for name in ("precision", "recall", "coverage")), theirs


def test_coverage_of_the_real_distribution():
    """1 - Π (m - 1 - i) / (n + m - 1 - i) over i < k (Naeem et al., lemma 2), whatever the distribution."""
    rng = np.random.default_rng(17)
    n, m, k = 30, 40, 3
    values = [precision_recall.coverage(rng.random((n, 3)), rng.random((m, 3)), k) for _ in range(300)]
    i = np.arange(k)
    expected = 1 - np.prod((m - 1 - i) / (n + m - 1 - i))
    assert np.mean(values) == pytest.approx(expected, abs=3 * np.std(values) / np.sqrt(300))


def test_share_error_is_that_of_beta_and_of_many():
    for p, n in ((0, 5), (1, 5), (0.3, 10), (0.5, 1)):
        assert precision_recall.fraction_stderr(p, n) == pytest.approx(stats.beta(p * n + 1, (1 - p) * n + 1).std())
    assert precision_recall.fraction_stderr(0.3, 10**6) == pytest.approx(np.sqrt(0.3 * 0.7 / 10**6), rel=1e-4)


@pytest.mark.usefixtures("chunks")
def test_nearest_is_the_least_of_all_distances():
    rng = np.random.default_rng(18)
    x, y = rng.standard_normal((11, 6)).astype(np.float32), rng.standard_normal((25, 6)).astype(np.float32)
    y[17] = x[4]  # a copy, and its copy
    y[21] = x[4]
    everything = spatial.distance.cdist(x, y)
    for cuts in ([], [1, 1, 20], range(1, 25)):
        distances, indices = precision_recall.nearest(x, iter(np.split(y, cuts)))
        assert np.array_equal(indices, everything.argmin(axis=1))
        np.testing.assert_allclose(distances, everything.min(axis=1), rtol=1e-12)
    assert indices[4] == 17
    assert distances[4] == 0
    far = precision_recall.nearest(x + np.float32(1000), [y + np.float32(1000)])[
        0
    ]  # where |a|² + |b|² - 2 a·b has few digits
    assert far[4] == 0
    np.testing.assert_allclose(far, everything.min(axis=1), rtol=1e-3)


def test_nearest_takes_the_same_memory_for_any_number():
    def peak(blocks):
        rng = np.random.default_rng(19)
        x = rng.standard_normal((200, 50))
        tracemalloc.start()
        precision_recall.nearest(x, (rng.standard_normal((300, 50)) for _ in range(blocks)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1)  # warm up
    assert peak(100) < 1.1 * peak(3)


@pytest.mark.parametrize(("m", "k"), [(99, 1), (100, 1), (198, 1), (199, 2), (999, 10), (10, 1), (1, 1)])
def test_memorisation_counts_up_to_the_kth_nearest_real_one(m, k):
    real = np.random.default_rng(m).permutation(np.arange(1.0, m + 1))
    value, expected = precision_recall.memorisation(np.array([0, 0.5, k, k + 0.1, k + 1, 99999]), real)
    assert (value, expected) == (3 / 6, k / (m + 1))
    assert precision_recall.memorisation(np.zeros(7), real)[0] == 1  # copies
    assert precision_recall.memorisation(np.full(7, m + 1.0), real)[0] == 0


def test_memorisation_of_other_real_covers_is_as_expected():
    """Another real image counts as often as `expected` says, whether there are many to compare with or few."""
    rng = np.random.default_rng(20)
    for m, share in ((4, 0.01), (20, 0.01), (150, 0.05)):
        pairs = [precision_recall.memorisation(rng.random(50), rng.random(m), share) for _ in range(2000)]
        values = [value for value, _ in pairs]
        assert np.mean(values) == pytest.approx(pairs[0][1], abs=3 * np.std(values) / np.sqrt(2000))


def test_memorisation_where_the_data_holds_copies():
    """Three of nine real ones at 0: copies count all the same, and `expected` says what that is worth."""
    value, expected = precision_recall.memorisation(np.zeros(5), np.array([0.0, 0, 0, 1, 2, 3, 4, 5, 6]))
    assert (value, expected) == (1, 0.3)
