"""The layout of a run's folder, named here and nowhere else, and the lock on it. (wandb/ and tensorboard/ are theirs.)

runs/<run_id>/config.json        the options
              started.json       when it was last started or resumed
              environment.json   commit, libraries and device of each start
              metrics.jsonl      losses and the like, a line each (metrics_log.py)
              samples/           previews
              frozen/            the parts that are not trained; versions hard-link them (old runs: untouched/)
              versions/v1 ...    each loads with StableDiffusionPipeline.from_pretrained
              versions.json      the versions with step and validation loss, and the aliases latest and best
              scores.json        their scores
              state/000000040/   trained weights as they are trained, their average, optimizer, position.json; the state
                                 before it stays, too, and damaged-000000040 is one that was set aside
              covers/            what sd_inference draws, unless --save_dir says otherwise
              fetched/           versions that came from a tracker, with a versions.json of their own
              published.json     what a tracker has (tracking/published.py)
              upload/            what is being uploaded

frozen/, each version and each state have a sha256.json (common/manifest.py). A version's model card (CARD_FILES) is not
in it: the card changes when the version is scored.
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from common.errors import UserError
from common.locks import file_lock

POSITION = "position.json"  # in a state folder: the TrainingState
# In a version's folder: its model card, the picture in it, and what it says as JSON (publishing/)
CARD_FILES = MODEL_CARD, CARD_PICTURE, CARD_FACTS = "README.md", "covers.png", "model_card.json"
FREE_SPACE_HINT = (
    "what was saved before is intact; free some space (old runs, --keep_versions), then go on with --run_id"
)


@dataclass(frozen=True)
class RunFolder(os.PathLike):
    """runs/<run_id>/, whether it exists yet or not. In messages and for the operating system it is its path."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        """Any other path in it."""
        return self.path / name

    @property
    def name(self) -> str:
        """The run's id."""
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def started(self) -> Path:
        return self.path / "started.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def frozen(self) -> Path:
        """The parts that are not trained. Runs of before version 0.2 keep them in untouched/."""
        old = self.path / "untouched"
        return old if old.exists() else self.path / "frozen"

    @property
    def versions(self) -> Path:
        return self.path / "versions"

    def version(self, name: str) -> Path:
        return self.versions / name

    @property
    def version_index(self) -> Path:
        return self.path / "versions.json"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def states(self) -> Path:
        return self.path / "state"

    def state(self, step: int) -> Path:
        """The folder of the training state after `step` optimizer updates."""
        return self.states / f"{step:09d}"

    def state_folders(self) -> dict[int, Path]:
        """{step: folder} of the training states, oldest first, whole or not. Other names (a copy) are not ours."""
        folders = [folder for folder in self.states.glob("[0-9]*") if re.fullmatch("[0-9]{9}", folder.name)]
        return {int(folder.name): folder for folder in sorted(folders)}

    def saved_steps(self) -> list[int]:
        """The steps of the training states that have their last file, oldest first."""
        return [step for step, folder in self.state_folders().items() if (folder / POSITION).is_file()]

    def damaged_state(self, step: int) -> Path:
        """Where a damaged training state is set aside."""
        return self.states / f"damaged-{step:09d}"

    @property
    def covers(self) -> Path:
        return self.path / "covers"

    @property
    def published(self) -> Path:
        return self.path / "published.json"

    @property
    def fetched(self) -> RunFolder:
        """A folder with versions/ and versions.json of its own, which training never touches."""
        return RunFolder(self.path / "fetched")

    @property
    def upload(self) -> Path:
        return self.path / "upload"

    @property
    def fetch_lock(self) -> Path:
        """The lock file of a download into this folder: several processes may start at once."""
        return self.path / ".fetch.lock"

    def lock(self) -> AbstractContextManager[Any]:
        """The run's lock, held: a context manager that lets go. UserError if another process holds it.

        It keeps a second process from training the same run; the operating system drops it with the process.
        """
        try:
            return file_lock(self.path / ".lock", timeout=0)
        except filelock.Timeout:
            raise UserError(f"another process is training run {self.name}: wait for it or stop it") from None
        except OSError as problem:
            raise UserError(f"can't work in the run folder {self}: {problem}; choose another --output_dir") from None
