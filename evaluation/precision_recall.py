"""Which covers stand near which: precision, recall, coverage, and the nearest cover that was learned.

x: features of drawn images (n, D); y: features of real ones (m, D); see metrics.py for what they raise.
"""

from __future__ import annotations

import numpy as np

from evaluation import distances

COVERAGE_K = 5  # as its authors have it


def squared_distances(x, y):
    """Yields (rows, |x[rows] - y|² (len(rows), m)), a slice of at most 1024 rows of x (n, D) at a time; y: (m, D)."""
    squares = np.sum(y**2, axis=1)
    for i in range(0, len(x), distances.CHUNK):
        part = x[i : i + distances.CHUNK]
        squared = -2 * part @ y.T
        squared += squares
        squared += np.sum(part**2, axis=1)[:, None]
        yield slice(i, i + len(part)), squared.clip(0, out=squared)


def radii(x, k):
    """Squared distance (n,) of each row of x (n, D) to its k-th nearest other row."""
    (x,) = distances.as_features(x)
    distances.require(f"a neighbourhood of {k}", len(x), k + 1)
    return np.concatenate([np.partition(d, k, axis=1)[:, k] for _, d in squared_distances(x, x)])  # [:, 0]: itself


def precision_recall(x, y, k=3):
    """(precision, recall) of x (n, D), drawn, and y (m, D), real; both in [0, 1].

    precision: the share of x in real neighbourhoods, the balls around each of y that reach to the k-th nearest other of
    y, edge included; recall: the share of y in those of x. Kynkäänniemi et al., "Improved precision and recall metric
    for assessing generative models", arXiv:1904.06991. Both depend on n and m: compare figures of the same. Memory: a
    few times 1024 (n + m) numbers. TooFew for less than k + 1 images on a side.
    """
    return share_within(x, y, radii(y, k)), recall(x, y, k)


def recall(x, y, k=3):
    """Recall alone, see precision_recall."""
    return share_within(y, x, radii(x, k))


def share_within(x, y, around):
    """The share of x (n, D) that are in one of the balls around y (m, D) of squared radii `around` (m,)."""
    x, y = distances.as_features(x, y)
    return float(np.concatenate([(squared <= around).any(axis=1) for _, squared in squared_distances(x, y)]).mean())


def coverage(x, y, k=COVERAGE_K, around=None):
    """The share of y (m, D), real, that have one of x (n, D), drawn, in their neighbourhood: see precision_recall.

    Naeem et al., "Reliable fidelity and diversity metrics for generative models", arXiv:2002.09797. Outliers among the
    drawn can't raise it, as they do recall. With x from the real distribution and n = m large it is 1 - 2⁻ᵏ. around:
    radii(y, k), if they are known. TooFew for less than k + 1 real images or no drawn ones.
    """
    x, y = distances.as_features(x, y)
    distances.require("coverage", len(x), 1)
    around = radii(y, k) if around is None else around
    least = np.concatenate([squared.min(axis=1) for _, squared in squared_distances(y, x)])
    return float((least <= around).mean())


def share_error(p, n):
    """Standard error of a share p of n images: the standard deviation of Beta(p n + 1, (1 - p) n + 1).

    That is √(p (1 - p) / n) for large n, and not 0 for none or all of a few. It knows the chance in the images that are
    counted and no other: fit for shares of the drawn (precision, memorisation, what can be read). Recall and coverage
    count real images and vary with the drawn ones, by more than this: half_error is for them.
    """
    mean = (p * n + 1) / (n + 2)
    return float(np.sqrt(mean * (1 - mean) / (n + 3)))


def nearest(x, blocks):
    """(distances, indices), (n,) each, of the row nearest to each of x (n, D) among those that come in blocks.

    blocks: an iterable of arrays (any number, D); indices count through them, and the first of equals is taken. Memory:
    x, one block, and 1024 rows of distances to it, however many blocks come. The distance to the winner is that of the
    difference, so a copy's is exactly 0. TooFew if the blocks have no rows.
    """
    (x,) = distances.as_features(x)
    best, indices, winners, seen = np.full(len(x), np.inf), np.full(len(x), -1), np.zeros_like(x), 0
    for block in blocks:
        _, block = distances.as_features(x, block)
        for rows, squared in squared_distances(x, block) if len(block) else ():
            index = squared.argmin(axis=1)
            least = squared[np.arange(len(index)), index]
            better = np.flatnonzero(least < best[rows])
            best[rows][better] = least[better]
            indices[rows][better] = seen + index[better]
            winners[rows][better] = block[index[better]]
        seen += len(block)
    distances.require("a nearest image", seen, 1)
    return np.linalg.norm(x - winners, axis=1), indices


def memorisation(drawn_nearest, real_nearest, share=0.01):
    """(value, expected): the share of drawn images that are as near to a training image as hardly any real one is.

    drawn_nearest (n,): distances of drawn images to the nearest training image; real_nearest (m,): those of real images
    that weren't trained on, to the same training images. With k = ⌊share (m + 1)⌋, at least 1, a drawn image counts if
    it is as near as the k-th nearest real one, or nearer. By that rule another real image counts with probability
    k / (m + 1), which is `expected` (Vovk et al., "Algorithmic learning in a random world", 2005: of m + 1 alike, each
    rank is as likely). So for m < 1 / share - 1 real images the share asked for can't be had, and `expected` says 1 /
    (m + 1) in its place. Copies make the value 1, whatever m. Real ones at one distance (copies in the data) count
    together, and raise `expected`. TooFew for no images on a side.
    """
    drawn, real = np.asarray(drawn_nearest, np.float64), np.asarray(real_nearest, np.float64)
    if drawn.ndim != 1 or real.ndim != 1 or not (np.isfinite(drawn).all() and np.isfinite(real).all()):
        raise ValueError(f"expected finite distances (n,) and (m,), got {drawn.shape} and {real.shape}")
    distances.require("memorisation", min(len(drawn), len(real)), 1)
    k = max(1, int(share * (len(real) + 1) + 1e-9))  # the product of, say, 0.07 and 100 is a hair off
    threshold = np.sort(real)[k - 1]
    return float((drawn <= threshold).mean()), float((real <= threshold).sum() / (len(real) + 1))
