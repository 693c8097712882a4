"""A run's folder, made or opened for training."""

from __future__ import annotations

import datetime
import secrets
from contextlib import AbstractContextManager
from typing import Any

import config
from checkpoints import catalog
from checkpoints.records import TrainingState
from checkpoints.run_folder import RunFolder
from checkpoints.state import moments_nbytes
from checkpoints.versions import frozen_dtype, frozen_names, prune_versions, save_frozen
from common.errors import UserError
from common.files import require_free_space, write_json
from diffusion.parts import Parts
from diffusion.trainable import Trainable
from diffusion.weights import weights_nbytes


def open_run(
    run: RunFolder | None, options: config.TrainingOptions, state: TrainingState, parts: Parts, trainable: Trainable
) -> tuple[RunFolder, AbstractContextManager[Any]]:
    """(the run's folder, its lock): made if `run` is None, with everything in it as `state` says.

    UserError if the folder can't be made, or if the disk has no space for the first version.
    """
    if run is None:
        run_id = options.run_name or f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        run = catalog.run_folder(options.output_dir, run_id)
        if run.config.exists():
            raise UserError(f"run {run_id} is there already: resume it with --run_id {run_id}, or choose another name")
    require_space_for(run, options, state, parts, trainable)
    try:
        for folder in (run.samples, run.versions, run.states):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"can't work in the run folder {run}: {problem}; choose another --output_dir") from None
    lock = run.lock()
    write_json(run.config, config.to_json(options))
    catalog.record_start(run)
    write_json(run.version_index, state.version_index.to_json())
    prune_versions(run, state.version_index)
    save_frozen(run, parts, trainable, frozen_dtype(state))
    return run, lock


def require_space_for(
    run: RunFolder, options: config.TrainingOptions, state: TrainingState, parts: Parts, trainable: Trainable
) -> None:
    """UserError unless the disk has space for the frozen parts, a version, and a training state."""
    weights = trainable.nbytes()
    frozen = 0 if run.frozen.exists() else weights_nbytes(parts, frozen_names(trainable), frozen_dtype(state))
    moments = moments_nbytes(options.optimizer, weights)
    average = weights if options.ema_decay else 0
    existing = next(folder for folder in (run.path, *run.path.absolute().parents) if folder.exists())
    needed = frozen + trainable.nbytes(state.save_dtype) + weights + moments + average
    require_free_space(existing, needed, "this run with its first version")
