"""The file of the report: whether it can be written is known before anything is drawn."""

import pytest

from common.errors import UserError
from page.report import require_writable


def test_a_path_that_can_be_written_is_left_as_it_was(tmp_path):
    path = tmp_path / "pages" / "report.html"
    require_writable(str(path))
    assert list(path.parent.iterdir()) == []
    path.write_text("an earlier one")
    require_writable(str(path))
    assert path.read_text() == "an earlier one" and list(path.parent.iterdir()) == [path]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match=f"--report_path {tmp_path} is a folder: give the name of a file"):
        require_writable(str(tmp_path))


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another --report_path") as problem:
        require_writable(str(tmp_path / "file" / "report.html"))
    assert "\n" not in str(problem.value)
