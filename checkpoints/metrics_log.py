"""metrics.jsonl: losses, speed, memory and previews of a run, one JSON object a line, each with its "step".

The run folder's file is written first; tracking/uploader.py passes it on to wandb, trackio or tensorboard.
"""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

from checkpoints.records import is_count
from checkpoints.run_folder import FREE_SPACE_HINT
from common.files import write_error, write_text


class MetricsLog:
    """Appends to a metrics.jsonl. Opening it at a step drops the lines of later steps, so the file of a resumed run
    reads like that of a run left alone."""

    def __init__(self, path: pathlib.Path, step: int, write: bool = True):
        """step: optimizer updates done; at 0 the file starts empty. write: False, for all processes but the first, logs
        nothing."""
        self.file = None
        if write:
            lines = [line for line in read_metrics(path) if line["step"] <= step and step > 0]
            write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
            self.file = path.open("a", encoding="utf-8")

    def log(self, step: int, **values: object) -> None:
        """Append a line {"step": step, **values}; values are what JSON can hold, or floats that are not finite, which
        become null. UserError if it can't be written."""
        if self.file:
            line = json.dumps({"step": step, **finite_or_none(values)}, allow_nan=False)
            try:
                self.file.write(line + "\n")
                self.file.flush()
            except OSError as problem:
                raise write_error(self.file.name, problem, FREE_SPACE_HINT) from None


def read_metrics(path: pathlib.Path) -> list[dict]:
    """The objects in a metrics.jsonl; [] if there is no such file. Damaged lines (say, cut short) are left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [value for value in map(parse_line, text.splitlines()) if value]


def parse_line(text: str) -> dict | None:
    """The object in a line of metrics.jsonl, or None if the line is damaged."""
    try:
        value = finite_or_none(json.loads(text))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and is_count(value.get("step")) else None


def finite_or_none(value: Any) -> Any:
    """A JSON value with None for each number that is not finite, however deep: JSON knows none, and a chart neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [finite_or_none(each) for each in value]
    if isinstance(value, dict):
        return {key: finite_or_none(each) for key, each in value.items()}
    return value


class MetricsTail:
    """Reads a metrics.jsonl while it grows: each step once, with the values of all of its lines."""

    def __init__(self, path: pathlib.Path, after: int):
        """after: steps up to this one are left out."""
        self.path, self.after = path, after
        self.offset = 0  # bytes read so far
        self.newest: dict = {}  # "step" and values of the newest step, as far as its lines were read

    def steps(self, complete: bool = False) -> Iterator[tuple[int, dict]]:
        """Yield (step, {name: value}) for the steps that were added since the last call.

        The newest is held back, since more lines of it may come, unless complete=True.
        """
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
            file.seek(self.offset)
            whole_lines, end, _ = file.read().rpartition(b"\n")
            self.offset += len(whole_lines + end)
            for value in map(parse_line, whole_lines.decode("utf-8", "replace").splitlines()):
                if value and value["step"] > self.after:
                    if self.newest and value["step"] != self.newest["step"]:
                        yield self.pop_newest()
                    self.newest |= value
        if complete and self.newest:
            yield self.pop_newest()

    def pop_newest(self) -> tuple[int, dict]:
        """(step, values) of the newest step, which is then done with."""
        values, self.newest = self.newest, {}
        self.after = values.pop("step")
        return self.after, values
