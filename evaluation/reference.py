"""The stats file: moments of real covers' features, and how they were made. It is refused wherever that doesn't fit."""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import shutil
import zipfile
import zlib
from importlib.metadata import version

import numpy as np

import config
from cli import saved_options
from common.errors import UserError
from common.files import atomic_write

ROOM = "choose another --fid_stats_path"
STATS_VERSION = 1  # raise it when the meaning of an entry of the stats file changes
STATS_BYTES = 40e6  # more than a stats file has: 2048 x 2048 float64 and a little


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
    always = ("data_root", "resolution", "fid_features", "fid_stats_path")
    return saved_options.command(config.StatsOptions, vars(options), always)


def require_writable(path):
    """UserError unless a stats file can be written at `path`; makes its folder. To be called before the long work."""
    path = pathlib.Path(path).expanduser()
    if path.suffix != ".npz":
        raise UserError(f"--fid_stats_path {path} must end in .npz: pytorch-fid knows statistics by it")
    if path.is_dir():
        raise UserError(f"--fid_stats_path {path} is a folder: give the name of a file")
    trial = path.with_name(f".tmp-{os.getpid()}-{path.name}.trial")
    with atomic_write(trial, ROOM) as temporary:
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
    with atomic_write(path, ROOM) as temporary, open(temporary, "wb") as file:
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
