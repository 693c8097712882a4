"""Metrics of nearest neighbours in feature space: precision, recall, coverage, and memorised training covers.

x: features of drawn images (n, D); y: features of real ones (m, D). ValueError and TooFewImages as in distances.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evaluation import distances

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

COVERAGE_K = 5  # the authors' choice


def squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows, |x[rows] - y|² (len(rows), m)) for slices of at most 1024 rows of x (n, D); y: (m, D)."""
    squares = np.sum(y**2, axis=1)
    for i in range(0, len(x), distances.CHUNK):
        part = x[i : i + distances.CHUNK]
        squared = -2 * part @ y.T
        squared += squares
        squared += np.sum(part**2, axis=1)[:, None]
        yield slice(i, i + len(part)), squared.clip(0, out=squared)


def neighbour_radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance (n,) of each row of x (n, D) to its k-th nearest other row. TooFewImages unless n > k."""
    (x,) = distances.as_features(x)
    distances.require_images(f"a neighbourhood of {k}", len(x), k + 1)
    return np.concatenate([np.partition(d, k, axis=1)[:, k] for _, d in squared_distances(x, x)])  # [:, 0]: itself


def precision_recall(x: np.ndarray, y: np.ndarray, k: int = 3) -> tuple[float, float]:
    """(precision, recall) of drawn x (n, D) and real y (m, D), both in [0, 1].

    Precision: the fraction of x inside the neighbourhood of a real image, the closed ball that reaches to its k-th
    nearest other real image; recall: the fraction of y inside the neighbourhood of a drawn one. Kynkäänniemi et al.,
    "Improved precision and recall metric for assessing generative models", arXiv:1904.06991. Both depend on n and m:
    compare values of the same. Memory: a few times 1024 (n + m) numbers. TooFewImages unless n > k and m > k.
    """
    return fraction_within(x, y, neighbour_radii(y, k)), recall(x, y, k)


def recall(x: np.ndarray, y: np.ndarray, k: int = 3) -> float:
    """Recall without precision, see precision_recall."""
    return fraction_within(y, x, neighbour_radii(x, k))


def fraction_within(x: np.ndarray, y: np.ndarray, radii: np.ndarray) -> float:
    """Fraction of x (n, D) inside any ball around y (m, D) with the squared radii (m,)."""
    x, y = distances.as_features(x, y)
    return float(np.concatenate([(squared <= radii).any(axis=1) for _, squared in squared_distances(x, y)]).mean())


def coverage(x: np.ndarray, y: np.ndarray, k: int = COVERAGE_K, radii: np.ndarray | None = None) -> float:
    """Fraction of real y (m, D) with a drawn image of x (n, D) in their neighbourhood, see precision_recall.

    Naeem et al., "Reliable fidelity and diversity metrics for generative models", arXiv:2002.09797. Outliers among the
    drawn images cannot raise it, as they do recall. For x from the real distribution and n = m large it is 1 - 2⁻ᵏ.
    radii: neighbour_radii(y, k), if known already. TooFewImages unless m > k and n > 0.
    """
    x, y = distances.as_features(x, y)
    distances.require_images("coverage", len(x), 1)
    radii = neighbour_radii(y, k) if radii is None else radii
    nearest_drawn = np.concatenate([squared.min(axis=1) for _, squared in squared_distances(y, x)])
    return float((nearest_drawn <= radii).mean())


def fraction_stderr(p: float, n: int) -> float:
    """Standard error of a fraction p of n images: the standard deviation of Beta(p n + 1, (1 - p) n + 1).

    That is the posterior under a uniform prior: √(p (1 - p) / n) for large n, and not 0 for none or all of a few. It
    covers only the sampling of the images that are counted: right for fractions of the drawn ones (precision,
    memorisation, legibility). Recall and coverage count real images but vary more with the drawn ones: see
    jackknife_stderr.
    """
    mean = (p * n + 1) / (n + 2)
    return float(np.sqrt(mean * (1 - mean) / (n + 3)))


def nearest(x: np.ndarray, blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(distances (n,), indices (n,)) of the row in `blocks` that is nearest to each row of x (n, D).

    blocks: arrays (any number of rows, D); indices count through all of them, and the first of equals wins. Memory: x,
    one block, and 1024 rows of distances to it, for any number of blocks. The distance is computed from the difference,
    so that of a copy is exactly 0. TooFewImages if the blocks have no rows.
    """
    (x,) = distances.as_features(x)
    best, indices, winners, seen = np.full(len(x), np.inf), np.full(len(x), -1), np.zeros_like(x), 0
    for block in blocks:
        _, block = distances.as_features(x, block)
        for rows, squared in squared_distances(x, block) if len(block) else ():
            index = squared.argmin(axis=1)
            smallest = squared[np.arange(len(index)), index]
            better = np.flatnonzero(smallest < best[rows])
            best[rows][better] = smallest[better]
            indices[rows][better] = seen + index[better]
            winners[rows][better] = block[index[better]]
        seen += len(block)
    distances.require_images("a nearest image", seen, 1)
    return np.linalg.norm(x - winners, axis=1), indices


def memorisation(drawn_nearest: np.ndarray, real_nearest: np.ndarray, share: float = 0.01) -> tuple[float, float]:
    """(value, expected): fraction of drawn images that are as near to a training image as hardly any real one is.

    drawn_nearest (n,): distances of drawn images to their nearest training image; real_nearest (m,): the same of real
    images that were not trained on. With k = ⌊share (m + 1)⌋, at least 1, a drawn image counts if it is at least as
    near as the k-th nearest real one. A further real image would count with probability k / (m + 1), which is
    `expected` (Vovk et al., "Algorithmic learning in a random world", 2005: among m + 1 exchangeable values every rank
    is equally likely). With m < 1 / share - 1 real images that is more than `share`: 1 / (m + 1). Copies of training
    images make the value 1 for any m. Real images at equal distances (duplicates in the data) count together and raise
    `expected`. TooFewImages if n or m is 0.
    """
    drawn, real = np.asarray(drawn_nearest, np.float64), np.asarray(real_nearest, np.float64)
    if drawn.ndim != 1 or real.ndim != 1 or not (np.isfinite(drawn).all() and np.isfinite(real).all()):
        raise ValueError(f"expected finite distances (n,) and (m,), got {drawn.shape} and {real.shape}")
    distances.require_images("memorisation", min(len(drawn), len(real)), 1)
    k = max(1, int(share * (len(real) + 1) + 1e-9))  # the product of, say, 0.07 and 100 is a hair off
    threshold = np.sort(real)[k - 1]
    return float((drawn <= threshold).mean()), float((real <= threshold).sum() / (len(real) + 1))
