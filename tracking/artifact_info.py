"""What artifacts in a tracker say of themselves, checked: anybody with access to the project can have written it.

Names of versions become names of folders, and what a downloaded version index does not list is deleted: nothing of it
is joined to a path before it was checked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

from checkpoints.records import SAVED_VERSION, is_loss
from common.errors import UserError
from tracking.published import is_step

ALIAS = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"  # latest, best, or one that somebody gave by hand
SHA256 = r"[0-9a-f]{64}"
MAX_STEP = 10**9  # state folders are named by nine digits
MAX_SIZE = 2**62  # bytes


class FileInfo(NamedTuple):
    """Size and hash of one file of an artifact; a list of two in JSON."""

    size: int  # bytes
    sha256: str  # 64 hexadecimal digits


@dataclass(frozen=True)
class ArtifactInfo:
    """The metadata of one artifact: a version, or a training state."""

    run_id: str
    version: str  # of a training state: the version that it continues from
    step: int  # optimizer updates
    files: dict[str, FileInfo]  # relative path, parts joined by '/' -> size and hash
    validation_loss: float | None = None  # versions only; None if it was saved without one
    options: dict | None = None  # versions only: the run's config.json

    @classmethod
    def from_metadata(cls, metadata: object, source: str) -> ArtifactInfo:
        """The record in an artifact's metadata; keys that it does not know are ignored.

        source: the tracker's name, for the message. UserError if anything is missing or not what pack() writes.
        """
        if not isinstance(metadata, Mapping):
            raise not_ours(f"{source} has an artifact without metadata")
        run_id, options = metadata.get("run_id"), metadata.get("options")
        if not is_run_id(run_id):
            raise not_ours(f"{source} has an artifact of a run called {shorten(run_id)}")
        artifact = f"{source} has an artifact of run {run_id}"
        if not is_version_name(metadata.get("version")):
            raise not_ours(f"{artifact} with a version called {shorten(metadata.get('version'))}")
        if not (is_step(metadata.get("step")) and metadata["step"] < MAX_STEP):
            raise not_ours(f"{artifact} of step {shorten(metadata.get('step'))}")
        if not is_loss(metadata.get("validation_loss")):
            raise not_ours(f"{artifact} with a validation loss of {shorten(metadata['validation_loss'])}")
        if not (options is None or isinstance(options, Mapping)):
            raise not_ours(f"{artifact} with options {shorten(options)}")
        return cls(
            run_id=run_id,
            version=metadata["version"],
            step=metadata["step"],
            files=parse_files(metadata.get("files"), artifact),
            validation_loss=metadata.get("validation_loss"),
            options=None if options is None else dict(options),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files.values())

    def own_aliases(self, aliases: object) -> list[str]:
        """Those of the artifact's aliases in the tracker that are this run's, without the run's id."""
        start = f"{self.run_id}-"
        found = [alias for alias in aliases if isinstance(alias, str)] if isinstance(aliases, list | tuple) else []
        ours = [alias.removeprefix(start) for alias in found if alias.startswith(start)]
        return [alias for alias in ours if re.fullmatch(ALIAS, alias)]

    def require_files(self, names: Iterable[str], source: str) -> None:
        """UserError if the artifact lacks one of these files, which pack() always adds."""
        for name in names:
            if name not in self.files:
                raise not_ours(f"{source} has an artifact of run {self.run_id} without {name}")


def parse_files(value: object, artifact: str) -> dict[str, FileInfo]:
    """{path: FileInfo} from {path: [size, sha256]}. UserError, which begins with `artifact`, if it is anything else."""
    if not isinstance(value, Mapping):
        raise not_ours(f"{artifact} with files {shorten(value)}")
    files = {}
    for path, entry in value.items():
        if not is_relative_path(path):
            raise not_ours(f"{artifact} with a file called {shorten(path)}")
        if not (isinstance(entry, list | tuple) and len(entry) == 2 and is_size(entry[0]) and is_sha256(entry[1])):
            raise not_ours(f"{artifact} with size and SHA-256 {shorten(entry)} for {path}")
        files[path] = FileInfo(*entry)
    return files


def is_version_name(value: object) -> TypeGuard[str]:
    """Whether a value is the name of a saved version: 'v' and digits."""
    return isinstance(value, str) and SAVED_VERSION.fullmatch(value) is not None


def is_run_id(value: object) -> TypeGuard[str]:
    """Whether a value can be the name of a run's folder: one printable part of a path."""
    if not (isinstance(value, str) and value.isprintable() and 0 < len(value) < 256):
        return False
    return not {"/", "\\"} & {*value} and value not in (".", "..")


def is_relative_path(value: object) -> bool:
    """Whether a value is the path of a file inside a folder: relative, without '..', parts joined by '/'."""
    if not (isinstance(value, str) and value.isprintable() and value) or {"\\", ":"} & {*value}:
        return False
    return not value.startswith("/") and not {"", ".", ".."} & {*value.split("/")}


def is_size(value: object) -> bool:
    """Whether a value counts bytes."""
    return is_step(value) and value <= MAX_SIZE


def is_sha256(value: object) -> bool:
    """Whether a value is a SHA-256 in lower-case hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch(SHA256, value) is not None


def shorten(value: object) -> str:
    """A value as Python writes it, at most 60 characters of it, on one line."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def not_ours(what: str) -> UserError:
    """The error for an artifact that this project did not write."""
    return UserError(f"{what}: that is none of ours")
