"""A lock is held once; a file system without locks is used with a warning."""

import errno
import fcntl

import filelock
import pytest

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


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK])
def test_a_file_system_without_locks(tmp_path, flock_fails, capsys, code):
    flock_fails(code)
    with file_lock(tmp_path / ".lock", timeout=0), file_lock(tmp_path / ".lock", timeout=0):
        pass
    assert capsys.readouterr().err.count(f"warning: {tmp_path} is on a file system without locks (no locks here)") == 2


def test_other_errors_are_not_hidden(tmp_path, flock_fails):
    flock_fails(errno.EIO)
    with pytest.raises(OSError, match="no locks here"):
        file_lock(tmp_path / ".lock", timeout=0)
