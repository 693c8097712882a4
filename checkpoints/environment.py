"""environment.json: what a run was trained with, one entry for each start on another commit, library or device."""

from __future__ import annotations

from typing import Any

from checkpoints.run_folder import RunFolder
from common.errors import UserError
from common.files import read_json, write_json


def record_environment(run: RunFolder, step: int, environment: dict[str, Any]) -> None:
    """Note that training starts after `step` updates in this environment (environment.describe_environment)."""
    starts = read_environments(run)
    if not starts or {**starts[-1], "step": None} != {**environment, "step": None}:
        write_json(run.environment, {"starts": [*starts, {"step": step, **environment}]})


def read_environments(run: RunFolder) -> list[dict[str, Any]]:
    """The entries, oldest first, each with "step"; [] if there are none (runs of before version 0.2)."""
    if not run.environment.exists():
        return []
    starts = read_json(run.environment).get("starts")
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise UserError(f"can't read {run.environment}: it lists no starts; delete it, the next start makes it anew")
    return starts


def environment_lines(run: RunFolder) -> list[str]:
    """One line for each entry: from which update, commit, device, libraries."""
    lines = []
    for start in read_environments(run):
        commit = str(start.get("commit") or "no commit known")[:12] + (" with changes" if start.get("dirty") else "")
        libraries = start.get("libraries")
        known = libraries.items() if isinstance(libraries, dict) else ()
        versions = ", ".join(f"{name} {version}" for name, version in known)
        device = start.get("device")
        line = f"from update {start.get('step')}: {commit}, {device}, Python {start.get('python')}, {versions}"
        lines.append("".join(letter if letter.isprintable() else "?" for letter in line))  # no codes for a terminal
    return lines
