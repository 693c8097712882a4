"""--publish uploads what a tracker lacks of a run; --prune deletes from wandb what the run has dropped."""

from __future__ import annotations

import dataclasses
import os

import config
from checkpoints import catalog
from checkpoints.state import read_state
from cli import saved_options
from common.errors import UserError
from tracking import asking, trackers
from tracking.artifact_info import ArtifactInfo
from tracking.uploader import Uploader


def publish(options: config.RunsOptions) -> int:
    """Upload what the tracker lacks of a run; returns the exit status, 2 if the tracker still lacks something.

    UserError if the options name no tracker that stores files.
    """
    require_online(options, "--publish")
    if config.tracker(options) not in config.STORES:
        raise UserError("--publish: to which tracker? give --tracker wandb or trackio, or set WANDB_API_KEY")
    run = catalog.find_run(options.output_dir, options.run_id)
    saved = saved_options.inherit(config.TrainingOptions, run.config, {})
    tracking = {field.name: getattr(options, field.name) for field in dataclasses.fields(config.TrackingOptions)}
    options = dataclasses.replace(saved, **tracking, output_dir=options.output_dir)
    with run.lock():
        training_state, _ = read_state(run)
        with Uploader(run, options, training_state.step if training_state else 0) as uploader:
            if uploader.tracker:  # or it was not reached, and nobody knows what it has
                print(
                    "publishing: " + (", ".join(uploader.missing()) or "curves; versions and state are there already")
                )
    return 2 if uploader.failing or uploader.missing() else 0


def prune(options: config.RunsOptions) -> int:
    """Delete what wandb has of the run and nothing names any more: versions that were dropped from the run's index and
    are neither latest nor best, and all training states but the newest; returns the exit status.

    UserError, with nothing deleted, if the tracker is not wandb or the run's newest state is not on this disk.
    """
    require_online(options, "--prune")
    if config.tracker(options) != "wandb":
        raise UserError("--prune works with wandb alone; trackio deletes nothing")
    run, run_id = catalog.find_run(options.output_dir, options.run_id), options.run_id
    tracker = trackers.connect(options, run_id)
    newest = asking.find_artifact(tracker, trackers.STATES, run_id, "latest")
    if max(run.saved_steps(), default=-1) < (newest[1].step if newest else 0):
        raise UserError(
            f"--prune goes by the list of the machine that trains run {run_id}, and {tracker.name} has a newer state "
            f"than {run}: prune there, or resume the run here first"
        )
    used = {"latest", "best", *catalog.read_version_index(run).versions}
    if newest:
        used.add(newest[1].version)
    for collection in (trackers.VERSIONS, trackers.STATES):
        for artifact in tracker.list_artifacts(collection):
            try:
                info = ArtifactInfo.from_metadata(artifact.metadata, tracker.name)
            except UserError:  # somebody else's
                continue
            ours = {f"{run_id}-{info.version}", "latest", artifact.version}
            # one that has an alias that is in use, or that somebody gave it by hand, stays
            if info.run_id == run_id and {*artifact.aliases} <= ours - {f"{run_id}-{name}" for name in used}:
                tracker.delete(artifact)
                what = "state" if collection == trackers.STATES else info.version
                print(f"deleted {what} of update {info.step} from {tracker.name}")
    return 0


def require_online(options: config.RunsOptions, action: str) -> None:
    """UserError if wandb is meant and WANDB_MODE keeps it from its server."""
    mode = os.environ.get("WANDB_MODE", "")
    meant = options.tracker == "wandb" or (options.tracker is None and os.environ.get("WANDB_API_KEY"))
    if meant and (mode == "disabled" or trackers.is_offline()):
        raise UserError(f"{action} needs wandb online: unset WANDB_MODE, which is {mode}")
