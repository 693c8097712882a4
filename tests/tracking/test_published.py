"""published.json: what a file of another shape leads to, and that the files of earlier versions still load."""

import json
import threading

import pytest

import runs
from checkpoints.run_folder import RunFolder
from cli import launch
from common.errors import UserError
from config import TrainingOptions
from tracking.published import (
    Published,
    correct_published,
    forget_version,
    read_all_published,
    read_published,
    record_published,
)
from tracking.uploader import Uploader

GOOD = {"versions": {"v1": 10, "v2": 20}, "aliases": {"v1": "v1", "latest": "v2"}, "state": 20}
DAMAGED = {
    "the file is a list": ([], "one JSON object"),
    "a tracker has a list": ({"wandb x": []}, "one object for each tracker"),
    "a tracker has null": ({"wandb x": None}, "one object for each tracker"),
    "a tracker without a name": ({" ": GOOD}, "a tracker has no name"),
    "versions null": ({"wandb x": {**GOOD, "versions": None}}, "'versions'"),
    "versions a list": ({"wandb x": {**GOOD, "versions": ["v1"]}}, "'versions'"),
    "a step is text": ({"wandb x": {**GOOD, "versions": {"v1": "10"}}}, "'versions'"),
    "a step is 1e30": ({"wandb x": {**GOOD, "versions": {"v1": 1e30}}}, "'versions'"),
    "a step is true": ({"wandb x": {**GOOD, "versions": {"v1": True}}}, "'versions'"),
    "a step is negative": ({"wandb x": {**GOOD, "versions": {"v1": -1}}}, "'versions'"),
    "aliases null": ({"wandb x": {**GOOD, "aliases": None}}, "'aliases'"),
    "an alias is a number": ({"wandb x": {**GOOD, "aliases": {"latest": 2}}}, "'aliases'"),
    "state text": ({"wandb x": {**GOOD, "state": "20"}}, "'state'"),
    "state 1e30": ({"wandb x": {**GOOD, "state": 1e30}}, "'state'"),
    "state true": ({"wandb x": {**GOOD, "state": True}}, "'state'"),
    "the second tracker is damaged": ({"trackio y": GOOD, "wandb x": {**GOOD, "state": []}}, "'state'"),
}


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.path.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"pretrained_model": "tiny"}))
    return folder


def write(run, value):
    (run / "published.json").write_text(json.dumps(value))


def test_a_file_of_an_earlier_version_loads_and_is_written_as_it_was(run):
    before = json.dumps({"wandb x": GOOD, "trackio y": {"versions": {}, "aliases": {}, "state": None}}, indent=1) + "\n"
    (run / "published.json").write_text(before)
    assert read_published(run, "wandb x") == Published(GOOD["versions"], GOOD["aliases"], 20)
    assert read_published(run, "trackio y") == read_published(run, "elsewhere") == Published()
    record_published(run, "wandb x", "v2", 20, ["latest"])
    assert (run / "published.json").read_text() == before


def test_keys_that_are_missing_take_their_defaults(run):
    write(run, {"wandb x": {"versions": {"v1": 10}}})
    assert read_published(run, "wandb x") == Published({"v1": 10})


def test_a_record_goes_through_json_unchanged():
    record = Published({"v1": 10}, {"best": "v1"}, 30)
    assert Published.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(("value", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_another_shape_is_one_line_with_the_file_and_the_remedy(run, value, reason):
    write(run, value)
    before = (run / "published.json").read_bytes()
    actions = (
        lambda: read_all_published(run),
        lambda: read_published(run, "wandb x"),
        lambda: record_published(run, "wandb x", "v3", 30),
        lambda: forget_version(run, "v1"),
    )
    for action in actions:
        with pytest.raises(UserError) as caught:
            action()
        line = str(caught.value)
        assert str(run / "published.json") in line and reason in line and "\n" not in line
        assert line.endswith("; delete it: what it records is then uploaded or downloaded once more")
    assert (run / "published.json").read_bytes() == before


@pytest.mark.parametrize(("value", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_the_listing_exits_with_2(run, value, reason, monkeypatch, capsys):
    write(run, value)
    monkeypatch.setattr("sys.argv", ["runs", "--output_dir", str(run.path.parent)])
    with pytest.raises(SystemExit) as ended:
        launch.run_script(runs.main)
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and shown.count("\n") == 1 and str(run / "published.json") in shown


@pytest.mark.parametrize("tracker", ["none", "tensorboard"])
def test_training_learns_it_at_its_start(run, tracker):
    """Not at the first save, hours later."""
    write(run, {"wandb x": None})
    options = TrainingOptions(output_dir=str(run.path.parent), tracker=tracker)
    with pytest.raises(UserError, match=r"published\.json"), Uploader(run, options, 0):
        raise AssertionError("the training would have begun")


def test_two_uploads_of_one_run_at_once_lose_nothing(run):
    """Training sends to wandb while `runs --publish` sends to trackio: each adds to what the other has written."""

    def record(location):
        for step in range(1, 41):
            record_published(run, location, f"v{step}", step, [f"v{step}", "latest"])

    threads = [threading.Thread(target=record, args=(location,)) for location in ("wandb x", "trackio y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    published = read_all_published(run)
    assert {at: len(has.versions) for at, has in published.items()} == {"wandb x": 40, "trackio y": 40}
    assert {has.aliases["latest"] for has in published.values()} == {"v40"}


def test_what_the_tracker_confirms_stays_and_what_it_lost_goes():
    sent = Published({"v1": 10, "v2": 20, "v3": 30}, {"latest": "v3", "best": "v1"}, 30)
    assert sent.confirmed_by(sent) == sent
    assert sent.confirmed_by(Published()) == Published()
    now = Published({"v1": 10, "v2": 15, "v4": 40}, {"latest": "v4"}, 40)  # v2 is another; v4 was never sent from here
    assert sent.confirmed_by(now) == Published({"v1": 10}, {"latest": "v4"}, None)


def test_an_answer_corrects_only_its_own_tracker(run):
    for location in ("wandb x", "trackio y"):
        record_published(run, location, "v1", 10, ["v1"])
    correct_published(run, "trackio y", Published())
    correct_published(run, "elsewhere", Published({"v1": 10}))
    assert read_all_published(run) == {"wandb x": Published({"v1": 10}, {"v1": "v1"}), "trackio y": Published()}
