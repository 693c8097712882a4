"""What a tracker has is asked, not remembered: published.json alone proves nothing. With the real trackio."""

import dataclasses
import shutil
import types

import pytest
from support.tracker_runs import make_run, publish_all

import runs
from tracking import asking, trackers
from tracking.published import Published, read_published
from tracking.uploader import Uploader

WHOLE = Published({"v1": 10, "v2": 20}, {"v1": "v1", "v2": "v2", "latest": "v2", "best": "v2"}, 20)  # see make_run


@pytest.fixture
def run(options):
    return make_run(options)


def lose(store, options):
    """The project's data base and files in trackio's folder are gone, as if somebody had moved them."""
    for path in [path for path in store.rglob("*") if options.wandb_project in path.name]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def on_the_tracker(options):
    """(what trackio has of run one, the steps of its curve)."""
    from trackio.sqlite_storage import SQLiteStorage

    tracker = trackers.connect(options, "one")
    has = asking.ask_tracker(tracker, "one", ["v1", "v2", "latest", "best"])
    tracker.finish()
    return has, [row["step"] for row in SQLiteStorage.get_logs(options.wandb_project, "one")]


def runs_command(options, *words):
    return runs.main(["--output_dir", options.output_dir, "--wandb_project", options.wandb_project, *words])


def test_a_store_that_was_moved_away_gets_everything_once_more(options, run, store, capsys):
    publish_all(options, run)
    lose(store, options)
    assert read_published(run, trackers.location(options)) == WHOLE  # what was said in the past
    assert runs_command(options, "--run_id", "one") == 0
    assert "trackio" not in capsys.readouterr().out
    assert runs_command(options, "--run_id", "one", "--publish") == 0
    assert "publishing: v1, v2, state\n" in capsys.readouterr().out
    assert on_the_tracker(options) == (WHOLE, list(range(21)))
    assert runs_command(options, "--run_id", "one", "--publish") == 0
    assert "publishing: curves; versions and state are there already\n" in capsys.readouterr().out


def test_a_run_that_goes_on_uploads_what_the_tracker_has_lost(options, run, store):
    publish_all(options, run)
    lose(store, options)
    with Uploader(run, options, 20, say=lambda _: None):
        pass
    assert on_the_tracker(options) == (WHOLE, list(range(21)))


def test_one_lost_version_is_uploaded_again_and_no_other(options, run, monkeypatch):
    """v1 is gone from the tracker; and v2 there is of another step: another past of the run used the name."""
    publish_all(options, run)
    answers = [
        dataclasses.replace(WHOLE, versions={"v2": 20}),
        dataclasses.replace(WHOLE, versions={"v1": 10, "v2": 15}),
        dataclasses.replace(WHOLE, aliases=WHOLE.aliases | {"best": "v1"}),
        dataclasses.replace(WHOLE, state=None),
        WHOLE,
    ]
    missing, before = [], run.published.read_text()
    monkeypatch.setattr(Uploader, "upload_next", lambda _: False)
    for answer in answers:
        run.published.write_text(before)
        monkeypatch.setattr(asking, "ask_tracker", lambda *_, answer=answer: answer)
        with Uploader(run, options, 20, say=lambda _: None) as sending:
            missing.append(sending.missing())
    assert missing == [["v1"], ["v2"], ["v2"], ["state"], []]


def test_asking_takes_one_call_for_the_versions_and_one_for_the_state(options, run, monkeypatch):
    publish_all(options, run)
    calls = []
    for name in ("find", "list_artifacts"):
        real = getattr(trackers.Trackio, name)
        monkeypatch.setattr(
            trackers.Trackio, name, lambda self, *args, name=name, real=real: calls.append(name) or real(self, *args)
        )
    assert on_the_tracker(options)[0] == WHOLE
    assert sorted(calls) == ["find", "list_artifacts"]


def test_a_tracker_that_can_not_list_is_asked_for_each_name(options, run, monkeypatch):
    """trackio on a server."""
    publish_all(options, run)
    monkeypatch.setattr(trackers.Trackio, "can_list", property(lambda _: False))
    monkeypatch.setattr(trackers.Trackio, "list_artifacts", None)
    assert on_the_tracker(options)[0] == WHOLE


def test_other_runs_and_foreign_artifacts_are_not_counted():
    def artifact(aliases, **metadata):
        return types.SimpleNamespace(aliases=aliases, metadata={"files": {}, **metadata})

    kept = [
        artifact(["one-v1", "v0"], run_id="one", version="v1", step=10),
        artifact(["one-v2", "one-latest", "latest"], run_id="one", version="v2", step=20),
        artifact(["v3"], run_id="one", version="v3", step=30),  # its name is another's now, or was taken away
        artifact(["one-two-v1"], run_id="one-two", version="v1", step=11),
        artifact(["one-v4"], run_id="one", version="v4", step="9"),
        artifact(["one-best"], run_id="one", version="../x", step=5),
    ]
    tracker = types.SimpleNamespace(name="x", can_list=True, find=lambda *_: None, list_artifacts=lambda _: kept)
    assert asking.ask_tracker(tracker, "one", []) == Published(
        {"v1": 10, "v2": 20}, {"v1": "v1", "v2": "v2", "latest": "v2"}, None
    )
