"""published.json: which versions and which training state were sent to each tracker, of a run.

It is a note of what was sent, not the truth: trackers lose things. What one has now is asked when an uploader connects
and when runs are listed (tracking/asking.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from checkpoints.run_folder import RunFolder
from common.errors import UserError
from common.files import read_json, write_json
from common.locks import locked

STATE = "state"  # stands beside the names of versions
REMEDY = "delete it: what it records is then uploaded or downloaded once more"


@dataclass(frozen=True)
class Published:
    """What one tracker has of a run."""

    versions: dict[str, int] = field(default_factory=dict)  # name -> its step, in optimizer updates
    aliases: dict[str, str] = field(default_factory=dict)  # alias -> name of the version that has it
    state: int | None = None  # step of the newest training state, None if it has none

    def to_json(self) -> dict[str, object]:
        """The record as it stands in published.json."""
        return {"versions": self.versions, "aliases": self.aliases, "state": self.state}

    @classmethod
    def from_json(cls, value: object) -> Published:
        """The inverse of to_json; a missing key takes its default. ValueError says which key has the wrong type."""
        if not isinstance(value, dict):
            raise ValueError("expected one object for each tracker")
        record = cls(**{key.name: value[key.name] for key in dataclasses.fields(cls) if key.name in value})
        if not (isinstance(record.versions, dict) and all(map(is_step, record.versions.values()))):
            raise ValueError("'versions' must map names to whole numbers >= 0")
        if not (isinstance(record.aliases, dict) and all(isinstance(name, str) for name in record.aliases.values())):
            raise ValueError("'aliases' must map aliases to names of versions")
        if not (record.state is None or is_step(record.state)):
            raise ValueError("'state' must be a whole number >= 0, or null")
        return record

    def with_version(self, name: str, step: int, aliases: Sequence[str] = ()) -> Published:
        """This record with a version added under these aliases, which leave the versions that had them."""
        return dataclasses.replace(
            self, versions=self.versions | {name: step}, aliases=self.aliases | dict.fromkeys(aliases, name)
        )

    def without_version(self, name: str) -> Published:
        """This record without a version; its aliases stay, since the tracker has not moved them."""
        return dataclasses.replace(self, versions={v: step for v, step in self.versions.items() if v != name})

    def confirmed_by(self, asked: Published) -> Published:
        """What of this record the tracker confirmed when it was asked. Its aliases are taken as they are there now.

        A version or state of another step there is another one: a run that was resumed from an older state uses names
        again.
        """
        versions = {name: step for name, step in self.versions.items() if asked.versions.get(name) == step}
        return Published(versions, asked.aliases, self.state if asked.state == self.state else None)


def is_step(value: object) -> TypeGuard[int]:
    """Whether a JSON value counts optimizer updates: a whole number >= 0, neither a float nor a boolean."""
    return type(value) is int and value >= 0


def read_all_published(run: RunFolder) -> dict[str, Published]:
    """{tracker's location: what it has} from <run>/published.json; {} if there is no such file.

    UserError if the file can't be read or has another shape.
    """
    path = run.published
    if not path.exists():
        return {}
    try:
        raw = read_json(path)
    except UserError as problem:
        raise UserError(f"{problem}; {REMEDY}") from None
    try:
        if not all(location.strip() for location in raw):
            raise ValueError("a tracker has no name")
        return {location: Published.from_json(value) for location, value in raw.items()}
    except ValueError as problem:
        raise UserError(f"can't read {path}: {problem}; {REMEDY}") from None


def change_published(run: RunFolder, change: Callable[[dict[str, Published]], dict[str, Published]]) -> None:
    """Replace <run>/published.json by change(what it says); it is locked, since other processes may write it."""
    with locked(run.published):
        changed = change(read_all_published(run))
        write_json(run.published, {location: record.to_json() for location, record in changed.items()})


def read_published(run: RunFolder, location: str) -> Published:
    """What the tracker at `location` (see trackers.location) was sent of the run."""
    return read_all_published(run).get(location, Published())


def record_published(run: RunFolder, location: str, name: str, step: int, aliases: Sequence[str] = ()) -> None:
    """Record that the tracker at `location` now has the version `name` of `step` under these aliases, or the training
    state of `step` if the name is STATE."""

    def add(published: dict[str, Published]) -> dict[str, Published]:
        old = published.get(location, Published())
        new = dataclasses.replace(old, state=step) if name == STATE else old.with_version(name, step, aliases)
        return published | {location: new}

    change_published(run, add)


def forget_version(run: RunFolder, name: str) -> None:
    """Record that no tracker has the version `name`: another version has just been saved under that name."""
    if any(name in record.versions for record in read_all_published(run).values()):
        change_published(run, lambda published: {at: has.without_version(name) for at, has in published.items()})


def correct_published(run: RunFolder, location: str, asked: Published) -> None:
    """Record what the tracker at `location` answered, so that what it has lost is uploaded again."""
    if location in read_all_published(run):
        change_published(run, lambda published: published | {location: published[location].confirmed_by(asked)})
