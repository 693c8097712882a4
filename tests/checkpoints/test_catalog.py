"""Names of runs and versions, and where they lead. The folders are made by hand: nothing here reads weights."""

import json
import os
import shutil

import pytest

from checkpoints import catalog, scores
from checkpoints.run_folder import RunFolder
from common.errors import UserError


def make_versions(home, aliases, **steps):
    """Folders versions/<name> and a versions.json that lists them."""
    for name in steps:
        (home / "versions" / name).mkdir(parents=True)
        (home / "versions" / name / "model_index.json").write_text("{}")
    versions = {name: {"step": step, "validation_loss": 1 / step} for name, step in steps.items()}
    (home / "versions.json").write_text(json.dumps({"versions": versions, "aliases": aliases}))


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "runs" / "one")
    make_versions(run, {"latest": "v2", "best": "v1"}, v1=10, v2=20)
    (run / "config.json").write_text('{"pretrained_model": "tiny"}')
    return run


def test_names_lead_to_folders(run):
    output_dir = str(run.path.parent)
    for version, name in {"latest": "v2", "best": "v1", "v1": "v1", str(run / "versions" / "v2"): "v2"}.items():
        for run_id in ("one", None):
            folder = str(run / "versions" / name)
            assert catalog.resolve_version(output_dir, run_id, version, "tiny") == (name, folder, run)
    assert catalog.resolve_version(output_dir, "one", "v0", "else") == ("v0", "tiny", run)


def test_a_version_that_lies_elsewhere_belongs_to_no_run(run, tmp_path):
    shutil.copytree(run / "versions" / "v1", tmp_path / "mine")
    mine = str(tmp_path / "mine")
    assert catalog.resolve_version("nowhere", None, mine, "tiny") == ("mine", mine, None)


def test_names_that_are_not_there(run, tmp_path):
    output_dir = str(run.path.parent)
    with pytest.raises(UserError, match="there is no run in"):
        catalog.resolve_version(str(tmp_path / "empty"), None, "latest", "tiny")
    assert catalog.resolve_version(str(tmp_path / "empty"), None, "v0", "tiny") == ("v0", "tiny", None)
    with pytest.raises(UserError, match=r"no run two in .*; there: one; .*--tracker"):
        catalog.resolve_version(output_dir, "two", "latest", "tiny")
    with pytest.raises(UserError, match=r"no run two in .* nor in wandb; there: one; --output_dir"):
        catalog.find_run(output_dir, "two", "wandb")
    with pytest.raises(UserError, match="run one has no version v9; there: v0, v1, v2, latest, best"):
        catalog.resolve_version(output_dir, "one", "v9", "tiny")
    with pytest.raises(UserError, match=r"expected v0, v1 ..., latest, best, or a folder"):
        catalog.resolve_version(output_dir, "one", "newest", "tiny")
    with pytest.raises(UserError, match=r"it has no model_index\.json"):
        catalog.resolve_version(output_dir, "one", str(run / "versions"), "tiny")


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"versions": [], "aliases": {}}'])
def test_a_damaged_version_index_is_named(run, text):
    (run / "versions.json").write_text(text)
    with pytest.raises(UserError, match=r"can't read .*versions\.json"):
        catalog.resolve_version(str(run.path.parent), "one", "latest", "tiny")


def test_a_version_whose_folder_was_deleted_is_named(run):
    shutil.rmtree(run / "versions" / "v2")
    with pytest.raises(UserError, match=r"^version v2 should be in .*v2, and that folder is gone"):
        catalog.resolve_version(str(run.path.parent), "one", "latest", "tiny")


def test_fetched_versions_stand_in_where_the_run_has_no_files(run):
    fetched = run.fetched
    make_versions(fetched, {"latest": "v3", "best": "v3"}, v1=10, v3=30)
    assert catalog.find_version(run, "v1") == ("v1", run)
    assert catalog.find_version(run, "v3") == ("v3", fetched)
    assert catalog.find_version(run, "latest") == ("v2", run)  # as the run's own list says
    shutil.rmtree(run / "versions" / "v1")
    assert catalog.find_version(run, "best") == ("v1", fetched)
    (run / "versions.json").unlink()
    assert catalog.find_version(run, "best") == ("v3", fetched)
    assert catalog.find_version(run, "v2") == ("v2", None)
    assert catalog.version_entry(run, "v3").step == 30 and catalog.version_entry(run, "v0").step == 0


def another(run, name, settings='{"pretrained_model": "tiny"}'):
    """A run beside `run`, without versions yet."""
    other = RunFolder(run.path.parent / name)
    other.path.mkdir()
    other.config.write_text(settings)
    other.version_index.write_text('{"versions": {}, "aliases": {}}')
    return other


