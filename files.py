"""Writing files and folders so that they are there whole or not at all, whatever happens meanwhile.

Everything is written under a name beside the real one that starts with ".tmp" and takes the real name when complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil

from config import UserError

ROOM = "free some space there or choose another folder"


@contextlib.contextmanager
def publish(path, hint=ROOM):
    """A temporary path to write a file to, or to make a folder at; it becomes `path` when the block ends well.

    path's folder is made when needed. If the block fails the temporary path is gone and `path` is as it was; what the
    disk was to blame for is a UserError with the reason and the hint. A folder must not be there yet, or be one that
    nothing speaks of: it is removed.
    """
    path = pathlib.Path(path).expanduser()
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException as problem:
        remove(temporary)
        if blames_disk(problem):
            reason = getattr(problem, "strerror", None) or " ".join(str(problem).split())[:200]
            raise UserError(f"can't write {path}: {reason}; {hint}") from None
        raise


def blames_disk(problem):
    """Whether an error is one of writing. torch and safetensors tell of a full disk by errors of their own."""
    return isinstance(problem, OSError) or any(
        words in str(problem) for words in ("No space left", "PytorchStreamWriter", "os error")
    )


def remove(path):
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def write_text(path, text, hint=ROOM):
    """Write a UTF-8 text file, line ends as they are."""
    with publish(path, hint) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path, value, hint=ROOM):
    """Write one JSON value, readable, with a line end."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", hint)
