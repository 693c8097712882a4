"""How far drawn covers are from real ones: mathematics on features, and nothing that reads, draws or writes.

x: features of drawn images (n, D); y: features of real ones (m, D); floats, computed in float64. What is random has a
seed, so that the same features make the same figure. ValueError for shapes that don't match or values that aren't
finite; TooFew where a figure would mean nothing.
"""

from __future__ import annotations

import numpy as np

from common.errors import UserError

CHUNK = 1024  # rows of a matrix of distances that are in memory together


class TooFew(UserError):
    """Too few images for a figure; the message says how many there are and how many it needs."""


def require(what, n, least):
    """TooFew if n images are less than `least`."""
    if n < least:
        raise TooFew(f"{what} needs at least {least} images, and there {'is' if n == 1 else 'are'} {n}")


def as_features(*features):
    """The features as float64 arrays (n, D) of the same D, or ValueError."""
    features = [np.asarray(x, np.float64) for x in features]
    if any(x.ndim != 2 or x.shape[1] != features[0].shape[1] for x in features):
        raise ValueError(f"expected features (n, D) of one D, got {', '.join(str(x.shape) for x in features)}")
    if not all(np.isfinite(x).all() for x in features):
        raise ValueError("features aren't finite")
    return features


# ---------------------------------------------------------------------------------------------------------------------
# The Fréchet distance, its error, and its limit


