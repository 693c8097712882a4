"""The stats file: mean and covariance of the features of real covers, and the settings they were computed with.

A file is refused if its settings differ from those of the score.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

import config
from cli import saved_options
from common.errors import UserError
from common.files import atomic_write

if TYPE_CHECKING:
    from data.folder import Data
    from evaluation.distances import Moments
    from evaluation.features import Extractor

    EvaluationOptions = config.StatsOptions | config.InferenceOptions

WRITE_HINT = "choose another --fid_stats_path"
STATS_VERSION = 1  # raise it when the meaning of an entry of the stats file changes
SYMMETRY = 1e-6  # of a covariance, in standard deviations; that of Moments is symmetric to the last digits of float64
STATS_BYTES = 40e6  # upper bound of a stats file: 2048 x 2048 float64 and a little more


STATS_ERRORS = (  # what NumPy and zipfile raise for one damaged bit or another
    *(OSError, ValueError, TypeError, LookupError, RuntimeError, EOFError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)


@dataclasses.dataclass(frozen=True)
class Stats:
    """The content of a stats file."""

    n: int  # images
    mu: np.ndarray  # float64 (D,)
    sigma: np.ndarray  # float64 (D, D)
    info: Mapping[str, str]  # how they were computed, see stats_info


def stats_info(options: EvaluationOptions, extractor: Extractor, data: Data) -> dict[str, str]:
    """The settings of statistics: what save_stats stores and load_stats expects."""
    return dict(
        fid_features=extractor.name,
        weights_hash=extractor.weights_hash,
        fid_resize=extractor.resize,
        resolution=options.resolution,
        split=options.split,
        fingerprint=data.fingerprint(data.books(options.split)),
    )


def load_reference(options: EvaluationOptions, extractor: Extractor, data: Data) -> Stats:
    """The Stats in --fid_stats_path. UserError if the file is missing or was computed with other settings."""
    path, command = options.fid_stats_path, stats_command(options)
    stats = load_stats(path, stats_info(options, extractor, data), command)
    if len(stats.mu) != extractor.dims:
        raise UserError(
            f"{path} has {len(stats.mu)} features, and {extractor.name} has {extractor.dims}: make it with: {command}"
        )
    return stats


def stats_command(options: EvaluationOptions) -> str:
    """The command line that computes the stats file for these options."""
    always = ("data_root", "resolution", "fid_features", "fid_stats_path")
    return saved_options.command(config.StatsOptions, vars(options), always)


def require_writable(path: str | pathlib.Path) -> None:
    """UserError unless a stats file can be written at `path`; makes its folder. Call it before the long work."""
    path = pathlib.Path(path).expanduser()
    if path.suffix != ".npz":
        raise UserError(f"--fid_stats_path {path} must end in .npz: pytorch-fid recognises statistics by it")
    if path.is_dir():
        raise UserError(f"--fid_stats_path {path} is a folder: give the name of a file")
    trial = path.with_name(f".tmp-{os.getpid()}-{path.name}.trial")
    with atomic_write(trial, WRITE_HINT) as temporary:
        temporary.touch()
        if shutil.disk_usage(path.parent).free < STATS_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    trial.unlink()


def save_stats(path: str | pathlib.Path, moments: Moments, info: Mapping[str, str]) -> None:
    """Write a stats file atomically; `python -m pytorch_fid PATH FOLDER` reads it.

    info: see stats_info. Equal statistics make equal bytes. UserError if it can't be written, or if they are unsound.
    """
    try:
        require_moments(moments.mu, moments.sigma, np.asarray(moments.n))
    except ValueError as problem:
        raise UserError(f"can't write {path}: {problem}; nothing was written") from None
    libraries = ("torch", "torchvision", "numpy", "pillow", "pytorch-fid")
    entries: dict[str, Any] = dict(mu=moments.mu, sigma=moments.sigma, n=moments.n, **info)
    entries |= dict(stats_version=STATS_VERSION, created_by=" ".join(f"{x} {version(x)}" for x in libraries))
    with atomic_write(path, WRITE_HINT) as temporary, open(temporary, "wb") as file:
        np.savez(file, **entries)


def load_stats(
    path: str | pathlib.Path, expect: Mapping[str, str], command: str = "python -m precalc_fid_stats"
) -> Stats:
    """The Stats in the file at `path`. UserError if it is missing, not a stats file, or differs in a setting.

    expect: the settings it must have (see stats_info); command: what computes the right file (see stats_command).
    """
    expect = {"stats_version": str(STATS_VERSION), **expect}
    remedy = f"make it with: {command}"
    try:
        with np.load(pathlib.Path(path).expanduser(), allow_pickle=False) as file:
            entries = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"no statistics of real covers at {path}: {remedy}") from None
    except STATS_ERRORS:
        raise UserError(f"{path} is not a stats file, or is damaged: {remedy}") from None
    absent = [name for name in ("mu", "sigma", "n", *expect) if name not in entries]
    if absent:
        raise UserError(f"{path} doesn't say its {absent[0]}, so it can't be trusted here: {remedy}")
    mu, sigma, n = (entries.pop(name) for name in ("mu", "sigma", "n"))
    info = {name: str(value) for name, value in entries.items()}
    for name, value in expect.items():
        if info[name] != str(value):
            raise UserError(f"{path} was made with {name} {info[name]}, but {value} is needed: {remedy}")
    try:
        require_moments(mu, sigma, n)
    except ValueError as problem:
        raise UserError(f"{path} doesn't hold a mean and a covariance: {problem}; {remedy}") from None
    return Stats(int(n), mu, sigma, info)


def require_moments(mu: np.ndarray, sigma: np.ndarray, n: np.ndarray) -> None:
    """ValueError, with what is wrong, unless these can be the mean (D,) and covariance (D, D) of n (0-dim) images.

    Not checked is that no eigenvalue is negative: it takes half a minute.
    """
    if n.shape != () or n.dtype.kind not in "iu" or n < 2:
        raise ValueError("its number of images is not a whole number of 2 or more")
    if mu.dtype != np.float64 or sigma.dtype != np.float64:
        raise ValueError(f"they are {mu.dtype} and {sigma.dtype} instead of float64")
    if mu.ndim != 1 or not len(mu) or sigma.shape != mu.shape * 2:
        raise ValueError(f"their shapes are {mu.shape} and {sigma.shape}")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError("they are not finite")
    variances = sigma.diagonal()
    if (variances < 0).any():
        raise ValueError("a variance is negative")
    limits = np.outer(np.sqrt(variances), np.sqrt(variances))
    if (np.abs(sigma - sigma.T) > SYMMETRY * limits).any():
        raise ValueError("the covariance is not symmetric")
    if (np.abs(sigma) > (1 + SYMMETRY) * limits).any():  # Cauchy and Schwarz
        raise ValueError("a covariance is larger than its variances allow")
