"""Trackers behind one small set of calls: wandb, trackio (the same calls, no account), tensorboard, or none.

    tracker = trackers.connect(options, run_id)
    artifact = tracker.find(trackers.VERSIONS, alias)             # None, or it has .metadata and can be downloaded
    tracker.start(folder, run_config, step)                       # the run of that id, new or resumed
    tracker.log(step, {"loss": 0.5}, {"samples": path})
    tracker.publish(trackers.VERSIONS, folder, aliases, metadata)
    tracker.finish()

What a library raises becomes a TrackerError, one line without the key.
"""

from __future__ import annotations

import os
import re

import config
from tracking.base import STATES, VERSIONS, Artifact, Collection, Tracker, TrackerError, tracker_errors
from tracking.tensorboard_tracker import TensorBoard
from tracking.trackio_tracker import Trackio
from tracking.wandb_tracker import Wandb, base_url, is_offline, require_key

__all__ = [  # connect and location, and what callers need of the modules beside this one
    "STATES",
    "VERSIONS",
    "Artifact",
    "Collection",
    "TensorBoard",
    "Tracker",
    "TrackerError",
    "Trackio",
    "Wandb",
    "can_store_files",
    "connect",
    "is_offline",
    "location",
    "require_key",
    "tracker_errors",
]


def connect(options: config.TrackingOptions, run_id: str) -> Tracker:
    """The tracker that the options name, for one run. Nothing is sent before start(). UserError if it has no key."""
    name = config.tracker(options)
    if name == "wandb":
        require_key(options)
        return Wandb(options, run_id, location(options))
    if name == "trackio":
        return Trackio(options, run_id, location(options))
    return TensorBoard() if name == "tensorboard" else Tracker()


def can_store_files(options: config.TrackingOptions) -> bool:
    """Whether the tracker that the options name takes files, and can be asked what it has: not wandb offline."""
    return config.tracker(options) in config.STORES and not (config.tracker(options) == "wandb" and is_offline())


def location(options: config.TrackingOptions) -> str:
    """Where the tracker that the options name keeps things: its name, server or folder, and project, without secrets.

    published.json tells one from another by it.
    """
    name = config.tracker(options)
    if name == "wandb":
        return f"wandb {'/'.join([public(base_url()), options.wandb_entity or '-', options.wandb_project])}"
    if name == "trackio":
        remote = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL", "").split("?")[0]
        return f"trackio {public(remote) or os.environ.get('TRACKIO_DIR', '-')}/{options.wandb_project}"
    return name


def public(url: str) -> str:
    """A server's address without the user and the password that may stand in it."""
    return re.sub(r"//[^/@\s]+@", "//", url)
