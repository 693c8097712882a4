"""A lock is held once; of two who change one file neither loses what the other wrote; places without locks."""

import errno
import fcntl
import threading

import filelock
import pytest

from common import locks
from common.errors import UserError
from common.locks import file_lock


def test_one_holder_at_a_time(tmp_path):
    with file_lock(tmp_path / ".lock", timeout=0), pytest.raises(filelock.Timeout):
        file_lock(tmp_path / ".lock", timeout=0)
    with file_lock(tmp_path / ".lock"):
        pass


@pytest.fixture
def flock_fails(monkeypatch):
    """A function that makes locking fail with an errno."""

    def fail(code):
        def flock(*_):
            raise OSError(code, "no locks here")

        monkeypatch.setattr(fcntl, "flock", flock)

    return fail


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks(tmp_path, flock_fails, capsys, code):
    flock_fails(code)
    with file_lock(tmp_path / ".lock", timeout=0), file_lock(tmp_path / ".lock", timeout=0):
        pass
    assert (
        capsys.readouterr().err.count(f"warning: {tmp_path} is on a file system without locks (no locks here)") == 1
    )  # said once


def test_other_errors_are_not_hidden(tmp_path, flock_fails):
    flock_fails(errno.EIO)
    with pytest.raises(OSError, match="no locks here"):
        file_lock(tmp_path / ".lock", timeout=0)


def test_a_second_one_waits_until_the_first_has_written(tmp_path):
    path = tmp_path / "new" / "counts.txt"
    began = threading.Event()

    def change(letter, wait):
        with locks.locked(path):
            text = path.read_text() if path.exists() else ""
            began.set()
            wait()
            path.write_text(text + letter)

    second = threading.Thread(target=change, args=("b", lambda: None), daemon=True)
    hold = threading.Event()
    first = threading.Thread(target=change, args=("a", hold.wait), daemon=True)
    first.start()
    assert began.wait(20)
    second.start()
    second.join(0.2)
    assert second.is_alive()  # it waits
    hold.set()
    first.join(20), second.join(20)
    assert path.read_text() == "ab"


def test_a_lock_that_is_not_let_go_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)
    match = r"can't write .*x\.json: another process has held .*\.x\.json\.lock for 0\.1 s"
    with locks.locked(tmp_path / "x.json"), pytest.raises(UserError, match=match):
        threaded(lambda: enter(tmp_path / "x.json"))
    enter(tmp_path / "x.json")


def enter(path, *hint):
    with locks.locked(path, *hint):
        pass


def threaded(function):
    """Call a function in another thread; what it raises is raised here."""
    raised = []

    def call():
        try:
            function()
        except UserError as problem:
            raised.append(problem)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(20)
    if raised:
        raise raised[0]


def test_an_error_of_the_lock_file_is_one_line(tmp_path, flock_fails):
    flock_fails(errno.EIO)
    with pytest.raises(UserError, match=r"can't write .*x\.json: no locks here; bring another"):
        enter(tmp_path / "x.json", "bring another")
    flock_fails(errno.ENOLCK)
    enter(tmp_path / "x.json")


def test_an_error_inside_lets_the_lock_go(tmp_path):
    with pytest.raises(KeyError), locks.locked(tmp_path / "x.json"):
        raise KeyError
    enter(tmp_path / "x.json")
