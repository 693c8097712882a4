"""Locks between processes that change the same file."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import filelock

from common.errors import UserError
from common.files import FREE_SPACE_HINT

WAIT_SECONDS = 60  # for another process to read, change and write a file: far more than that takes


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], hint: str = FREE_SPACE_HINT) -> Iterator[None]:
    """Context manager for reading a file, changing it and writing it again: other processes and threads wait meanwhile.

    Without it, of two that do so at once, the later one undoes what the earlier one wrote. The lock is a file beside it
    (.NAME.lock), which stays; the operating system drops the lock with the process. Not to be nested. UserError if the
    lock can't be made, or is not free after WAIT_SECONDS.
    """
    path = pathlib.Path(path).expanduser()
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=WAIT_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"can't write {path}: another process has held {lock.lock_file} for {WAIT_SECONDS} s; start again when it "
            "has ended"
        ) from None
    except NotImplementedError:
        pass  # a file system without locks: as safe as without this function
    except OSError as problem:
        raise UserError(f"can't write {path}: {problem.strerror or problem}; {hint}") from None
    try:
        yield
    finally:
        lock.release()
