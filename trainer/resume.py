"""--run_id -> the run that goes on, from this disk or from a tracker."""

from __future__ import annotations

import dataclasses
import os
from contextlib import nullcontext
from typing import Any

import config
from checkpoints import catalog, recovery
from checkpoints.run_folder import RunFolder
from cli import saved_options
from tracking import artifacts, trackers


def find_run_to_resume(given: dict[str, Any]) -> tuple[config.TrainingOptions, RunFolder]:
    """(options, run) of the run that goes on: what is on disk, or what the tracker has that is newer.

    Damage on the disk is mended as far as it can be, see checkpoints/recovery.py. given: the options that the user
    typed, with run_id. UserError if they would change the past of the run, or if another process trains it.
    """
    cls, run_id = config.TrainingOptions, given["run_id"]
    output_dir = given.get("output_dir", cls.output_dir)
    run = catalog.run_folder(output_dir, run_id)
    # Only the first of several processes may have the lock; --plan changes nothing, and takes no notice of it
    first = os.environ.get("RANK", "0") == "0"
    mend = first and run.config.exists() and not given.get("plan")
    with run.lock() if mend else nullcontext():
        return find_locked(given, run, mend, locked=mend or not first)


def find_locked(
    given: dict[str, Any], run: RunFolder, mend: bool, locked: bool
) -> tuple[config.TrainingOptions, RunFolder]:
    """find_run_to_resume(), under the run's lock. mend: whether damage is mended. locked: whether this process, or the
    first of those that were launched together, sees to the lock."""
    cls, run_id, saved = config.TrainingOptions, given["run_id"], run.config
    output_dir = run.path.parent
    if saved.exists():
        saved_options.refuse_changes(cls, saved, given)
    asked = saved_options.inherit(cls, saved, given) if saved.exists() else cls(**given)
    stored = config.tracker(asked) in config.STORES
    damaged = recovery.set_aside_damaged_states(run, fetchable=trackers.can_store_files(asked)) if mend else {}
    if stored and not (asked.plan and saved.exists()):
        artifacts.fetch_run(asked, run_id, locked)
    run = catalog.find_run(output_dir, run_id, config.tracker(asked))
    if mend:
        recovery.recover(run, damaged)
    saved_options.refuse_changes(cls, saved, given)
    if "epochs" in given:
        given.setdefault("max_steps", None)  # the length that was asked for last
    options = saved_options.inherit(cls, saved, given)
    # the run may come from another machine
    return dataclasses.replace(options, output_dir=str(run.path.parent)), run


def with_tracker(options: config.TrainingOptions) -> config.TrainingOptions:
    """The options, with wandb written out where a key turned it on: a resumed run knows it then, and misses its key.

    UserError if wandb is asked for and there is no key.
    """
    if config.tracker(options) != "wandb":
        return options
    trackers.require_key(options)
    return dataclasses.replace(options, tracker="wandb")
