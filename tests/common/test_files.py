import errno
import os
import stat

import pytest

from common.errors import UserError
from common.files import atomic_write, write_json, write_text


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
