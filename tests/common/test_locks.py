"""Two who change one file at once: neither loses what the other wrote."""

import errno
import threading

import filelock
import pytest

from common import locks
from common.errors import UserError


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


def test_a_file_system_without_locks_is_tolerated_and_other_errors_are_one_line(tmp_path, monkeypatch):
    def fail(problem):
        def acquire(self):
            raise problem

        monkeypatch.setattr(filelock.FileLock, "acquire", acquire)

    fail(NotImplementedError("FileSystem does not appear to support flock"))
    enter(tmp_path / "x.json")
    fail(OSError(errno.EACCES, "Permission denied"))
    with pytest.raises(UserError, match=r"can't write .*x\.json: Permission denied; bring another"):
        enter(tmp_path / "x.json", "bring another")


def test_an_error_inside_lets_the_lock_go(tmp_path):
    with pytest.raises(KeyError), locks.locked(tmp_path / "x.json"):
        raise KeyError
    enter(tmp_path / "x.json")