def test_runs_are_listed_in_the_order_of_their_last_start(run):
    """That of old runs, which do not say when they started, by their file's time."""
    other = another(run, "two")
    os.utime(other.config, (1, 1))
    assert catalog.list_runs(run.path.parent) == [other, run] and catalog.find_run(run.path.parent, None) == run


def test_the_newest_run_is_newest_by_what_it_says(run, monkeypatch):
    """A clock that was set back, and files whose times were lost in a copy."""
    two, three = another(run, "two"), another(run, "three")
    for started, now in ((run, 5e9), (two, 4e9), (three, 6e9)):  # all beyond the files' times
        monkeypatch.setattr("time.time", lambda now=now: now)
        catalog.record_start(started)
    assert catalog.list_runs(run.path.parent) == [run, two, three]
    monkeypatch.setattr("time.time", lambda: 1.0)
    catalog.record_start(run)  # resumed
    for number, older in enumerate((run, two, three)):
        os.utime(older.config, (8e9 - number, 8e9 - number))
    assert catalog.list_runs(run.path.parent) == [two, three, run] and catalog.find_run(run.path.parent, None) == run


@pytest.mark.parametrize(
    "damaged", ["", "[]", '{"time": "now"}', '{"time": NaN}', '{"time": null}', '{"time": 1' + "0" * 400 + "}"]
)
def test_a_run_that_does_not_say_when_it_started_is_as_old_as_its_file(run, damaged):
    run.started.write_text(damaged)
    os.utime(run.config, (7, 7))
    assert catalog.start_time(run) == 7


def test_the_newest_folder_that_is_no_run_is_passed_over(run):
    """The folder of a model, which has a config.json too; one that has nothing but options."""
    model, options = another(run, "model", '{"_class_name": "UNet2DConditionModel"}'), another(run, "options")
    options.version_index.unlink()
    os.utime(run.config, (1, 1))
    assert catalog.list_runs(run.path.parent)[0] == run
    assert catalog.find_run(run.path.parent, None) == catalog.newest_run(run.path.parent) == run
    assert catalog.resolve_version(run.path.parent, None, "latest", "tiny")[0] == "v2"
    shutil.rmtree(run.path)
    assert catalog.resolve_version(model.path.parent, None, "v0", "tiny") == ("v0", "tiny", None)
    with pytest.raises(UserError, match="there is no run in"):
        catalog.find_run(model.path.parent, None)


def test_a_damaged_newest_run_is_not_passed_over(run):
    lost = another(run, "lost")
    lost.version_index.unlink()
    lost.states.mkdir()
    assert catalog.find_run(run.path.parent, None) == lost
    damaged = another(run, "two", "{")
    with pytest.raises(UserError, match="run two has no version latest"):
        catalog.resolve_version(run.path.parent, None, "latest", "tiny")
    assert catalog.find_run(run.path.parent, None) == damaged


def test_a_version_that_training_drops_while_it_is_read(run):
    source = str(run.version("v2"))
    with pytest.raises(UserError, match="cut"), catalog.reading_version(source):
        raise UserError("cut")
    index = json.loads(run.version_index.read_text())
    del index["versions"]["v2"]
    index["aliases"] = {alias: name for alias, name in index["aliases"].items() if name != "v2"}
    run.version_index.write_text(json.dumps(index))
    for problem in (UserError("cut"), FileNotFoundError("cut")):
        with (
            pytest.raises(UserError, match=r"version v2 of run .* was deleted while it was read.*start this again"),
            catalog.reading_version(source),
        ):
            raise problem
    with pytest.raises(UserError, match="cut"), catalog.reading_version("mini"):
        raise UserError("cut")


def test_only_complete_states_count(run):
    for step, complete in ((10, True), (20, False)):
        folder = run / "state" / f"{step:09d}"
        folder.mkdir(parents=True)
        if complete:
            (folder / "position.json").write_text("{}")
    assert run.saved_steps() == [10]


def test_scores_are_kept_for_each_version_and_kind(run):
    assert scores.read_scores(run) == {}
    for version, name, distance in (("v1", "FID", 9.0), ("v1", "FD", 5.0), ("v2", "FID", 8.0), ("v1", "FID", 7.0)):
        score = {"score": name, "distance": distance, "n": 4}
        scores.add_score(run, version, scores.Score.from_json(score))
    found = {v: {name: s.distance for name, s in of.items()} for v, of in scores.read_scores(run).items()}
    assert found == {"v1": {"FID": 7.0, "FD": 5.0}, "v2": {"FID": 8.0}}


@pytest.mark.parametrize("text", ['{"v0": 3}', '{"v0": {"FID": 4.5}}', "[]"])
def test_a_file_without_scores_is_named(run, text):
    (run / "scores.json").write_text(text)
    with pytest.raises(UserError, match=r"can't read .*scores\.json"):
        scores.read_scores(run)
