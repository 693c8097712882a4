"""File locks, which the operating system drops with the process that holds them; and places that have none."""

from __future__ import annotations

import contextlib
import os
import sys
from contextlib import AbstractContextManager
from typing import Any

import filelock

from common.files import UNSUPPORTED


def file_lock(path: str | os.PathLike[str], timeout: float = -1) -> AbstractContextManager[Any]:
    """The lock of the file `path`, held: a context manager that lets go.

    timeout: seconds to wait for another process that holds it, -1 = without end; then filelock.Timeout is raised. On a
    file system without locks (some network mounts) a warning is printed, and nothing is locked. OSError if the file
    can't be made.
    """
    try:
        return filelock.FileLock(path).acquire(timeout=timeout)
    except OSError as problem:
        if isinstance(problem, filelock.Timeout) or problem.errno not in UNSUPPORTED:
            raise
        print(
            f"warning: {os.path.dirname(path)} is on a file system without locks ({problem.strerror}): take care that "
            "no two processes work on it at once",
            file=sys.stderr,
        )
        return contextlib.nullcontext()