def frechet_distance(mu1, sigma1, mu2, sigma2):
    """Squared Fréchet (2-Wasserstein) distance of the Gaussians N(mu1, sigma1) and N(mu2, sigma2), a float >= 0.

        d² = |mu1 - mu2|² + tr sigma1 + tr sigma2 - 2 tr (√sigma1 sigma2 √sigma1)^½

    mu: (D,); sigma: (D, D), symmetric and positive semidefinite, of any rank. Dowson and Landau, "The Fréchet distance
    between multivariate normal distributions", J. Multivariate Analysis 12 (1982); as FID: Heusel et al.,
    arXiv:1706.08500. ValueError for shapes that don't match or values that aren't finite.

    √sigma1 sigma2 √sigma1 is symmetric, so its root's trace is the sum of the roots of its eigenvalues. Full-rank
    covariances make it good to ten digits and more. With fewer images than dimensions many eigenvalues should be 0 and
    come out as float64's epsilon, whose root counts: the distance is then too small by a relative 1e-5 or so.
    pytorch-fid's is by the same amount, and agreeing with published numbers is worth more here than these digits.
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
    """Mean and covariance of features that come in batches; float64; memory D² however many come.

    Batches are merged by Chan, Golub and LeVeque's pairwise update ("Updating formulae and a pairwise algorithm for
    computing sample variances", 1979), which never subtracts large sums from each other.
    """

    def __init__(self, dims):
        self.n = 0  # features seen
        self.mu = np.zeros(dims)  # (D,)
        self.scatter = np.zeros((dims, dims))  # sum of (x - mu)(x - mu)ᵀ over the features x

    def update(self, features):
        """Take in features (B, D)."""
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
    def sigma(self):
        """Covariance (D, D) with n - 1 below the line, as in numpy.cov. TooFew for fewer than 2 images."""
        require("a covariance", self.n, 2)
        return self.scatter / (self.n - 1)


def warn_small(n, dims):
    """A warning if n images are too few for a covariance of `dims` features, else None."""
    if n > dims:
        return None
    return (
        f"{n} images for {dims} feature dimensions: the covariance is singular and the distance biased upward; "
        "compare it only with distances of just as many images"
    )


def half_error(statistic, n, halves=8, seed=0):
    """Standard error of a statistic of n images by the delete-d jackknife: its spread over random halves of them.

        error² = (n - d) / d · variance of statistic(n - d of the n),   d = n - ⌊n/2⌋, so that the factor is 1 or near

    statistic: a function of the rows (⌊n/2⌋,) it is to use. Shao and Wu, "A general theory for jackknife variance
    estimation", Annals of Statistics 17 (1989). The error's own relative error is 1 / √(2 (halves - 1)): 27 % for 8.
    A statistic that is flat where it stands, as a distance of equal distributions, varies up to 2 times less than this.
    """
    rng = np.random.default_rng(seed)
    half = n // 2
    values = [statistic(rng.permutation(n)[:half]) for _ in range(halves)]
    return float(np.std(values, ddof=1) * np.sqrt(half / (n - half)))


def frechet_of_rows(x, mu, sigma):
    """The function rows -> frechet_distance of x[rows] to N(mu, sigma), fast for many choices of rows (at least 2).

    x: (n, D); mu: (D,); sigma: (D, D). With sigma = R Rᵀ and C the centred rows over √(n' - 1), the last trace of
    frechet_distance is the sum of the singular values of C R. R is made once, without the eigenvectors that are
    rounding, and C R has n' or rank(sigma) such values, whichever is less. So of covariances that aren't of full rank
    this keeps the digits that frechet_distance, like pytorch-fid, loses (see there).
    """
    (x,) = as_features(x)
    mu, sigma = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    if mu.shape != x.shape[1:] or sigma.shape != mu.shape * 2:
        raise ValueError(f"shapes don't match: {x.shape}, {mu.shape} and {sigma.shape}")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError("mean or covariance isn't finite")
    values, vectors = np.linalg.eigh(sigma)
    sound = values > values[-1] * len(mu) * np.finfo(np.float64).eps
    root = vectors[:, sound] * np.sqrt(values[sound])
    x = x - mu
    projected = x @ root
    trace = np.trace(sigma)

    def distance(rows):
        mean = x[rows].mean(axis=0)
        scatter = np.sum((x[rows] - mean) ** 2)
        half = projected[rows] - projected[rows].mean(axis=0)
        gram = half @ half.T if len(half) < half.shape[1] else half.T @ half
        cross = np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum()
        n = len(rows) - 1
        return float(np.sum(mean**2) + scatter / n + trace - 2 * cross / np.sqrt(n))

    return distance


def frechet_error(x, mu, sigma, halves=8, seed=0):
    """Standard error of the Fréchet distance of x (n, D) to N(mu, sigma): what other n images would change.

    See half_error. The real side is taken as given, as it is when versions are compared with one stats file.
    """
    (x,) = as_features(x)
    require("the error of a Fréchet distance", len(x), 4)
    return half_error(frechet_of_rows(x, mu, sigma), len(x), halves, seed)


def frechet_infinity(x, mu, sigma, halves=8, seed=0):
    """(value, error, r²) of the Fréchet distance of infinitely many drawn images to N(mu, sigma).

    Chong and Forsyth, "Effectively unbiased FID and Inception Score", arXiv:1911.07023: the distance of n images is
    too large by nearly c/n, so it is taken at 10 sizes from n/4 to n, evenly in 1/n, and the least-squares line over
    1/n has the limit as its intercept. r² is that of the line. At each size the mean over as many disjoint random
    subsets as there are takes the place of one subset: less noise from the same images.

    error: of the whole procedure, see half_error; the line's own standard error doesn't know that its points are made
    of the same images. Only the drawn side's bias goes: mu and sigma of m real images keep theirs. With n not well
    above D the curve isn't straight, however good r² looks: for n < D the value is nearer to the limit than the
    distance is and still too large, for n = 2 D a little too small. It can be below 0. halves=0 leaves the error out
    (None). TooFew for less than 20 images.
    """
    (x,) = as_features(x)
    require("an extrapolated Fréchet distance", len(x), 20)
    distance = frechet_of_rows(x, mu, sigma)

    def line(rows):
        rng = np.random.default_rng(seed)
        sizes = np.rint(len(rows) / np.linspace(1, 4, 10)).astype(int)
        points = []
        for size in sizes:
            mixed = rng.permutation(rows)
            points.append(np.mean([distance(part) for part in mixed[: len(rows) // size * size].reshape(-1, size)]))
        slope, intercept = np.polyfit(1 / sizes, points, 1)
        left, all_of_it = np.sum((intercept + slope / sizes - points) ** 2), np.sum((points - np.mean(points)) ** 2)
        return intercept, 1 - left / all_of_it if all_of_it else 1.0

    value, r_squared = line(np.arange(len(x)))
    error = half_error(lambda rows: line(rows)[0], len(x), halves, seed) if halves else None
    return float(value), error, float(r_squared)


# ---------------------------------------------------------------------------------------------------------------------
# The kernel distances


def kernel_distance(x, y, subsets=10, seed=0):
    """(value, error): unbiased squared MMD of x (n, D) and y (m, D), kernel (a·b/D + 1)³, and its standard error.

        MMD² = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),   x ≠ x', y ≠ y'

    As KID: Bińkowski et al., arXiv:1801.01401. Each side is shuffled and cut into disjoint parts that use all of it.
    Each pair of parts gives one independent estimate, so their mean has the standard error std / √subsets: what other
    images, drawn and real, would change. The usual 100 overlapping subsets share images: their spread follows from the
    size chosen for them and is no error of the mean. The price is a little noise, as small parts have fewer pairs than
    the whole. May be below 0. TooFew for less than 2 images a part.
    """
    x, y = as_features(x, y)
    require(f"a kernel distance in {subsets} parts", min(len(x), len(y)), 2 * subsets)
    rng = np.random.default_rng(seed)
    sides = (np.array_split(rng.permutation(side), subsets) for side in (x, y))
    values = [unbiased_mmd(*parts) for parts in zip(*sides, strict=True)]
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(subsets))


def unbiased_mmd(x, y):
    """The estimate of kernel_distance from x (n, D) and y (m, D) in one piece."""

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def of_others(a):  # mean over pairs of different rows
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return of_others(x) + of_others(y) - 2 * kernel(x, y).mean()


def cmmd(x, y, halves=8, seed=0):
    """(value, error): 1000 · MMD² of CLIP embeddings x (n, D) and y (m, D), unit-normed here.

        MMD² = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),   k(a, b) = exp(-|a - b|² / (2 · 10²))

    Jayasumana et al., arXiv:2401.09603. A V-statistic, as they publish it: pairs of an image with itself count, so it
    is never below 0 and too large by about c (1/n + 1/m): compare figures of the same n and m. error: see half_error;
    for other drawn images and the same real ones. Memory: n² + 1024 m numbers. TooFew for less than 4 drawn or no real
    images; ValueError for an embedding of length 0.
    """
    x, y = as_features(x, y)
    require("CMMD", len(x), 4)
    require("CMMD", len(y), 1)
    x, y = unit(x), unit(y)

    def kernel(a, b):  # less 1: the ones cancel, and most rounding with them; |a - b|² = 2 - 2 a·b for unit vectors
        return np.expm1((a @ b.T - 1) / 100)

    def to_real(a):  # -> (len(a),), the mean over y
        return np.concatenate([kernel(a[i : i + CHUNK], y).mean(axis=1) for i in range(0, len(a), CHUNK)])

    among, across, real = kernel(x, x), to_real(x), to_real(y).mean()

    def statistic(rows):
        return 1000 * (among[np.ix_(rows, rows)].mean() + real - 2 * across[rows].mean())

    return float(statistic(np.arange(len(x)))), half_error(statistic, len(x), halves, seed)


def unit(x):
    """Rows of x (n, D) divided by their lengths. ValueError if one is 0."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not length.all():
        raise ValueError("an embedding has length 0")
    return x / length


def clip_score(image_embeddings, text_embeddings):
    """(mean, error) of 100 · max(cos, 0) over pairs: image_embeddings (n, D) and, row by row, the texts' (n, D).

    Hessel et al., arXiv:2104.08718, without their factor 2.5, as torchmetrics and most who publish it. error: std / √n.
    TooFew for less than 2 pairs; ValueError for an embedding of length 0.
    """
    images, texts = as_features(image_embeddings, text_embeddings)
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} images and {len(texts)} texts aren't pairs")
    require("a CLIP score", len(images), 2)
    scores = 100 * np.sum(unit(images) * unit(texts), axis=1).clip(0)
    return float(scores.mean()), float(scores.std(ddof=1) / np.sqrt(len(scores)))
