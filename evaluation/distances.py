"""Distances between the feature distributions of drawn and real covers: pure functions of arrays.

x: features of drawn images (n, D); y: features of real ones (m, D); floats, computed in float64. Random choices are
seeded, so the same features give the same result. ValueError for shapes that do not match or values that are not
finite; TooFewImages if the result would be meaningless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    Statistic = Callable[[np.ndarray], float]  # of the images with these indices

CHUNK = 1024  # rows of a distance matrix in memory at a time


class TooFewImages(UserError):
    """Too few images for a metric; the message says how many there are and how many it needs."""


class ZeroEmbedding(UserError, ValueError):
    """An embedding has length 0, so it has no direction."""


def require_images(what: str, n: int, least: int) -> None:
    """TooFewImages, naming the metric `what`, unless there are at least `least` images."""
    if n < least:
        raise TooFewImages(f"{what} needs at least {least} images, and there {'is' if n == 1 else 'are'} {n}")


def as_features(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays as float64 (n, D), each with its n. ValueError unless they have one D and are finite."""
    features = [np.asarray(x, np.float64) for x in arrays]
    if any(x.ndim != 2 or x.shape[1] != features[0].shape[1] for x in features):
        raise ValueError(f"expected features (n, D) of one D, got {', '.join(str(x.shape) for x in features)}")
    if not all(np.isfinite(x).all() for x in features):
        raise ValueError("features aren't finite")
    return features


# ---------------------------------------------------------------------------------------------------------------------
# The Fréchet distance, its standard error, and its limit for infinitely many images


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """Squared Fréchet (2-Wasserstein) distance between the Gaussians N(mu1, sigma1) and N(mu2, sigma2), >= 0.

        d² = |mu1 - mu2|² + tr sigma1 + tr sigma2 - 2 tr (√sigma1 sigma2 √sigma1)^½

    mu: (D,); sigma: (D, D), symmetric and positive semidefinite, of any rank. Dowson and Landau, "The Fréchet distance
    between multivariate normal distributions", J. Multivariate Analysis 12 (1982); as FID: Heusel et al.,
    arXiv:1706.08500. ValueError for shapes that do not match or values that are not finite.

    √sigma1 sigma2 √sigma1 is symmetric, so the trace of its root is the sum of the roots of its eigenvalues. With
    full-rank covariances the result has ten correct digits or more. With fewer images than dimensions, many eigenvalues
    are 0 in theory and about float64's epsilon in practice, whose roots add up: the distance is then too small by about
    1e-5 of its value. pytorch-fid has the same error, and agreement with published numbers matters more here.
    """
    mu1, mu2, sigma1, sigma2 = (np.asarray(a, np.float64) for a in (mu1, mu2, sigma1, sigma2))
    if mu1.ndim != 1 or mu1.shape != mu2.shape or sigma1.shape != sigma2.shape or sigma1.shape != mu1.shape * 2:
        raise ValueError(f"shapes don't match: {mu1.shape}, {sigma1.shape} and {mu2.shape}, {sigma2.shape}")
    if not all(np.isfinite(a).all() for a in (mu1, mu2, sigma1, sigma2)):
        raise ValueError("mean or covariance isn't finite")
    values, vectors = np.linalg.eigh(sigma1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T  # eigenvalues below 0 are rounding
    cross = np.sqrt(np.linalg.eigvalsh(root @ sigma2 @ root).clip(0)).sum()
    distance = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * cross
    return max(0.0, float(distance))


class Moments:
    """Running mean and covariance of features in batches, float64; memory D² for any number of images.

    Batches are merged with the pairwise update of Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm
    for computing sample variances", 1979), which never subtracts large sums from each other.
    """

    def __init__(self, dims: int) -> None:
        self.n = 0  # images so far
        self.mu = np.zeros(dims)  # (D,)
        self.scatter = np.zeros((dims, dims))  # sum of (x - mu)(x - mu)ᵀ over the features x

    def update(self, features: np.ndarray) -> None:
        """Add features (B, D). ValueError for another shape."""
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.mu):
            raise ValueError(f"expected features (B, {len(self.mu)}), got {features.shape}")
        count = len(features)
        if count == 0:
            return
        mean = features.mean(axis=0)
        centred = features - mean
        shift = mean - self.mu
        total = self.n + count
        self.scatter += centred.T @ centred
        self.scatter += np.outer(shift * (self.n * count / total), shift)
        self.mu += shift * (count / total)
        self.n = total

    @property
    def sigma(self) -> np.ndarray:
        """Covariance (D, D), normalised by n - 1 as in numpy.cov. TooFewImages below 2 images."""
        require_images("a covariance", self.n, 2)
        return self.scatter / (self.n - 1)


