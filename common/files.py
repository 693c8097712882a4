"""Atomic writes of files and folders: after a crash each is there as a whole, or not at all.

Data is written to a hidden temporary name in the same folder (.NAME.MACHINE.PID.tmp), flushed to disk, and then
renamed. What a killed process leaves is told by that name, and removed by remove_dead_temporary_files.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import time
from collections.abc import Collection, Iterator
from typing import Any

from common.errors import UserError

GIB = 2**30
FREE_SPACE_HINT = "free some space there or choose another folder"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# What a call raises that the file system does not have, such as fsync, flock or link on some network mounts
UNSUPPORTED = (errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)
# Errors of torch and safetensors, which have no errno, when they can't write; most often the disk is full
NO_SPACE_TEXTS = ("No space left", "quota exceeded", "PytorchStreamWriter", "inline_container")
TEMPORARY_NAME = re.compile(r"\..+?(?:\.([0-9a-f]{8}))?\.([0-9]{1,9})\.tmp")  # older releases did not name the machine
MAX_WRITE_SECONDS = 24 * 3600  # no write takes so long: an older temporary file is dead, whoever wrote it


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], hint: str = FREE_SPACE_HINT) -> Iterator[pathlib.Path]:
    """Context manager: yields a temporary path for a new file or folder, which is renamed to `path` at the end.

    The parent folder is created if needed. If the block raises, the temporary path is removed and `path` stays as it
    was; an error of writing becomes a UserError with the reason and the hint (see write_error). A folder that exists at
    `path`, such as one that a killed save has left, is replaced.
    """
    path = pathlib.Path(path).expanduser()
    temporary = path.with_name(f".{path.name}.{machine_id()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        flush_to_disk(temporary)
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException as problem:
        remove(temporary)
        if is_write_error(problem):
            raise write_error(path, problem, hint) from None
        raise


@functools.cache
def machine_id() -> str:
    """8 hex digits for where this process's number is valid: the machine, or the container with numbers of its own."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # containers may share the machine's name, and a folder
        namespace += pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()  # clones may share a name, and a disk
    except OSError:
        namespace = ""
    return hashlib.blake2b(f"{platform.node()} {namespace}".encode(), digest_size=4).hexdigest()


def remove_dead_temporary_files(folder: str | os.PathLike[str]) -> None:
    """Delete what killed processes have left of unfinished atomic writes directly in `folder`, which need not exist.

    A temporary file or folder is deleted if its process was on this machine and has ended, or if it has not changed for
    MAX_WRITE_SECONDS: its process may have run on another machine, or its number may belong to another process by now.
    """
    with contextlib.suppress(OSError):  # nothing depends on it
        for path in pathlib.Path(folder).glob(".*.tmp"):
            if (name := TEMPORARY_NAME.fullmatch(path.name)) is None:
                continue
            with contextlib.suppress(OSError):  # another process removes it too, or has just renamed it
                ended = name[1] == machine_id() and not is_running(int(name[2]))
                if ended or time.time() - path.lstat().st_mtime > MAX_WRITE_SECONDS:
                    remove(path)


def is_running(pid: int) -> bool:
    """Whether a process of this number exists. True where that can't be told."""
    if os.name != "posix":  # on Windows os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def flush_to_disk(path: pathlib.Path) -> None:
    """Flush a file, or each file in a folder, to disk (fsync), and set its permissions to what the umask allows.

    A file system that has no fsync or no permissions is used without them.
    """
    mode = 0o666 & ~current_umask()
    for file in [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file()):
        if file.stat().st_nlink == 1:  # one with several hard links is on the disk already
            with contextlib.suppress(OSError):
                file.chmod(mode)
            with open(file, "rb") as opened:
                try:
                    os.fsync(opened.fileno())
                except OSError as problem:
                    if problem.errno not in UNSUPPORTED:
                        raise


def current_umask() -> int:
    """The process's umask. Linux tells; elsewhere it must be set to be read, while other threads may make files."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def is_write_error(problem: BaseException) -> bool:
    """Whether an error comes from writing. torch and safetensors raise exceptions of their own."""
    return isinstance(problem, OSError) or any(text in str(problem) for text in (*NO_SPACE_TEXTS, "os error"))


def write_error(path: str | os.PathLike[str], problem: BaseException, hint: str = FREE_SPACE_HINT) -> UserError:
    """The UserError for a file or folder that can't be written. hint: what to do; only a full disk, or a quota that is
    used up, gets its advice to free some space."""
    code = getattr(problem, "errno", None)
    reason = getattr(problem, "strerror", None) or " ".join(str(problem).split())[:200]
    if code not in NO_SPACE and not (code is None and any(text in reason for text in NO_SPACE_TEXTS)):
        hint = re.sub(r"free some space( there| \([^)]*\))?(,? or |, )(then )?", "", hint)
    return UserError(f"can't write {path}: {reason}; {hint}")


def remove(path: pathlib.Path) -> None:
    """Delete a file or a folder, if it exists."""
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file. UserError if the file can't be read or holds anything else."""
    try:
        value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise UserError(f"can't read {path}: it is not JSON: {problem}") from None
    except (OSError, ValueError) as problem:
        raise UserError(f"can't read {path}: {problem}") from None
    except RecursionError:
        raise UserError(f"can't read {path}: its values are nested too deeply") from None
    if not isinstance(value, dict):
        raise UserError(f"can't read {path}: it must hold one JSON object")
    return value


def write_text(path: str | os.PathLike[str], text: str, hint: str = FREE_SPACE_HINT) -> None:
    """Write a UTF-8 text file atomically, without conversion of line ends."""
    with atomic_write(path, hint) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | os.PathLike[str], value: Any, hint: str = FREE_SPACE_HINT) -> None:
    """Write a JSON value atomically, indented, with a line end."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", hint)


def require_free_space(
    folder: pathlib.Path,
    needed: float,
    what: str,
    hint: str = "free some space, lower --keep_versions or choose another --output_dir",
) -> None:
    """UserError unless the disk of `folder` has `needed` bytes of free space for `what`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{what} needs {needed / GIB:.2f} GiB in {folder}, and {free / GIB:.2f} GiB are free: {hint}; "
            "nothing was written"
        )


def link_or_copy(source: str | pathlib.Path, destination: str | pathlib.Path) -> None:
    """Make a hard link, or a copy of the content if the file system has no hard links."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)


def link_or_copy_tree(
    source: str | os.PathLike[str], destination: str | os.PathLike[str], without: Collection[str] = ()
) -> None:
    """Make a folder with links to, or copies of, all files of another one. without: names that are left out; and so are
    temporary files of another process's atomic_write, which may be gone the next moment.

    shutil.copytree also copies permissions, and fails on file systems that have none.
    """
    pathlib.Path(destination).mkdir(parents=True, exist_ok=True)
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        if entry.name not in without and not TEMPORARY_NAME.fullmatch(entry.name):
            copy = link_or_copy_tree if entry.is_dir() else link_or_copy
            copy(pathlib.Path(entry.path), pathlib.Path(destination) / entry.name)
