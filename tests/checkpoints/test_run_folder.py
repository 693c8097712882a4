"""The layout of a run's folder, and the lock."""

import os

import pytest

from checkpoints.environment import environment_lines, read_environments, record_environment
from checkpoints.run_folder import RunFolder
from common.errors import UserError


def test_every_path_is_inside_and_old_runs_keep_their_frozen_parts(tmp_path):
    run = RunFolder(tmp_path / "one")
    assert run.name == "one" and os.fspath(run) == str(run) == str(tmp_path / "one")
    names = {name for name, value in vars(RunFolder).items() if isinstance(value, property) and name != "name"}
    paths = {name: getattr(run, name) for name in names}
    paths["fetched"] = paths["fetched"].path
    assert all(path.parent == run.path for path in paths.values()) and len(set(paths.values())) == len(paths)
    assert run.frozen.name == "frozen"
    (run.path / "untouched").mkdir(parents=True)
    assert run.frozen.name == "untouched"
    assert run.fetched.version("v1") == run.path / "fetched" / "versions" / "v1"


def test_only_complete_states_count(tmp_path):
    run = RunFolder(tmp_path)
    assert run.saved_steps() == []
    run.state(12).mkdir(parents=True)
    run.state(7).mkdir()
    (run.state(7) / "position.json").write_text("{}")
    assert run.saved_steps() == [7] and run.state(7).name == "000000007"


def test_one_process_at_a_time(tmp_path):
    run = RunFolder(tmp_path)
    with run.lock(), pytest.raises(UserError, match="another process is training run"):
        RunFolder(tmp_path).lock()
    with run.lock():
        pass


ENVIRONMENT = {"commit": "a" * 40, "dirty": True, "python": "3.11.7", "libraries": {"torch": "2.14.1"}, "device": "GPU"}


def test_the_environment_is_noted_where_it_changes(tmp_path):
    run = RunFolder(tmp_path)
    assert read_environments(run) == environment_lines(run) == []
    record_environment(run, 0, ENVIRONMENT)
    record_environment(run, 5, ENVIRONMENT)
    record_environment(run, 9, {**ENVIRONMENT, "dirty": False})
    assert [start["step"] for start in read_environments(run)] == [0, 9]
    first, second = environment_lines(run)
    assert first == "from update 0: aaaaaaaaaaaa with changes, GPU, Python 3.11.7, torch 2.14.1"
    assert second.startswith("from update 9: aaaaaaaaaaaa, GPU")


def test_an_environment_can_not_command_a_terminal(tmp_path):
    run = RunFolder(tmp_path)
    record_environment(run, 0, {**ENVIRONMENT, "device": "\x1b[2JGPU\n", "libraries": {"torch\x07": "\x9b2"}})
    assert environment_lines(run) == ["from update 0: aaaaaaaaaaaa with changes, ?[2JGPU?, Python 3.11.7, torch? ?2"]


@pytest.mark.parametrize("text", ["[]", "{}", '{"starts": 3}', '{"starts": [3]}', "{"])
def test_a_damaged_environment_is_one_line(tmp_path, text):
    run = RunFolder(tmp_path)
    run.environment.write_text(text)
    with pytest.raises(UserError, match=r"environment\.json") as problem:
        record_environment(run, 0, ENVIRONMENT)
    assert "\n" not in str(problem.value)
