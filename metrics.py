"""How far drawn covers are from real ones: features of a frozen network, their moments, the Fréchet distance.

One path serves both sides: images -> Extractor -> Moments. The moments of the real covers are kept in a stats file
that says how they were made, and that is refused wherever it doesn't fit.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import pathlib
import shlex
import shutil
import zipfile
import zlib
from importlib.metadata import version

import numpy as np
from tqdm import tqdm

import config
from config import UserError
from files import publish

ROOM = "choose another --fid_stats_path"
STATS_VERSION = 1  # raise it when the meaning of an entry of the stats file changes
STATS_BYTES = 40e6  # more than a stats file has: 2048 x 2048 float64 and a little


# ---------------------------------------------------------------------------------------------------------------------
# The distance


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
        """Covariance (D, D) with n - 1 below the line, as in numpy.cov. UserError for fewer than 2 images."""
        if self.n < 2:
            raise UserError(f"statistics need at least 2 images, and there is {self.n}")
        return self.scatter / (self.n - 1)


def warn_small(n, dims):
    """A warning if n images are too few for a covariance of `dims` features, else None."""
    if n > dims:
        return None
    return (
        f"{n} images for {dims} feature dimensions: the covariance is singular and the distance biased upward; "
        "compare it only with distances of just as many images"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Many images -> moments


def moments(images, extractor, total, desc):
    """Moments of the features of images, an iterable of `total` uint8 (H, W, 3) of one size; with a progress bar."""
    result = Moments(extractor.dims)
    images = iter(images)
    with tqdm(total=total, desc=desc, unit=" images") as bar:
        while batch := list(itertools.islice(images, extractor.batch_size)):
            result.update(extractor(np.stack(batch)))
            bar.update(len(batch))
    return result


# ---------------------------------------------------------------------------------------------------------------------
# The stats file


@dataclasses.dataclass(frozen=True)
class Stats:
    """What a stats file holds: n images, mu (D,), sigma (D, D), float64, and how they were made."""

    n: int
    mu: np.ndarray
    sigma: np.ndarray
    info: dict


def stats_info(options, extractor, data):
    """How statistics with these options are made: what save_stats keeps and load_stats expects.

    options: any class with FidOptions and DataOptions; data: their dataset.Data.
    """
    return dict(
        fid_features=extractor.name,
        weights_hash=extractor.weights_hash,
        fid_resize=extractor.resize,
        resolution=options.resolution,
        split=options.split,
        fingerprint=data.fingerprint(data.books(options.split)),
    )


def load_reference(options, extractor, data):
    """The Stats of the real covers that `options` ask for. UserError if their file is missing or made otherwise."""
    return load_stats(options.fid_stats_path, stats_info(options, extractor, data), stats_command(options))


def stats_command(options):
    """The command that makes the stats file that `options` (see stats_info) ask for."""
    words = ["python", "-m", "precalc_fid_stats"]
    for field in dataclasses.fields(config.StatsOptions):
        value = getattr(options, field.name)
        always = ("data_root", "resolution", "fid_features", "fid_stats_path")
        if field.name in always or value != field.default:
            words += [f"--{field.name}", str(value)]
    return shlex.join(words)


def require_writable(path):
    """UserError unless a stats file can be written at `path`; makes its folder. To be called before the long work."""
    path = pathlib.Path(path).expanduser()
    if path.suffix != ".npz":
        raise UserError(f"--fid_stats_path {path} must end in .npz: pytorch-fid knows statistics by it")
    if path.is_dir():
        raise UserError(f"--fid_stats_path {path} is a folder: give the name of a file")
    trial = path.with_name(f".tmp-{os.getpid()}-{path.name}.trial")
    with publish(trial, ROOM) as temporary:
        temporary.touch()
        if shutil.disk_usage(path.parent).free < STATS_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    trial.unlink()


def save_stats(path, moments, info):
    """Write a stats file whole or not at all; `python -m pytorch_fid PATH FOLDER` reads it.

    info: see stats_info. Equal statistics make equal bytes. UserError if it can't be written.
    """
    libraries = ("torch", "torchvision", "numpy", "pillow", "pytorch-fid")
    made = dict(stats_version=STATS_VERSION, created_by=" ".join(f"{x} {version(x)}" for x in libraries))
    with publish(path, ROOM) as temporary, open(temporary, "wb") as file:
        np.savez(file, mu=moments.mu, sigma=moments.sigma, n=moments.n, **info, **made)


def load_stats(path, expect, command="python -m precalc_fid_stats"):
    """The Stats in the file at `path`. UserError if it is missing, no stats file, or differs in an entry of `expect`.

    expect: entries it must have (see stats_info); command: what makes the right file (see stats_command).
    """
    expect = {"stats_version": STATS_VERSION, **expect}
    remedy = f"make it with: {command}"
    try:
        with np.load(pathlib.Path(path).expanduser(), allow_pickle=False) as file:
            entries = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"no statistics of real covers at {path}: {remedy}") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{path} is not a stats file, or is damaged: {remedy}") from None
    missing = [name for name in ("mu", "sigma", "n", *expect) if name not in entries]
    if missing:
        raise UserError(f"{path} doesn't say its {missing[0]}, so it can't be trusted here: {remedy}")
    mu, sigma, n = (entries.pop(name) for name in ("mu", "sigma", "n"))
    info = {name: str(value) for name, value in entries.items()}
    for name, value in expect.items():
        if info[name] != str(value):
            raise UserError(f"{path} was made with {name} {info[name]}, but {value} is needed: {remedy}")
    sound = mu.ndim == 1 and sigma.shape == mu.shape * 2 and n.shape == () and mu.dtype == sigma.dtype == np.float64
    if not sound or n < 2 or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{path} doesn't hold a mean and a covariance: {remedy}")
    return Stats(int(n), mu, sigma, info)
