"""What all trackers have in common: their calls, their one kind of error, and the two collections of artifacts."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import config
from common.errors import UserError


class Collection(NamedTuple):
    """A collection of artifacts, shared by all runs of a project."""

    name: str
    type: str


VERSIONS = Collection("stable_diffusion_model", "model")  # complete pipelines
STATES = Collection("stable_diffusion_state", "state")  # what an exact resume needs
SECRETS = ("WANDB_API_KEY", "TRACKIO_SERVER_URL", "TRACKIO_WRITE_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SECRET_PATTERNS = (  # what comes before the secret is kept
    r"(//)[^/@\s]+(?=@)",  # https://user:password@host
    r"([?&;][\w-]*(?:key|token|secret|password|signature)[\w-]*=)[^&\s'\"]+",
    r"(\b(?:bearer|basic)\s+)[\w.+/=-]{16,}",
    r"(\bhf_)[A-Za-z0-9]{16,}",
)
UPLOAD_TIMEOUT = 24 * 3600  # seconds for the upload of one artifact


class Artifact(Protocol):
    """What the artifacts of wandb and trackio have in common. Nothing in one is to be trusted: see ArtifactInfo."""

    metadata: Any
    aliases: Sequence[str]
    version: str  # vN, the tracker's own count in the collection


class TrackerError(UserError):
    """The tracker can't be reached, or refuses; training goes on without it.

    remedy: what the user can do about it; "" if to try again later is all that can help. It is part of the message.
    """

    def __init__(self, message: str, remedy: str = ""):
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.remedy = remedy


@contextlib.contextmanager
def tracker_errors(name: str, remedies: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Turn whatever a tracker's library raises in the block into a TrackerError: one line, without the key.

    These libraries raise many kinds of errors, of network and of disk. A UserError passes through unchanged.
    remedies: {pattern in the library's message: what the user can do}; the first that is found counts.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as problem:
        reason = without_secrets(str(problem) or type(problem).__name__)
        remedy = next((text for pattern, text in remedies.items() if re.search(pattern, reason, re.IGNORECASE)), "")
        reason = textwrap.shorten(reason, 200, placeholder=" ...").rstrip(".")
        raise TrackerError(f"{name}: {reason}", remedy) from None


def without_secrets(text: str) -> str:
    """The text with *** for keys that the environment holds, and for what looks like one: credentials in an address,
    values of a key or token in a query or a header, and Hugging Face's tokens."""
    for secret in sorted(filter(None, map(os.environ.get, SECRETS)), key=len, reverse=True):
        text = text.replace(secret, "***")
    for pattern in SECRET_PATTERNS:
        text = re.sub(pattern, r"\1***", text, flags=re.IGNORECASE)
    return text


class Tracker:
    """The calls of a tracker. This one is no tracker: it logs nothing and has nothing."""

    name = "none"
    location = "none"  # where it keeps things, the key in published.json
    stores_files = False  # whether publish and find work
    how_to_view = ""  # how to see the curves, in words
    remedies: Mapping[str, str] = MappingProxyType({})  # see tracker_errors
    can_list = True  # whether list_artifacts works
    store: pathlib.Path | None = None  # the folder of published files, if it is on this machine

    def start(self, folder: pathlib.Path, run_config: Mapping[str, object], step: int) -> None:
        """Begin or resume the run. folder: the run's; step: the updates that it has done."""

    def last_step(self) -> int:
        """The last step that was logged, by this process or an earlier one; -1 if none was."""
        return -1

    def log(self, step: int, values: Mapping[str, float], pictures: Mapping[str, pathlib.Path]) -> None:
        """Log numbers and PNG files {name: path} of a step, which must not be lower than that of the last call."""

    def log_scores(self, step: int, values: Mapping[str, float]) -> None:
        """Log scores of the version that was saved at `step`, which may be long past."""

    def find(self, collection: Collection, alias: str) -> Artifact | None:
        """The artifact that has the alias now, or None."""

    def list_artifacts(self, collection: Collection) -> Sequence[Artifact]:
        """Every artifact of the collection, of all runs of the project; [] if there is none."""
        return []

    def delete(self, artifact: Artifact) -> None:
        """Delete an artifact, with its aliases. Only wandb can."""
        raise NotImplementedError

    def finish(self) -> None:
        """Send what is buffered and close the run."""


class ArtifactTracker(Tracker):
    """The calls that wandb and trackio share, since their libraries have the same names for them."""

    stores_files = True
    library: Any  # the module wandb or trackio

    def __init__(self, options: config.TrackingOptions, run_id: str, location: str):
        self.options, self.run_id, self.location = options, run_id, location
        self.run: Any = None  # the library's run, once it has started

    def log(self, step: int, values: Mapping[str, float], pictures: Mapping[str, pathlib.Path]) -> None:
        with tracker_errors(self.name, self.remedies):
            images = {name: self.library.Image(str(path)) for name, path in pictures.items()}
            self.run.log({**values, **images}, step=step)

    def publish(
        self, collection: Collection, folder: pathlib.Path, aliases: Sequence[str], metadata: Mapping[str, object]
    ) -> None:
        """Upload the files of `folder` as the next artifact of the collection; returns when they are stored.

        Files that the collection has already are not sent again. An alias leaves the artifact that had it.
        """
        with tracker_errors(self.name, self.remedies):
            artifact = self.library.Artifact(collection.name, type=collection.type, metadata=metadata)
            self.add_folder(artifact, folder)
            self.run.log_artifact(artifact, aliases=aliases).wait(timeout=UPLOAD_TIMEOUT)

    @staticmethod
    def add_folder(artifact: Any, folder: pathlib.Path) -> None:
        """Add the files of a folder to an artifact of the library that is not published yet."""
        raise NotImplementedError

    @staticmethod
    def download(artifact: Any, folder: pathlib.Path) -> None:
        """Download the files of an artifact into a folder. Raises what the library raises."""
        raise NotImplementedError

    def finish(self) -> None:
        if self.run is not None:
            with tracker_errors(self.name, self.remedies):
                self.run.finish()
