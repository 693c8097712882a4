"""Locks between processes, which the operating system drops with the process that holds them."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import filelock
from tqdm import tqdm

from common.errors import UserError
from common.files import FREE_SPACE_HINT, UNSUPPORTED, write_error

WAIT_SECONDS = 60  # for another process to read, change and write a file: far more than that takes


def file_lock(path: str | os.PathLike[str], timeout: float = -1) -> AbstractContextManager[Any]:
    """The lock of the file `path`, held: a context manager that lets go.

    timeout: seconds to wait for another process that holds it, -1 = without end; then filelock.Timeout is raised. On a
    file system without locks (some network mounts) a warning is printed, and nothing is locked. OSError if the file
    can't be made.
    """
    try:
        # Not to fall back to a file that merely exists, which a killed process would leave
        return filelock.FileLock(path, fallback_to_soft=False).acquire(timeout=timeout)
    except NotImplementedError as problem:  # filelock's word for ENOSYS
        reason = str(problem)
    except OSError as problem:
        if isinstance(problem, filelock.Timeout) or problem.errno not in UNSUPPORTED:
            raise
        reason = problem.strerror or str(problem)
    warn_once(os.path.dirname(path), reason)
    return contextlib.nullcontext()


@functools.cache
def warn_once(folder: str, reason: str) -> None:
    """Say that a folder has no locks."""
    tqdm.write(
        f"warning: {folder} is on a file system without locks ({reason}): take care that no two processes work on it "
        "at once",
        file=sys.stderr,
    )


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], hint: str = FREE_SPACE_HINT) -> Iterator[None]:
    """Context manager for reading a file, changing it and writing it again: other processes and threads wait meanwhile.

    Without it, of two that do so at once, the later one undoes what the earlier one wrote. The lock is a file beside it
    (.NAME.lock), which stays. Not to be nested. UserError if the lock can't be made, or is not free after WAIT_SECONDS.
    """
    path = pathlib.Path(path).expanduser()
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = file_lock(lock, WAIT_SECONDS)
    except filelock.Timeout:
        raise UserError(
            f"can't write {path}: another process has held {lock} for {WAIT_SECONDS} s; start again when it has ended"
        ) from None
    except OSError as problem:
        raise write_error(path, problem, hint) from None
    with held:
        yield
