"""What a run tells: metrics.jsonl, one line for each thing measured or drawn. The disk's file comes first; mirror.py
hands it on to wandb, trackio or tensorboard."""

from __future__ import annotations

import contextlib
import json

from checkpoints.run_folder import FREE_SPACE_HINT
from common.errors import UserError
from common.files import write_text


class MetricsLog:
    """metrics.jsonl: one JSON object a line, each with "step". Opening it at a step forgets what came after that step,
    so a resumed run's file reads like that of a run left alone."""

    def __init__(self, path, step, write=True):
        """write=False, for all processes but the first, logs nothing."""
        self.file = None
        if write:
            kept = [line for line in read_metrics(path) if line["step"] <= step and step > 0]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
            self.file = path.open("a", encoding="utf-8")

    def log(self, step, **values):
        if self.file:
            try:
                self.file.write(json.dumps({"step": step, **values}) + "\n")
                self.file.flush()
            except OSError as problem:
                raise UserError(f"can't write {self.file.name}: {problem.strerror}; {FREE_SPACE_HINT}") from None


def read_metrics(path):
    """The list of objects in a metrics.jsonl; [] if there is none. Damaged lines (say, cut short) are left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [value for value in map(parse_line, text.splitlines()) if value]


def parse_line(text):
    """The object in a line of metrics.jsonl, or None if the line is damaged."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None


class MetricsTail:
    """Reads a metrics.jsonl that grows: each step once, with what all of its lines say."""

    def __init__(self, path, after):
        """after: steps up to this one are left out."""
        self.path, self.after = path, after
        self.place = 0  # bytes read so far
        self.newest = {}  # what the lines of the newest step say so far, with "step"

    def steps(self, complete=False):
        """Yield (step, {name: value}) for the steps that came since the last call.

        The newest is held back, since more lines of it may come, unless complete=True.
        """
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
            file.seek(self.place)
            whole_lines, end, _ = file.read().rpartition(b"\n")
            self.place += len(whole_lines + end)
            for value in map(parse_line, whole_lines.decode("utf-8", "replace").splitlines()):
                if value and value["step"] > self.after:
                    if self.newest and value["step"] != self.newest["step"]:
                        yield self.take()
                    self.newest |= value
        if complete and self.newest:
            yield self.take()

    def take(self):
        values, self.newest = self.newest, {}
        self.after = values.pop("step")
        return self.after, values
