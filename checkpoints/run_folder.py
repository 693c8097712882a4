"""A run's folder: made or opened, and locked against a second process."""

from __future__ import annotations

import datetime
import secrets

import filelock

from checkpoints import catalog
from checkpoints.state import moments_nbytes
from checkpoints.versions import frozen_dtype, frozen_parts, prune_versions, save_frozen
from common.errors import UserError
from common.files import require_free_space, write_json
from config import to_json
from diffusion.weights import weights_nbytes

# ---------------------------------------------------------------------------------------------------------------------
# Runs


def open_run(run, options, position, parts, learning):
    """(the run's folder, its lock): made if `run` is None, with everything in it as `position` says.

    The lock keeps a second process from working on the same run; the operating system drops it with the process.
    UserError if the folder can't be had or the disk has no room for the first version.
    """
    if run is None:
        run_id = options.run_name or f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        run = catalog.run_path(options.output_dir, run_id)
        if (run / "config.json").exists():
            raise UserError(f"run {run_id} is there already: resume it with --run_id {run_id}, or choose another name")
    weights = weights_nbytes(parts, learning)
    untouched = (
        0 if (run / "untouched").exists() else weights_nbytes(parts, frozen_parts(learning), frozen_dtype(position))
    )
    # a version, the state, the optimizer's moments and the average
    version = weights_nbytes(parts, learning, position["save_dtype"])
    moments = moments_nbytes(options, weights)
    average = weights if options.ema_decay else 0
    there = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    require_free_space(there, untouched + version + weights + moments + average, "this run with its first version")
    try:
        for name in ("samples", "versions", "state"):
            (run / name).mkdir(parents=True, exist_ok=True)
        held = lock_run(run)
    except OSError as problem:
        raise UserError(f"can't work in the run folder {run}: {problem}; choose another --output_dir") from None
    write_json(run / "config.json", to_json(options))
    write_json(run / "versions.json", position["ledger"])
    prune_versions(run, position["ledger"])
    save_frozen(run, parts, learning, frozen_dtype(position))
    return run, held


def lock_run(run):
    """The run's lock, held: a context manager that lets go. UserError if another process holds it."""
    try:
        return filelock.FileLock(run / ".lock").acquire(timeout=0)
    except OSError as problem:
        if not isinstance(problem, filelock.Timeout):
            raise UserError(f"can't work in the run folder {run}: {problem}; choose another --output_dir") from None
        raise UserError(f"another process is training run {run.name}: wait for it or stop it") from None
