"""The software and hardware of a run, for its environment.json: commit, versions of libraries, platform, device.

It names no user, no machine and no folder, so that it can be published.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

from common.device import GIB, DeviceFacts, why_cpu
from common.machine import device_facts

PROJECT = pathlib.Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "bitsandbytes", "safetensors", "numpy", "pillow")


def describe_environment(facts: DeviceFacts | None = None, index: int = 0) -> dict[str, Any]:
    """commit, dirty, python, platform, libraries {name: version} and device, ready for JSON; None = not known.

    facts: those of this machine, if they are known already; index: number of the GPU that torch uses.
    """
    commit, dirty = git_state(PROJECT)
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: library_version(name) for name in LIBRARIES},
        "device": describe_fully(facts or device_facts(), index),
    }


def describe_fully(facts: DeviceFacts, index: int = 0) -> str:
    """The device in one line, with everything that can affect results or speed."""
    if index >= len(facts.gpus):
        cause = why_cpu(facts)
        return f"the CPU: {cause.reason}" if cause else "the CPU"
    gpu = facts.gpus[index]
    major, minor = gpu.capability
    return (
        f"{gpu.name}, compute capability {major}.{minor}, {gpu.total_bytes / GIB:.1f} GiB, {facts.driver}, "
        f"torch built for CUDA {facts.torch_cuda}"
    )


def library_version(name: str) -> str | None:
    """Version of an installed library, or None; the library is not imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(folder: pathlib.Path) -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it); (None, None) unless `folder` is the top of a git repository."""
    top, commit = git(folder, "rev-parse", "--show-toplevel"), git(folder, "rev-parse", "HEAD")
    if top is None or commit is None or pathlib.Path(top).resolve() != folder.resolve():
        return None, None  # a copy without git, perhaps inside another project's repository
    changes = git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def git(folder: pathlib.Path, *arguments: str) -> str | None:
    """Output of a git command, or None if it fails or git is not installed."""
    settings = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # a git hook sets these, for another repository
    environment = {name: value for name, value in os.environ.items() if name not in settings}
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
