"""What a tracker has of a run now: published.json is only a note of what was sent, and trackers lose things."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from common.errors import UserError
from tracking import trackers
from tracking.artifact_info import ArtifactInfo
from tracking.base import Artifact, Collection
from tracking.published import Published


def find_artifact(
    tracker: trackers.Tracker, collection: Collection, run_id: str, alias: str
) -> tuple[Artifact, ArtifactInfo] | None:
    """The artifact that has an alias (vN, latest or best) of a run, with its metadata; None if there is none.

    UserError if the metadata is not what this project writes.
    """
    artifact = tracker.find(collection, f"{run_id}-{alias}")
    return (artifact, ArtifactInfo.from_metadata(artifact.metadata, tracker.name)) if artifact else None


def list_versions(tracker: trackers.Tracker, run_id: str | None = None) -> list[tuple[Artifact, ArtifactInfo]]:
    """Every version in the tracker's project, of one run or of all, by one call; artifacts that are none of ours are
    passed over. TrackerError if the tracker can't list or can't be reached."""
    found = []
    for artifact in tracker.list_artifacts(trackers.VERSIONS):
        with contextlib.suppress(UserError):
            info = ArtifactInfo.from_metadata(artifact.metadata, tracker.name)
            if run_id in (None, info.run_id):
                found.append((artifact, info))
    return found


def ask_tracker(tracker: trackers.Tracker, run_id: str, names: Iterable[str]) -> Published:
    """What the tracker has of a run now: one call for the versions and one for the training state.

    names: versions and aliases, which are looked for one by one if the tracker can't list. TrackerError if it can't be
    reached, UserError if somebody else has written the state.
    """
    state = find_artifact(tracker, trackers.STATES, run_id, "latest")
    if tracker.can_list:
        found = list_versions(tracker, run_id)
    else:
        found = [one for name in names if (one := find_artifact(tracker, trackers.VERSIONS, run_id, name))]
    versions: dict[str, int] = {}
    aliases: dict[str, str] = {}
    for artifact, info in found:
        own = info.own_aliases(artifact.aliases)
        aliases |= dict.fromkeys(own, info.version)
        if info.version in own:  # or another artifact has taken the name
            versions[info.version] = info.step
    return Published(versions, aliases, state[1].step if state else None)
