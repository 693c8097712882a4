"""What a run tells: metrics.jsonl, one line for each thing measured, and the progress bar."""

from __future__ import annotations

import json

import psutil
import torch

from checkpoint import GIB, ROOM
from config import UserError
from files import write_text


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
                raise UserError(f"can't write {self.file.name}: {problem.strerror}; {ROOM}") from None


def read_metrics(path):
    """The list of objects in a metrics.jsonl; [] if there is none. Damaged lines (say, cut short) are left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            lines.append(value)
    return lines


def memory_gib(device):
    """Most memory that torch has used on a GPU so far; on a CPU, what the process takes now. GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return psutil.Process().memory_info().rss / GIB
