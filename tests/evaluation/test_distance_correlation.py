"""Distance correlation against its definition and against dcor; and what it says of known dependences."""

import itertools

import numpy as np
import pytest

from evaluation import distance_correlation as dc
from evaluation.distances import jackknife_stderr


def codes(n, seed=0, dims=(5, 3, 2)):
    random = np.random.default_rng(seed)
    return [random.normal(size=(n, d)) for d in dims]


def test_it_is_the_definition_term_by_term():
    """Székely and Rizzo (2014), equations 2.4 and 2.9, in plain loops."""
    n = 6
    x, y, _ = codes(n)

    def entries(code):
        a = [[np.sqrt(sum((p - q) ** 2)) for q in code] for p in code]
        row, total = [sum(line) for line in a], sum(map(sum, a))
        off = itertools.permutations(range(n), 2)
        return {(i, j): a[i][j] - (row[i] + row[j]) / (n - 2) + total / ((n - 1) * (n - 2)) for i, j in off}

    a, b = entries(x), entries(y)
    covariance, first, second = (sum(p[at] * q[at] for at in a) for p, q in ((a, b), (a, a), (b, b)))
    assert dc.correlation(x, y) == pytest.approx(covariance / np.sqrt(first * second), abs=1e-12)


@pytest.mark.nightly  # numba, which dcor brings, takes 10 s to be imported
@pytest.mark.parametrize("n", [4, 17, 80])
def test_it_is_what_dcor_computes(n):
    import dcor

    x, y, z = codes(n)
    y[:, 0] += x[:, 1] ** 2
    y[:, 1] += z[:, 0]
    assert dc.correlation(x, y) == pytest.approx(dcor.u_distance_correlation_sqr(x, y), abs=1e-10)
    assert dc.partial_correlation(x, y, z) == pytest.approx(dcor.partial_distance_correlation(x, y, z), abs=1e-10)
    a, b = (dc.u_center(dc.pairwise_distances(code)) for code in (x, y))
    assert dc.inner_product(a, b) == pytest.approx(dcor.u_distance_covariance_sqr(x, y), abs=1e-10)


def test_a_rotated_and_scaled_copy_has_correlation_1():
    (x,) = codes(50, dims=(4,))
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
    assert dc.correlation(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-12)


def test_independent_codes_are_0_in_the_mean_and_as_noisy_as_said():
    n, values = 64, []
    for seed in range(60):
        values.append(dc.correlation(*codes(n, seed, dims=(30, 30))))
    expected = 1 / np.sqrt(n * (n - 3) / 2)
    assert abs(np.mean(values)) < 4 * expected / np.sqrt(60)
    assert 0.6 < np.std(values) / expected < 1.5


def test_a_constant_code_depends_on_nothing():
    x, y, _ = codes(20)
    assert dc.correlation(np.ones((20, 3)), y) == 0
    assert dc.partial_correlation(x, y, np.ones((20, 1))) == pytest.approx(dc.correlation(x, y), abs=1e-12)


def test_the_excess_leaves_out_what_the_groups_explain():
    """Two codes that share nothing but their group have none; a common part within the groups shows."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 30)
    centres = 5 * random.normal(size=(4, 6))
    x, y = (centres[groups] + random.normal(size=(120, 6)) for _ in range(2))
    assert dc.correlation(x, y) > 0.5
    statistic = dc.excess_of_rows(x, y, groups)
    error = jackknife_stderr(statistic, 120)
    assert abs(dc.excess_correlation(x, y, groups)) < 4 * error < 0.1
    common = y + 2 * (x - centres[groups])
    assert dc.excess_correlation(x, common, groups) > 4 * error + 0.05


@pytest.mark.parametrize("bad", [np.full((5, 2), np.nan), np.zeros(5)])
def test_what_is_no_code_is_refused(bad):
    with pytest.raises(ValueError, match="expected finite numbers"):
        dc.pairwise_distances(bad)
    with pytest.raises(ValueError, match="at least 4"):
        dc.u_center(np.zeros((3, 3)))
