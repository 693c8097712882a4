"""Curves, pictures and artifacts in wandb, and its key."""

from __future__ import annotations

import netrc
import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import config
from common.errors import UserError
from common.files import remove
from tracking.base import Artifact, ArtifactTracker, Collection, TrackerError, tracker_errors

OFFLINE = ("offline", "dryrun")  # values of WANDB_MODE
CONNECT_TIMEOUT = 30  # seconds in which wandb must answer when a run starts
# What wandb's server says -> what the user can do about it
REMEDIES = {
    r"previously created and deleted": "the run was deleted there, and wandb takes no id twice in a project. Undelete "
    "it (project overview, Undelete recently deleted runs), or use another --wandb_project",
    r"entity \S* ?not found|not found during upsertBucket": "wandb has no such user or team: correct --wandb_entity, "
    "or leave it out for your own",
    r"permission denied|PERMISSION_ERROR|\b403\b|do not have permission": "the user of this key may not write "
    "there: use another --wandb_entity or --wandb_project, or ask the project's owner for access",
    r"\b401\b|not logged in|unauthorized|invalid api key": "wandb does not know this key: set WANDB_API_KEY to one of "
    "wandb.ai/authorize, or give --wandb_key",
}


def is_offline() -> bool:
    """Whether wandb only keeps curves for `wandb sync`, and no server is asked."""
    return os.environ.get("WANDB_MODE") in OFFLINE


def require_key(options: config.TrackingOptions) -> None:
    """UserError if wandb is to be used and its key is missing or too short: known before the long work."""
    key = os.environ.get("WANDB_API_KEY")
    if config.tracker(options) != "wandb" or is_offline():
        return
    if key and len(key) < 40:
        raise UserError("the wandb key is too short, it has 40 letters and digits or more: see wandb.ai/authorize")
    if not (key or has_login()):
        raise UserError(
            "wandb has no key: set WANDB_API_KEY, give --wandb_key, run `wandb login` once, or use --tracker none"
        )


def has_login() -> bool:
    """Whether the user's .netrc has a key for the server, as `wandb login` leaves it there."""
    host = urllib.parse.urlparse(base_url()).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def base_url() -> str:
    """The address of the wandb server."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


class Wandb(ArtifactTracker):
    """wandb, online; with WANDB_MODE=offline curves and pictures for `wandb sync`, and no files."""

    name = "wandb"
    remedies = REMEDIES

    def __init__(self, options: config.TrackingOptions, run_id: str, location: str):
        super().__init__(options, run_id, location)
        self.offline = is_offline()
        self.stores_files = not self.offline
        self.synced_step = -1  # offline: the last step that `wandb sync` may have sent already
        os.environ.setdefault("WANDB_SILENT", "true")  # read at import; its many notes would break the progress bars
        with tracker_errors(self.name, self.remedies):
            import wandb

            self.library = wandb

    def start(self, folder: pathlib.Path, run_config: Mapping[str, object], step: int) -> None:
        if self.offline:
            self.synced_step = self.replace_offline_runs(folder, step)
        settings = self.library.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            init_timeout=CONNECT_TIMEOUT,  # seconds; the defaults wait for hours or days where there is no network
            finish_timeout=CONNECT_TIMEOUT,
            finish_timeout_raises=True,
            x_graphql_retry_max=3,
            x_graphql_retry_wait_max_seconds=CONNECT_TIMEOUT / 5,
        )
        with tracker_errors(self.name, self.remedies):
            try:
                self.run = self.library.init(
                    project=self.options.wandb_project,
                    entity=self.options.wandb_entity,
                    id=self.run_id,
                    name=self.run_id,
                    resume="allow",
                    config=run_config,
                    dir=folder,
                    settings=settings,
                )
            except Exception:
                self.library.teardown()  # or the next try fails because the id is in use
                raise
        self.how_to_view = f"offline, {pathlib.Path(self.run.dir).parent}" if self.offline else self.run.url

    def replace_offline_runs(self, folder: pathlib.Path, step: int) -> int:
        """Make way for a new offline run in the run's folder; returns the last step that it leaves out.

        The new one logs every step again and replaces the earlier ones: -1. If one of those was synced they all stay,
        and the new one goes on after the `step` updates that are done.
        """
        earlier = list(folder.glob(f"wandb/offline-run-*-{self.run_id}"))
        if any(list(run.glob("*.synced")) for run in earlier):
            return step
        for run in earlier:
            remove(run)
        return -1

    def last_step(self) -> int:
        return self.synced_step if self.offline else self.run.starting_step - 1

    @staticmethod
    def not_asked() -> TrackerError:
        """The error for what needs wandb's server."""
        return TrackerError(f"wandb is offline (WANDB_MODE={os.environ.get('WANDB_MODE')})", "unset WANDB_MODE")

    def path(self, name: str) -> str:
        """project/name or entity/project/name."""
        return "/".join(filter(None, [self.options.wandb_entity, self.options.wandb_project, name]))

    def log_scores(self, step: int, values: Mapping[str, float]) -> None:
        if self.offline:
            raise self.not_asked()
        with tracker_errors(self.name, self.remedies):
            self.library.Api().run(self.path(self.run_id)).summary.update(values)

    def find(self, collection: Collection, alias: str) -> Artifact | None:
        if self.offline:
            raise self.not_asked()
        with tracker_errors(self.name, self.remedies):
            try:
                return self.library.Api().artifact(self.path(f"{collection.name}:{alias}"), type=collection.type)
            except self.library.errors.CommError as problem:
                if "not found" in str(problem):
                    return None
                raise

    def list_artifacts(self, collection: Collection) -> Sequence[Artifact]:
        if self.offline:
            raise self.not_asked()
        with tracker_errors(self.name, self.remedies):
            try:
                return list(self.library.Api().artifacts(collection.type, self.path(collection.name)))
            except (ValueError, self.library.errors.CommError) as problem:
                # the second is its message where a project has no such collection yet
                if "not found" in str(problem) or "Unable to parse 'Artifacts'" in str(problem):
                    return []
                raise

    def delete(self, artifact: Any) -> None:
        with tracker_errors(self.name, self.remedies):
            artifact.delete(delete_aliases=True)

    @staticmethod
    def add_folder(artifact: Any, folder: pathlib.Path) -> None:
        # "immutable" and skip_cache, or else the disk would hold every file three times
        artifact.add_dir(str(folder), policy="immutable", skip_cache=True)

    @staticmethod
    def download(artifact: Any, folder: pathlib.Path) -> None:
        artifact.download(root=str(folder), skip_cache=True)
