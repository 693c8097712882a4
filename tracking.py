"""What a run tells: metrics.jsonl, one line for each thing measured, and the progress bar."""

from __future__ import annotations

import json

import psutil
import torch

from checkpoint import GIB
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
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()


def read_metrics(path):
    """The list of objects in a metrics.jsonl; [] if there is none. A line cut short by a crash is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def memory_gib(device):
    """Most memory that torch has used on a GPU so far; on a CPU, what the process takes now. GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return psutil.Process().memory_info().rss / GIB