def small_sample_warning(n: int, dims: int) -> str | None:
    """A warning if n images are too few for a full-rank covariance of `dims` features, else None."""
    if n > dims:
        return None
    return (
        f"{n} images for {dims} feature dimensions: the covariance is singular and the distance biased upward; "
        "compare it only with distances of just as many images"
    )


def jackknife_stderr(statistic: Statistic, n: int, halves: int = 8, seed: int = 0) -> float:
    """Standard error of a statistic of n images by the delete-d jackknife: its spread over random halves of them.

        stderr² = (n - d) / d · variance of statistic(n - d of the n),   d = n - ⌊n/2⌋, so the factor is about 1

    statistic: a function of the indices (⌊n/2⌋,) of the images to use. Shao and Wu, "A general theory for jackknife
    variance estimation", Annals of Statistics 17 (1989). The estimate has a relative error of 1 / √(2 (halves - 1)),
    27 % for 8 halves. Near its minimum, as a distance of equal distributions, a statistic varies up to 2 times less.
    """
    rng = np.random.default_rng(seed)
    half = n // 2
    values = [statistic(rng.permutation(n)[:half]) for _ in range(halves)]
    return float(np.std(values, ddof=1) * np.sqrt(half / (n - half)))


def frechet_of_rows(x: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> Statistic:
    """A function of indices: the Fréchet distance of x[indices], at least 2, to N(mu, sigma); fast for many calls.

    x: (n, D); mu: (D,); sigma: (D, D). The formula is that of frechet_distance. With sigma = R Rᵀ and C the n' centred
    rows over √(n' - 1), its last trace is the sum of the singular values of C R. R is computed once, without the
    eigenvectors whose eigenvalues are rounding errors, and C R has min(n', rank(sigma)) singular values. So for
    singular covariances this is exact where frechet_distance, like pytorch-fid, loses digits.
    """
    (x,) = as_features(x)
    mu, sigma = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    if mu.shape != x.shape[1:] or sigma.shape != mu.shape * 2:
        raise ValueError(f"shapes don't match: {x.shape}, {mu.shape} and {sigma.shape}")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError("mean or covariance isn't finite")
    values, vectors = np.linalg.eigh(sigma)
    significant = values > values[-1] * len(mu) * np.finfo(np.float64).eps
    root = vectors[:, significant] * np.sqrt(values[significant])
    x = x - mu
    projected = x @ root
    trace = np.trace(sigma)

    def distance(rows: np.ndarray) -> float:
        mean = x[rows].mean(axis=0)
        scatter = np.sum((x[rows] - mean) ** 2)
        half = projected[rows] - projected[rows].mean(axis=0)
        gram = half @ half.T if len(half) < half.shape[1] else half.T @ half
        cross = np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum()
        n = len(rows) - 1
        return float(np.sum(mean**2) + scatter / n + trace - 2 * cross / np.sqrt(n))

    return distance


def frechet_stderr(x: np.ndarray, mu: np.ndarray, sigma: np.ndarray, halves: int = 8, seed: int = 0) -> float:
    """Standard error of the Fréchet distance of x (n, D) to N(mu, sigma), over draws of other n images.

    See jackknife_stderr. mu and sigma count as exact, as versions are compared using one stats file. TooFewImages below
    4 images.
    """
    (x,) = as_features(x)
    require_images("the error of a Fréchet distance", len(x), 4)
    return jackknife_stderr(frechet_of_rows(x, mu, sigma), len(x), halves, seed)


def frechet_infinity(
    x: np.ndarray, mu: np.ndarray, sigma: np.ndarray, halves: int = 8, seed: int = 0
) -> tuple[float, float | None, float]:
    """(value, standard error, r²): the Fréchet distance to N(mu, sigma), extrapolated to infinitely many drawn images.

    Chong and Forsyth, "Effectively unbiased FID and Inception Score and where to find them", arXiv:1911.07023: the
    distance of n images is too large by about c / n. It is computed at 10 sizes from n/4 to n, evenly spaced in 1/n;
    the intercept of the least-squares line over 1/n is the value, r² is that of the line. Each size averages all
    disjoint random subsets that fit instead of using one subset: less noise from the same images.

    The error is that of the whole procedure, see jackknife_stderr; the standard error of the line would ignore that its
    points share images. Only the bias of the drawn images is removed, not that of mu and sigma. Unless n is well above
    D the curve is not straight, however good r² looks: for n < D the value is nearer to the limit than the distance,
    and still too large; for n = 2 D it is a little too small. It can be below 0. halves=0 omits the error (None).
    TooFewImages below 20 images.
    """
    (x,) = as_features(x)
    require_images("an extrapolated Fréchet distance", len(x), 20)
    distance = frechet_of_rows(x, mu, sigma)

    def line(rows: np.ndarray) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        sizes = np.rint(len(rows) / np.linspace(1, 4, 10)).astype(int)
        points = []
        for size in sizes:
            mixed = rng.permutation(rows)
            points.append(np.mean([distance(part) for part in mixed[: len(rows) // size * size].reshape(-1, size)]))
        slope, intercept = np.polyfit(1 / sizes, points, 1)
        residual, total = np.sum((intercept + slope / sizes - points) ** 2), np.sum((points - np.mean(points)) ** 2)
        return intercept, 1 - residual / total if total else 1.0

    value, r_squared = line(np.arange(len(x)))
    error = jackknife_stderr(lambda rows: line(rows)[0], len(x), halves, seed) if halves else None
    return float(value), error, float(r_squared)


# ---------------------------------------------------------------------------------------------------------------------
# Kernel distances and CLIP score


def kernel_distance(x: np.ndarray, y: np.ndarray, subsets: int = 10, seed: int = 0) -> tuple[float, float]:
    """(value, standard error): unbiased squared MMD of x (n, D) and y (m, D) with the kernel k(a, b) = (a·b/D + 1)³.

        MMD² = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),   x ≠ x', y ≠ y'

    As KID: Bińkowski et al., "Demystifying MMD GANs", arXiv:1801.01401. x and y are each shuffled and split into
    disjoint subsets. Each pair of subsets gives an independent estimate, so the mean has the standard error
    std / √subsets, over draws of other images, drawn and real. The usual 100 overlapping subsets share images: their
    spread depends on the subset size and is no standard error of the mean. The price is a little more noise, as small
    subsets have fewer pairs. Can be below 0. TooFewImages below 2 images a subset.
    """
    x, y = as_features(x, y)
    require_images(f"a kernel distance in {subsets} parts", min(len(x), len(y)), 2 * subsets)
    rng = np.random.default_rng(seed)
    sides = (np.array_split(rng.permutation(side), subsets) for side in (x, y))
    values = [unbiased_mmd(*parts) for parts in zip(*sides, strict=True)]
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(subsets))


def unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The estimate of kernel_distance from all pairs of x (n, D) and y (m, D).

    The U-statistic of Gretton et al., "A kernel two-sample test", J. Machine Learning Research 13 (2012), lemma 6.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def mean_of_pairs(a: np.ndarray) -> float:  # pairs of different rows
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel(x, y).mean()


def cmmd(x: np.ndarray, y: np.ndarray, halves: int = 8, seed: int = 0) -> tuple[float, float]:
    """(value, standard error): 1000 · MMD² of CLIP embeddings x (n, D) and y (m, D), which are normalised here.

        MMD² = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),   k(a, b) = exp(-|a - b|² / (2 · 10²))

    Jayasumana et al., "Rethinking FID", arXiv:2401.09603. A V-statistic, as published: pairs of an image with itself
    count, so it is never below 0 and too large by about c (1/n + 1/m): compare values of the same n and m. Standard
    error: see jackknife_stderr; over draws of other images, with the same real ones. Memory: n² + 1024 m numbers.
    TooFewImages below 4 drawn or 1 real image; ZeroEmbedding for an embedding of length 0.
    """
    x, y = as_features(x, y)
    require_images("CMMD", len(x), 4)
    require_images("CMMD", len(y), 1)
    x, y = unit(x), unit(y)

    # The kernel minus 1: the ones cancel, and most rounding errors with them; |a - b|² = 2 - 2 a·b for unit vectors
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.expm1((a @ b.T - 1) / 100)

    def mean_to_real(a: np.ndarray) -> np.ndarray:  # (len(a),), the mean over y
        return np.concatenate([kernel(a[i : i + CHUNK], y).mean(axis=1) for i in range(0, len(a), CHUNK)])

    among, across, real = kernel(x, x), mean_to_real(x), mean_to_real(y).mean()

    def statistic(rows: np.ndarray) -> float:
        return 1000 * (among[np.ix_(rows, rows)].mean() + real - 2 * across[rows].mean())

    return float(statistic(np.arange(len(x)))), jackknife_stderr(statistic, len(x), halves, seed)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of x (n, D) divided by their lengths. ZeroEmbedding if a length is 0."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not length.all():
        raise ZeroEmbedding("an embedding has length 0: get a new copy of the model (--clip_model)")
    return x / length


def clip_score(image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> tuple[float, float]:
    """(mean, standard error) of 100 · max(cos(image, text), 0) over n pairs; both (n, D), row by row.

    Hessel et al., "CLIPScore", arXiv:2104.08718, with the factor 100 of torchmetrics and most publications instead of
    their 2.5. Standard error: std / √n. TooFewImages below 2 pairs; ZeroEmbedding for an embedding of length 0.
    """
    images, texts = as_features(image_embeddings, text_embeddings)
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} images and {len(texts)} texts aren't pairs")
    require_images("a CLIP score", len(images), 2)
    scores = 100 * np.sum(unit(images) * unit(texts), axis=1).clip(0)
    return float(scores.mean()), float(scores.std(ddof=1) / np.sqrt(len(scores)))
