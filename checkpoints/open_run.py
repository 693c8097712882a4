"""A run's folder, made or opened for training."""

from __future__ import annotations

import contextlib
import datetime
import secrets

import config
from checkpoints import catalog
from checkpoints.records import TrainingState
from checkpoints.run_folder import RunFolder
from checkpoints.state import KEPT_STATES, moments_nbytes
from checkpoints.versions import frozen_dtype, frozen_names, prune_versions, save_frozen
from common.errors import UserError
from common.files import remove, remove_dead_temporary_files, require_free_space, write_json
from diffusion.parts import Parts
from diffusion.trainable import Trainable
from diffusion.weights import weights_nbytes


def new_run(
    options: config.TrainingOptions, state: TrainingState, parts: Parts, trainable: Trainable
) -> tuple[RunFolder, contextlib.ExitStack]:
    """(the folder of a run that begins, its lock). UserError if the run exists, if its folder can't be made, or if the
    disk has no space for it."""
    run_id = options.run_name or f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run = catalog.run_folder(options.output_dir, run_id)
    refuse_existing(run)
    require_space_for(run, options, state, parts, trainable)
    make_folders(run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(run.lock())
        refuse_existing(run)  # another process may have been faster
        return run, stack.pop_all()


def refuse_existing(run: RunFolder) -> None:
    """UserError if there is a run in the folder."""
    if run.config.exists():
        raise UserError(f"run {run.name} is there already: resume it with --run_id {run.name}, or choose another name")


def make_folders(run: RunFolder) -> None:
    """Make the folders that training writes to. UserError if that fails."""
    try:
        for folder in (run.samples, run.versions, run.states):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"can't work in the run folder {run}: {problem}; choose another --output_dir") from None


def fill_run(
    run: RunFolder, options: config.TrainingOptions, state: TrainingState, parts: Parts, trainable: Trainable
) -> None:
    """Bring a run's folder to what `state` says: its files are written, what it does not know and what killed processes
    have left is deleted. Under the run's lock."""
    make_folders(run)
    for folder in (run.versions, run.states):  # written under the lock alone, so all of these are dead
        for leftover in folder.glob(".*.tmp"):
            remove(leftover)
    for folder in (run.path, run.samples, run.covers, run.fetched.path, run.fetched.versions):
        remove_dead_temporary_files(folder)
    write_json(run.config, config.to_json(options))
    catalog.record_start(run)
    write_json(run.version_index, state.version_index.to_json())
    prune_versions(run, state.version_index)
    if not state.version_index.versions:  # it was killed before its first save: what it has left may be anything
        remove(run.frozen)
    save_frozen(run, parts, trainable, frozen_dtype(state))


def require_space_for(
    run: RunFolder, options: config.TrainingOptions, state: TrainingState, parts: Parts, trainable: Trainable
) -> None:
    """UserError unless the disk has space for the frozen parts, a version, and the training states to be kept."""
    weights = trainable.nbytes()
    frozen = 0 if run.frozen.exists() else weights_nbytes(parts, frozen_names(parts, trainable), frozen_dtype(state))
    moments = moments_nbytes(options.optimizer, weights)
    average = weights if options.ema_decay else 0
    saves = -(-(state.total - state.step) // options.save_every)  # to come
    states = max(0, min(saves, KEPT_STATES - len(run.saved_steps())))
    existing = next(folder for folder in (run.path, *run.path.absolute().parents) if folder.exists())
    needed = frozen + trainable.nbytes(state.save_dtype) + states * (weights + moments + average)
    require_free_space(existing, needed, "this run with its first version")
