"""--run_id -> the run that goes on, from this disk or from a tracker."""

from __future__ import annotations

import dataclasses
from typing import Any

import config
from checkpoints import catalog
from checkpoints.run_folder import RunFolder
from cli import saved_options
from tracking import artifacts, trackers


def find_run_to_resume(given: dict[str, Any]) -> tuple[config.TrainingOptions, RunFolder]:
    """(options, run) of the run that goes on: what is on disk, or what the tracker has that is newer.

    given: the options that the user typed, with run_id. UserError if they would change the past of the run.
    """
    cls, run_id = config.TrainingOptions, given["run_id"]
    output_dir = given.get("output_dir", cls.output_dir)
    saved = catalog.run_folder(output_dir, run_id).config
    if saved.exists():
        saved_options.refuse_changes(cls, saved, given)
    asked = saved_options.inherit(cls, saved, given) if saved.exists() else cls(**given)
    if config.tracker(asked) in config.STORES and not (asked.plan and saved.exists()):
        artifacts.fetch_run(asked, run_id)
    run = catalog.find_run(output_dir, run_id, config.tracker(asked))
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
