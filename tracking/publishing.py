"""--publish sends what a tracker has missed of a run; --prune deletes from wandb what the run has dropped."""

from __future__ import annotations

import dataclasses

import config
from checkpoints import catalog, state
from cli import saved_options
from common.errors import UserError
from tracking import trackers, uploader

# ---------------------------------------------------------------------------------------------------------------------
# Publishing and pruning


def publish(options):
    """Bring to the tracker what it lacks of a run. Exit status 2 if it still lacks something."""

    if config.tracker(options) not in config.STORES:
        raise UserError("--publish: to which tracker? give --tracker wandb or trackio, or set WANDB_API_KEY")
    run = catalog.find_run(options.output_dir, options.run_id)
    saved = saved_options.inherit(config.TrainingOptions, run / "config.json", {})
    tracking = {field.name: getattr(options, field.name) for field in dataclasses.fields(config.TrackingOptions)}
    options = dataclasses.replace(saved, **tracking, output_dir=options.output_dir)
    position, _ = state.read_position(run)
    with run.lock(), uploader.Uploader(run, options, position["step"] if position else 0) as sending:
        print("publishing: " + (", ".join(sending.missing()) or "curves; versions and state are there already"))
    return 2 if sending.failing or sending.missing() else 0


def prune(options):
    """Delete what wandb has of the run and nothing names any more: versions that were dropped from the run's list and
    are neither latest nor best, and training states but the newest."""

    if config.tracker(options) != "wandb":
        raise UserError("--prune works with wandb alone; trackio deletes nothing")
    run, run_id = catalog.find_run(options.output_dir, options.run_id), options.run_id
    tracker = trackers.connect(options, run_id)
    if not tracker.stores_files:
        raise UserError("--prune needs wandb online: unset WANDB_MODE")
    newest = tracker.find(trackers.STATES, f"{run_id}-latest")
    if max(catalog.steps_on_disk(run), default=-1) < (newest.metadata["step"] if newest else 0):
        raise UserError(
            f"--prune goes by the list of the machine that trains run {run_id}, and {tracker.name} has a newer state "
            f"than {run}: prune there, or resume the run here first"
        )
    kept = {"latest", "best", *catalog.read_version_index(run)["versions"]}
    if newest:
        kept.add(newest.metadata["version"])
    for collection in (trackers.VERSIONS, trackers.STATES):
        for artifact in tracker.listing(collection):
            about = artifact.metadata
            ours = {f"{run_id}-{about.get('version')}", "latest", artifact.version}
            # one that has an alias that is kept, or that somebody gave it by hand, stays
            if about.get("run_id") == run_id and {*artifact.aliases} <= ours - {f"{run_id}-{name}" for name in kept}:
                with trackers.blaming(tracker.name):
                    artifact.delete(delete_aliases=True)
                what = "state" if collection == trackers.STATES else about["version"]
                print(f"deleted {what} of update {about['step']} from {tracker.name}")
    return 0
