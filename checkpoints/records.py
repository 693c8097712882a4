"""What a run's JSON files hold, as records: versions.json -> VersionIndex, state/*/position.json -> TrainingState.

Keys on disk are those of the first runs, so that old and new versions of the project read each other's: "window" is
global_batch_size, "ledger" the version index. Any other shape is a UserError: one line that names the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError

ALIASES = ("latest", "best")
SAVED_VERSION = re.compile(r"v[1-9]\d{0,8}")  # v0 is the pretrained model
LARGEST_LOSS = 1e300  # JSON has whole numbers that no float can hold
PRECISIONS = ("no", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class SavedVersion:
    """One version of a run."""

    step: int  # optimizer updates done
    validation_loss: float | None  # None: saved on a signal, between two validations

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "validation_loss": self.validation_loss}


@dataclass(frozen=True)
class VersionIndex:
    """The versions that a run keeps, oldest first, and the aliases latest and best."""

    versions: dict[str, SavedVersion] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)  # alias -> version

    def aliases_of(self, name: str) -> list[str]:
        """Which of latest and best the version is."""
        return [alias for alias, version in self.aliases.items() if version == name]

    def with_version(self, step: int, validation_loss: float | None, keep_versions: int) -> tuple[VersionIndex, str]:
        """(the index with the next version, its name): aliases set; versions that keep_versions does not keep dropped.

        'best' is the lowest validation loss; versions saved without one (on a signal) can't be it.
        """
        versions = dict(self.versions)
        name = f"v{1 + max((int(v[1:]) for v in versions), default=0)}"
        versions[name] = SavedVersion(step, validation_loss)
        aliases = {"latest": name}
        if best := best_of(versions):
            aliases["best"] = best
        others = [v for v in versions if v not in aliases.values()]
        for old in others[: max(0, len(others) - keep_versions)]:
            del versions[old]
        return VersionIndex(versions, aliases), name

    def without_versions(self, names: Collection[str]) -> VersionIndex:
        """The index without these versions; one that was the best leaves that to the best of the others."""
        versions = {name: version for name, version in self.versions.items() if name not in names}
        aliases = {alias: name for alias, name in self.aliases.items() if name in versions}
        if best := best_of(versions):
            aliases["best"] = best
        return VersionIndex(versions, aliases)

    def to_json(self) -> dict[str, Any]:
        return {"versions": {name: v.to_json() for name, v in self.versions.items()}, "aliases": self.aliases}

    @classmethod
    def from_json(cls, value: Any, path: Path, remedy: str) -> VersionIndex:
        """UserError, with the remedy, unless `value` has the right shape. No name in it can lead out of a folder."""

        def require(ok: bool, what: str) -> None:
            if not ok:
                raise UserError(f"can't read {path}: {what}; {remedy}")

        require(isinstance(value, dict), "it lists no versions")
        found, aliases = value.get("versions"), value.get("aliases")
        require(isinstance(found, dict) and isinstance(aliases, dict), "it lists no versions")
        versions = {}
        for name, entry in found.items():
            require(SAVED_VERSION.fullmatch(name) is not None, f"{name!r} is no version")
            ok = isinstance(entry, dict) and is_count(entry.get("step")) and "validation_loss" in entry
            require(ok and is_loss(entry["validation_loss"]), f"what it says of {name} is damaged")
            versions[name] = SavedVersion(entry["step"], entry["validation_loss"])
        for alias, name in aliases.items():
            require(alias in ALIASES and isinstance(name, str) and name in versions, f"the alias {alias!r} is damaged")
        return cls(versions, dict(aliases))


def best_of(versions: Mapping[str, SavedVersion]) -> str | None:
    """The version with the lowest validation loss, the first of equals; None if none was validated."""
    losses = {name: entry.validation_loss for name, entry in versions.items() if entry.validation_loss is not None}
    return min(losses, key=lambda name: losses[name]) if losses else None


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands: all that an exact resume needs besides tensors."""

    step: int  # optimizer updates done
    global_batch_size: int  # samples of an optimizer update, over all processes and accumulated batches
    precision: str  # of the arithmetic: no, bf16, fp16
    save_dtype: str  # of the weights in versions
    fingerprint: str  # of the data
    version_index: VersionIndex
    batch_size: int | None = None  # with buckets: that of the first start, which the order of the data comes from
    total: int = 0  # optimizer updates after which the run is complete
    start_loss: float = math.nan  # validation loss of the pretrained model; NaN before it was measured

    def to_json(self) -> dict[str, Any]:
        value = {
            "step": self.step,
            "window": self.global_batch_size,
            "precision": self.precision,
            "save_dtype": self.save_dtype,
            "fingerprint": self.fingerprint,
            "ledger": self.version_index.to_json(),
        }
        if self.batch_size is not None:
            value["batch_size"] = self.batch_size
        return value | {"total": self.total, "start_loss": self.start_loss}

    @classmethod
    def from_json(cls, value: dict[str, Any], path: Path) -> TrainingState:
        """UserError unless `value` has the right shape."""
        remedy = f"run {path.parent.parent.parent.name} can't be resumed from it"
        shapes = {
            "step": is_count,
            "window": is_positive,
            "precision": lambda word: word in PRECISIONS,
            "save_dtype": lambda word: word in PRECISIONS,
            "fingerprint": lambda text: isinstance(text, str),
            "total": is_positive,
            "start_loss": lambda loss: loss is not None and is_loss(loss),
            "batch_size": lambda size: size is None or is_positive(size),
        }
        for key, right in shapes.items():
            if not right(value.get(key)):
                raise UserError(f"{path} is damaged ({key}): {remedy}")
        index = VersionIndex.from_json(value.get("ledger"), path, remedy)
        if "latest" not in index.aliases:
            raise UserError(f"{path} is damaged (no latest version): {remedy}")
        return cls(
            step=value["step"],
            global_batch_size=value["window"],
            precision=value["precision"],
            save_dtype=value["save_dtype"],
            fingerprint=value["fingerprint"],
            version_index=index,
            batch_size=value.get("batch_size"),
            total=value["total"],
            start_loss=value["start_loss"],
        )


def is_count(value: Any) -> bool:
    """A whole number of 0 or more. (JSON's true is Python's 1.)"""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9


def is_positive(value: Any) -> bool:
    return is_count(value) and value > 0


def is_loss(value: Any) -> bool:
    """A finite number, or None."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (number and abs(value) < LARGEST_LOSS)
