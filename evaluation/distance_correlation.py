"""How strongly two codes of the same samples depend on each other: unbiased distance correlation, plain and partial.

Székely and Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of Statistics 42 (2014):
0 for independent codes, 1 where one is a rotation and scaling of the other, for dependences of any form. The usual,
biased estimator is useless here: with 768 dimensions it is 0.98 for 64 independent pairs.

A code is float (n, D), a row for each sample; everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

MIN_SAMPLES = 64  # R*'s standard deviation for independent codes is about 1 / sqrt(n (n - 3) / 2): 0.02 for 64


def pairwise_distances(x: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, n) between the rows of x (n, D). ValueError if a number in x is not finite."""
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ValueError(f"expected finite numbers (n, D), got {x.shape}")
    rows = torch.from_numpy(x)
    # Not by matrix products, which leave rounding errors of 0.01 where the distance is 0
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def u_center(distances: np.ndarray) -> np.ndarray:
    """The U-centred matrix (n, n) of distances (n, n), n at least 4 (definition 2 of the paper); its diagonal is 0."""
    n = len(distances)
    if n < 4:
        raise ValueError(f"distance correlation needs at least 4 samples, not {n}")
    rows = distances.sum(axis=1)
    centred = distances - (rows[:, None] + rows[None, :]) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0)
    return centred


def inner_product(a: np.ndarray, b: np.ndarray) -> float:
    """<A, B> of two U-centred matrices: the unbiased estimate of the squared distance covariance."""
    n = len(a)
    return float((a * b).sum() / (n * (n - 3)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """R* of two U-centred matrices, -1 ... 1; 0 if one of the codes is constant."""
    norm = np.sqrt(max(0.0, inner_product(a, a)) * max(0.0, inner_product(b, b)))
    return inner_product(a, b) / norm if norm > 0 else 0.0


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """R*(x, y), the unbiased squared distance correlation of codes (n, D) and (n, D'). It can be slightly negative."""
    return cosine(u_center(pairwise_distances(x)), u_center(pairwise_distances(y)))


def partial_correlation(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """R*(x, y; z): the same with the part of both that goes along with z removed (definition 3 of the paper).

    That it is 0 does not say that x and y are independent given z.
    """
    a, b, c = (u_center(pairwise_distances(code)) for code in (x, y, z))
    norm = inner_product(c, c)
    if norm > 0:
        a, b = (matrix - inner_product(matrix, c) / norm * c for matrix in (a, b))
    return cosine(a, b)


def excess_correlation(x: np.ndarray, y: np.ndarray, groups: Sequence, permutations: int = 100, seed: int = 0) -> float:
    """R*(x, y) less its mean over permutations of x within the groups: what the groups do not explain.

    groups: one label a sample. Under independence given the group the expectation is 0.
    """
    return excess_of_rows(x, y, groups, permutations, seed)(np.arange(len(x)))


def excess_of_rows(
    x: np.ndarray, y: np.ndarray, groups: Sequence, permutations: int = 100, seed: int = 0
) -> Callable[[np.ndarray], float]:
    """A function of indices (m,): excess_correlation of those samples, for distances.jackknife_stderr."""
    from_x, from_y = pairwise_distances(x), pairwise_distances(y)
    labels = np.unique(np.asarray(groups, str), return_inverse=True)[1]

    def excess(rows: np.ndarray) -> float:
        a, b = (u_center(distances[np.ix_(rows, rows)]) for distances in (from_x, from_y))
        random, shuffled = np.random.default_rng(seed), []
        members = [np.flatnonzero(labels[rows] == label) for label in np.unique(labels[rows])]
        for _ in range(permutations):
            order = np.arange(len(rows))
            for places in members:
                order[places] = random.permutation(places)
            shuffled.append(cosine(a[np.ix_(order, order)], b))
        return cosine(a, b) - float(np.mean(shuffled))

    return excess
