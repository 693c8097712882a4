"""--run_id -> the run that goes on, from this disk or from a tracker."""

from __future__ import annotations

import dataclasses

import config
from checkpoints import catalog
from cli import saved_options
from tracking import artifacts


def find_run_to_resume(given):
    """(options, folder) of the run that goes on: what is on disk, or what the tracker has that is newer."""

    cls, run_id = config.TrainingOptions, given["run_id"]
    saved = catalog.run_path(given.get("output_dir", cls.output_dir), run_id) / "config.json"
    if saved.exists():
        saved_options.refuse_changes(cls, saved, given)
    wishes = saved_options.inherit(cls, saved, given) if saved.exists() else cls(**given)
    if config.tracker(wishes) in config.STORES and not (wishes.plan and saved.exists()):
        artifacts.fetch_run(wishes, run_id)
    run = catalog.find_run(given.get("output_dir", cls.output_dir), run_id, config.tracker(wishes))
    saved_options.refuse_changes(cls, saved, given)
    if "epochs" in given:
        given.setdefault("max_steps", None)  # the length that was asked for last
    options = saved_options.inherit(cls, saved, given)
    return dataclasses.replace(options, output_dir=str(run.parent)), run  # the run may come from another machine
