"""A run's config.json names folders that may be asked for from another folder, or lie elsewhere by now."""

import json

import pytest

import config
from cli import saved_options
from common.errors import UserError
from config import TrainingOptions


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The config.json of a run that was started in proj/ with relative paths."""
    (tmp_path / "proj" / "data").mkdir(parents=True)
    (tmp_path / "proj" / "models" / "ok").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "proj")
    path = tmp_path / "proj" / "runs" / "one" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(config.to_json(TrainingOptions(data_root="data", pretrained_model="models/ok"))))
    monkeypatch.chdir(tmp_path)
    return path


def test_a_run_goes_on_from_any_folder(path, tmp_path):
    options = saved_options.inherit(TrainingOptions, path, {})
    assert options.data_root == f"{tmp_path}/proj/data" and options.pretrained_model == f"{tmp_path}/proj/models/ok"
    saved_options.refuse_changes(TrainingOptions, path, {"pretrained_model": "proj/models/ok"})  # the same folder
    with pytest.raises(UserError, match=r"--pretrained_model tiny would change the past of this run, which has /.*/ok"):
        saved_options.refuse_changes(TrainingOptions, path, {"pretrained_model": "tiny"})


def test_so_does_an_older_one_with_relative_paths(path, tmp_path):
    path.write_text(json.dumps({"output_dir": "runs", "data_root": "data", "pretrained_model": "models/ok"}))
    options = saved_options.inherit(TrainingOptions, path, {})
    assert options.data_root == f"{tmp_path}/proj/data" and options.pretrained_model == f"{tmp_path}/proj/models/ok"


def test_a_model_that_was_moved_may_be_given(path, tmp_path):
    """As on another machine."""
    (tmp_path / "proj" / "models").rename(tmp_path / "models")
    given = {"pretrained_model": "models/ok"}
    saved_options.refuse_changes(TrainingOptions, path, given)
    assert saved_options.inherit(TrainingOptions, path, given).pretrained_model == "models/ok"


def test_commands_do_not_tell_whose_home_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = TrainingOptions(data_root=f"{tmp_path}/books", cache_dir="/data/cache", run_name=None)
    words = saved_options.command(TrainingOptions, vars(options))
    assert words == "python -m training --data_root '~/books' --cache_dir /data/cache"


def test_names_that_begin_with_an_underscore_are_notes(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text('{"_about": ["a recipe", {}], "_lr": "why", "lr": 1e-4, "__": null}')
    assert saved_options.read_options(path) == {"lr": 1e-4}
    path.write_text('{"about_": "a recipe"}')
    with pytest.raises(UserError, match=r"unknown option 'about_'"):
        saved_options.read_options(path)
