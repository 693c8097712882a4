"""Writing files and folders so that they are there whole or not at all, whatever happens meanwhile.

Everything is written under a hidden name beside the real one, which ends in ".tmp", is brought to the disk, and then
takes the real name.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil

from common.errors import UserError

FREE_SPACE_HINT = "free some space there or choose another folder"


@contextlib.contextmanager
def atomic_write(path, hint=FREE_SPACE_HINT):
    """A temporary path to write a file to, or to make a folder at; it becomes `path` when the block ends well.

    path's folder is made when needed. If the block fails the temporary path is gone and `path` is as it was; what the
    disk was to blame for is a UserError with the reason and the hint. A folder that nothing speaks of may be there
    already, left by a killed save: it is removed.
    """
    path = pathlib.Path(path).expanduser()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
            reason = getattr(problem, "strerror", None) or " ".join(str(problem).split())[:200]
            raise UserError(f"can't write {path}: {reason}; {hint}") from None
        raise


def flush_to_disk(path):
    """Have the file, or each file of the folder, survive a power cut, and be readable as the umask says."""
    umask = os.umask(0)
    os.umask(umask)
    for file in [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file()):
        if file.stat().st_nlink == 1:  # a hard link's file has been on the disk for long
            file.chmod(0o666 & ~umask)
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


def is_write_error(problem):
    """Whether an error is one of writing. torch and safetensors tell of a full disk by errors of their own."""
    return isinstance(problem, OSError) or any(
        words in str(problem) for words in ("No space left", "PytorchStreamWriter", "inline_container", "os error")
    )


def remove(path):
    """Delete a file or a folder, if it is there."""
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def read_json(path):
    """The JSON object in a file. UserError if it can't be read or is something else."""
    try:
        value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UserError(f"can't read {path}: {problem}") from None
    if not isinstance(value, dict):
        raise UserError(f"can't read {path}: it must hold one JSON object")
    return value


def write_text(path, text, hint=FREE_SPACE_HINT):
    """Write a UTF-8 text file, line ends as they are."""
    with atomic_write(path, hint) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path, value, hint=FREE_SPACE_HINT):
    """Write one JSON value, readable, with a line end."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", hint)


GIB = 2**30


def require_free_space(
    folder, needed, what, hint="free some space, lower --keep_versions or choose another --output_dir"
):
    """UserError unless the disk of `folder` has `needed` bytes to spare for `what`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{what} needs {needed / GIB:.2f} GiB in {folder}, and {free / GIB:.2f} GiB are free: {hint}; "
            "nothing was written"
        )


def link_or_copy(source, destination):
    """A hard link where the file system has them."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)
