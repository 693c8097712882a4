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
    current_umask,
    link_or_copy_tree,
    machine_id,
    remove_dead_temporary_files,
    write_error,
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


# ---------------------------------------------------------------------------------------------------------------------
# File systems that lack something, and other errors


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_permissions_fsync_and_hard_links(tmp_path, monkeypatch, code):
    def lacking(*_, **__):
        raise OSError(code, os.strerror(code))

    for name in ("chmod", "fsync", "link"):
        monkeypatch.setattr(os, name, lacking)
    write_text(tmp_path / "source" / "part" / "a.txt", "text")
    (tmp_path / "source" / "left").touch()
    with atomic_write(tmp_path / "copy") as folder:
        link_or_copy_tree(tmp_path / "source", folder, without=["left"])
    assert [p.relative_to(tmp_path / "copy").as_posix() for p in (tmp_path / "copy").rglob("*")] == [
        "part",
        "part/a.txt",
    ]
    assert (tmp_path / "copy" / "part" / "a.txt").read_text() == "text"


def test_a_disk_that_fails_is_told(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"a\.txt: Input/output error; choose another folder$"):
        write_text(tmp_path / "a.txt", "text")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ESTALE])
@pytest.mark.parametrize(
    ("hint", "without_space"),
    [
        ("free some space there or choose another folder", "choose another folder"),
        ("free some space or choose another --save_dir", "choose another --save_dir"),
        ("free some space there, choose another folder, or leave it out", "choose another folder, or leave it out"),
        ("it is intact; free some space (old runs), then go on with --run_id", "it is intact; go on with --run_id"),
    ],
)
def test_free_space_is_asked_for_where_none_is_left_alone(code, hint, without_space):
    error = str(write_error("a", OSError(code, os.strerror(code)), hint))
    expected = hint if code in (errno.ENOSPC, errno.EDQUOT) else without_space
    assert error == f"can't write a: {os.strerror(code)}; {expected}"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_are_what_the_umask_allows(tmp_path, umask):
    """Also of a file that a library has made for its owner alone, as tempfile does."""
    before = os.umask(umask)
    try:
        assert current_umask() == umask
        with atomic_write(tmp_path / "a") as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def test_links_are_made_where_they_can_be(tmp_path):
    write_text(tmp_path / "source" / "a", "text")
    link_or_copy_tree(tmp_path / "source", tmp_path / "copy")
    assert os.path.samefile(tmp_path / "source" / "a", tmp_path / "copy" / "a")


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
