import errno
import os
import signal
import stat
import subprocess
import time

import pytest

from common.errors import UserError
from common.files import (
    MAX_WRITE_SECONDS,
    atomic_write,
    machine_id,
    remove_dead_temporary_files,
    write_json,
    write_text,
)


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one\r\ntwö")
    assert path.read_bytes() == "one\r\ntwö".encode()
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_bytes() == "one\r\ntwö".encode()
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    folder = tmp_path / "v1"
    for text in ("old", "new"):
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            (temporary / text).touch()
    assert [p.name for p in folder.iterdir()] == ["new"]
    with pytest.raises(KeyboardInterrupt), atomic_write(folder) as temporary:
        temporary.mkdir()
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["v1"] and [p.name for p in folder.iterdir()] == ["new"]


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/0"),
        ValueError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_a_users_error_with_the_hint(tmp_path, problem):
    error = pytest.raises(UserError, match=r"can't write .*a\.txt: .*; choose another folder$")
    with error, atomic_write(tmp_path / "a.txt", "choose another folder") as temporary:
        temporary.write_text("half")
        raise problem
    assert list(tmp_path.iterdir()) == []


def test_really_full(tmp_path):
    """A real device that is always full."""
    if not os.path.exists("/dev/full") or not stat.S_ISCHR(os.stat("/dev/full").st_mode):
        pytest.skip("this system has no /dev/full")
    with pytest.raises(UserError, match="No space left on device"), atomic_write(tmp_path / "a") as temporary:
        os.symlink("/dev/full", temporary)
        temporary.write_text("text")
    assert list(tmp_path.iterdir()) == []


def test_json_is_readable(tmp_path):
    write_json(tmp_path / "a.json", {"title": "Čapek", "n": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "title": "Čapek",\n "n": 1\n}\n'


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"can't write .*File name too long; choose"):
        write_text(tmp_path / ("x" * 300), "text", "choose another")


@pytest.fixture(scope="module")
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_dead_processes_left_is_removed(tmp_path, dead):
    def left(name, age=0.0):
        path = tmp_path / name
        path.mkdir() if "folder" in name else path.write_text("half")
        os.utime(path, (time.time() - age,) * 2)
        return path

    here, old = machine_id(), MAX_WRITE_SECONDS + 60
    gone = [left(f".a.csv.{here}.{dead}.tmp"), left(f".folder.{here}.{dead}.tmp"), left(".b.csv.1.tmp", old)]
    gone += [left(f".c.00000000.{dead}.tmp", old), left(f".d.{here}.{os.getpid()}.tmp", old)]
    kept = [left("a.csv"), left(".a.csv"), left(f"a.csv.{here}.{dead}.tmp"), left(".a.tmp", old), left(".a.x.tmp", old)]
    kept += [left(f".e.{here}.{os.getpid()}.tmp"), left(f".e.{here}.1.tmp")]  # at work: this process, and number 1
    kept += [left(f".f.00000000.{dead}.tmp"), left(f".g.csv.{dead}.tmp")]  # perhaps at work on another machine
    remove_dead_temporary_files(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept) and not any(path.exists() for path in gone)
    remove_dead_temporary_files(tmp_path / "nowhere")


def test_a_write_at_work_is_not_taken_for_a_dead_one(tmp_path):
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        remove_dead_temporary_files(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "half"


def test_a_killed_write_is_removed_at_the_next_start(tmp_path):
    child = os.fork()
    if child == 0:
        try:
            with atomic_write(tmp_path / "a.txt") as temporary:
                temporary.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    remove_dead_temporary_files(tmp_path)
    assert list(tmp_path.iterdir()) == []
