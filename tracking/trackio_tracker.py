"""Curves, pictures and artifacts in trackio."""

from __future__ import annotations

import contextlib
import os
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import config
from tracking.base import Artifact, ArtifactTracker, Collection, TrackerError, tracker_errors


class Trackio(ArtifactTracker):
    """trackio: local, in TRACKIO_DIR; or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say."""

    name = "trackio"

    def __init__(self, options: config.TrackingOptions, run_id: str, location: str):
        super().__init__(options, run_id, location)
        with tracker_errors(self.name):
            import trackio
            import trackio.run

            for module in (trackio, trackio.run, trackio.utils):  # they announce every start and end on standard output
                module.print = lambda *_, **__: None
            self.library = trackio
            if not (os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")):
                self.store = pathlib.Path(trackio.utils.TRACKIO_DIR)
                self.store.mkdir(parents=True, exist_ok=True)

    @property
    def can_list(self) -> bool:  # type: ignore[override]
        return self.store is not None

    def start(self, folder: pathlib.Path, run_config: Mapping[str, object], step: int) -> None:
        with tracker_errors(self.name):
            self.open(config=run_config, resume="allow")
        self.how_to_view = f"trackio show --project {self.options.wandb_project}"

    def open(self, **how: Any) -> None:
        """Set self.run. ValueError if `how` says that the run must exist, and it does not."""
        self.run = self.library.init(
            self.options.wandb_project, name=self.run_id, embed=False, auto_log_cpu=False, **how
        )

    def last_step(self) -> int:
        # no public call returns it; without it a run that was killed and resumed would log some steps twice
        return self.run._next_step - 1

    def log_scores(self, step: int, values: Mapping[str, float]) -> None:
        with tracker_errors(self.name):
            if self.run is None:
                self.open(resume="must")
        self.log(min(step, max(self.last_step(), 0)), values, {})  # never ahead of curves that are still to come

    def find(self, collection: Collection, alias: str) -> Artifact | None:
        with tracker_errors(self.name):
            try:
                if self.run is None:
                    self.open(resume="must")
                return self.run.use_artifact(f"{collection.name}:{alias}", type=collection.type)
            except ValueError as problem:
                if "not found" in str(problem) or "does not exist" in str(problem):  # the alias, or the run
                    return None
                raise

    def list_artifacts(self, collection: Collection) -> Sequence[Artifact]:
        if self.store is None:
            raise TrackerError("trackio: what a server or a Space has can't be listed")
        with tracker_errors(self.name):
            from trackio.sqlite_storage import SQLiteStorage

            project = self.options.wandb_project
            newest = {found["name"]: found["latest_version"] for found in SQLiteStorage.list_artifacts(project)}
            manifests = (
                SQLiteStorage.get_artifact_manifest(project, collection.name, f"v{i}")
                for i in range(newest.get(collection.name, -1) + 1)
            )
            return [types.SimpleNamespace(**manifest) for manifest in manifests]

    @staticmethod
    def add_folder(artifact: Any, folder: pathlib.Path) -> None:
        artifact.add_dir(str(folder))

    @staticmethod
    def download(artifact: Any, folder: pathlib.Path) -> None:
        artifact.download(str(folder))

    def finish(self) -> None:
        super().finish()
        with contextlib.suppress(RuntimeError):  # or it finishes "the current run" once more at exit
            self.library.finish()
