"""Each tracker by the calls that uploader.py and artifacts.py make, with the real libraries.

wandb keeps much in its process, so it runs in processes of its own, online against the stand-in on loopback.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image
from support import processes
from support.wandb_stand_in import ENTITY, KEY, StandIn

from common.errors import UserError
from config import RunsOptions
from tracking import trackers
from tracking.trackers import STATES, VERSIONS, TrackerError

OTHER_KEY = "feedbead" * 5


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """No key and no settings of the user's, in a home of this test."""
    for name in [*filter(lambda name: name.startswith("WANDB_"), os.environ)]:
        monkeypatch.delenv(name)
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")  # Wandb sets it: have it put back
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def options(tmp_path, store):
    return RunsOptions(tracker="trackio", wandb_project=tmp_path.name)


@pytest.fixture
def picture(tmp_path):
    """Path and pixels (4, 6, 3) of a PNG."""
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png", pixels


def make_folder(parent, name="folder", **files):
    """A folder with files {name: text}."""
    folder = parent / name
    folder.mkdir()
    for path, text in files.items():
        (folder / path).write_text(text)
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# What they have in common


def test_an_error_becomes_one_line_without_the_key(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with pytest.raises(TrackerError) as caught, trackers.tracker_errors("wandb"):
        raise RuntimeError(f"bad\n  request\t{KEY} and\r\n{KEY}")
    assert str(caught.value) == "wandb: bad request *** and ***"
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("offset", range(150, 220, 7))
def test_no_part_of_the_key_stays_where_the_line_is_cut(monkeypatch, offset):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with pytest.raises(TrackerError) as caught, trackers.tracker_errors("wandb"):
        raise RuntimeError("x" * offset + KEY + "y" * 500)
    assert len(str(caught.value)) <= 210
    assert KEY[:4] not in str(caught.value)


def test_an_error_without_words_has_its_name_and_ours_pass_unchanged(monkeypatch):
    with pytest.raises(TrackerError, match=r"^trackio: TimeoutError$"), trackers.tracker_errors("trackio"):
        raise TimeoutError
    monkeypatch.setenv("WANDB_API_KEY", "")  # nothing to hide
    with pytest.raises(TrackerError, match=r"^trackio: abc$"), trackers.tracker_errors("trackio"):
        raise ValueError("abc")
    with pytest.raises(UserError, match=r"^ours$") as caught, trackers.tracker_errors("trackio"):
        raise UserError("ours")
    assert not isinstance(caught.value, TrackerError)
    with pytest.raises(KeyboardInterrupt), trackers.tracker_errors("trackio"):
        raise KeyboardInterrupt


def test_a_place_tells_trackers_servers_and_projects_apart(monkeypatch, store):
    def where(tracker, **more):
        return trackers.location(RunsOptions(tracker=tracker, **more))

    assert (where("none"), where("tensorboard")) == ("none", "tensorboard")
    assert where(None) == "none"
    assert where("wandb") == "wandb https://api.wandb.ai/-/book_cover_generation"
    assert where("wandb", wandb_entity="me", wandb_project="p") == "wandb https://api.wandb.ai/me/p"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    assert where("wandb") == "wandb http://127.0.0.1:1/-/book_cover_generation"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert where(None) == where("wandb") and KEY not in where(None)
    assert where("trackio") == f"trackio {store}/book_cover_generation"
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://localhost:7860?write_token=secret")
    assert where("trackio", wandb_project="p") == "trackio http://localhost:7860/p"  # the token is a key, too
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://me:pa55@localhost:7860")
    assert where("trackio", wandb_project="p") == "trackio http://localhost:7860/p"
    monkeypatch.setenv("WANDB_BASE_URL", "https://me:pa55@wandb.firm.com")
    assert where("wandb") == "wandb https://wandb.firm.com/-/book_cover_generation"
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    assert where("trackio") == "trackio me/space/book_cover_generation"


def test_no_tracker_is_quiet(tmp_path):
    tracker = trackers.connect(RunsOptions(), "one")
    assert (tracker.name, tracker.stores_files, tracker.store) == ("none", False, None)
    tracker.start(tmp_path, {}, 3)
    tracker.log(1, {"loss": 1.0}, {})
    tracker.log_scores(1, {"fid": 1.0})
    assert (
        tracker.last_step() == -1
        and tracker.find(VERSIONS, "one-v1") is None
        and tracker.list_artifacts(VERSIONS) == []
    )
    tracker.finish()
    assert not [path for path in tmp_path.iterdir() if path.name != "home"]


# ---------------------------------------------------------------------------------------------------------------------
# tensorboard


def read_events(folder):
    """({tag: [(step, number)]}, {tag: [(step, pixels)]}) as tensorboard itself reads them."""
    import io

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    images = {
        tag: [(e.step, np.asarray(Image.open(io.BytesIO(e.encoded_image_string)))) for e in events.Images(tag)]
        for tag in tags["images"]
    }
    return scalars, images


def test_tensorboard_gets_numbers_and_pictures(tmp_path, picture):
    path, pixels = picture
    run = make_folder(tmp_path, "one")
    tracker = trackers.connect(RunsOptions(tracker="tensorboard"), "one")
    tracker.start(run, {"lr": 1e-5}, 0)
    assert tracker.last_step() == -1 and tracker.how_to_view == f"tensorboard --logdir {tmp_path}"
    tracker.log(0, {"validation_loss": 0.75}, {"samples": path})
    tracker.log(1, {"loss": 0.5, "lr_unet": 2**-20}, {})
    tracker.log(2, {"loss": 0.25}, {"samples": path})
    scalars, images = read_events(run / "tensorboard")  # before it ends: lines are brought to the disk at once
    tracker.finish()
    assert scalars == {"validation_loss": [(0, 0.75)], "loss": [(1, 0.5), (2, 0.25)], "lr_unet": [(1, 2**-20)]}
    assert [step for step, _ in images["samples"]] == [0, 2]
    assert all((image == pixels).all() for _, image in images["samples"])


@pytest.mark.parametrize("resumed", [0, 4])
def test_tensorboard_begins_anew_at_each_start(tmp_path, resumed):
    """All is written again from metrics.jsonl, so what a killed run logged after its last save is gone."""

    def start(step):
        tracker = trackers.connect(RunsOptions(tracker="tensorboard"), "one")
        tracker.start(tmp_path, {}, step)
        return tracker

    killed = start(0)
    for step in range(8):
        killed.log(step, {"loss": float(step)}, {})
    tracker = start(resumed)
    assert tracker.last_step() == -1
    for step in range(10):
        tracker.log(step, {"loss": step + 0.5}, {})
    tracker.finish()
    assert read_events(tmp_path / "tensorboard")[0]["loss"] == [(step, step + 0.5) for step in range(10)]


def test_a_tensorboard_folder_that_can_not_be_made_is_blamed(tmp_path):
    (tmp_path / "one").write_text("a file where the run's folder should be")
    with pytest.raises(TrackerError, match=r"^tensorboard: "):
        trackers.connect(RunsOptions(tracker="tensorboard"), "one").start(tmp_path / "one", {}, 0)


# ---------------------------------------------------------------------------------------------------------------------
# trackio


@contextlib.contextmanager
def trackio(options, run_id="one", config=None):
    tracker = trackers.connect(options, run_id)
    tracker.start(pathlib.Path("unused"), config or {}, 0)
    yield tracker
    tracker.finish()


def rows(options, run_id="one"):
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs(options.wandb_project, run_id)
    return [{key: value for key, value in row.items() if key != "timestamp"} for row in logs]


def test_trackio_resumes_a_run_by_its_id(options, picture, capsys, store):
    from trackio.sqlite_storage import SQLiteStorage

    with trackio(options, config={"lr": 1e-5}) as tracker:
        assert tracker.last_step() == -1 and tracker.store == store
        assert tracker.how_to_view == f"trackio show --project {options.wandb_project}"
        tracker.log(0, {"validation_loss": 1.0}, {})
        tracker.log(1, {"loss": 0.5}, {"samples": picture[0]})
    with trackio(options, config={"lr": 1e-5}) as tracker:
        assert tracker.last_step() == 1
        tracker.log(2, {"loss": 0.25}, {})
    with trackio(options, "two") as tracker:
        assert tracker.last_step() == -1
        tracker.log(7, {"loss": 0.125}, {})
    image = rows(options)[1].pop("samples")
    assert image["_type"] == "trackio.image"
    (kept,) = (store / "media").rglob(f"{options.wandb_project}/**/*.png")
    assert (np.asarray(Image.open(kept)) == picture[1]).all()
    assert [(row["step"], row.get("loss")) for row in rows(options)] == [(0, None), (1, 0.5), (2, 0.25)]
    assert rows(options, "two") == [{"step": 7, "loss": 0.125}]
    assert SQLiteStorage.get_runs(options.wandb_project) == ["one", "two"]
    assert SQLiteStorage.get_run_config(options.wandb_project, "one")["lr"] == 1e-5
    shown = capsys.readouterr()
    assert shown.out == "" == shown.err


def test_trackio_finds_the_newest_of_an_alias(options, tmp_path):
    with trackio(options) as tracker:
        tracker.log(1, {"loss": 1.0}, {})
        first = make_folder(tmp_path, "first", a="1", b="2")
        tracker.publish(VERSIONS, first, ["one-v1", "one-latest"], {"step": 1, "nested": {"a": [1, "x"]}})
        assert tracker.find(VERSIONS, "one-latest").metadata == {"step": 1, "nested": {"a": [1, "x"]}}
        tracker.publish(VERSIONS, make_folder(tmp_path, "second", a="1", b="3"), ["one-v2", "one-latest"], {"step": 2})
    tracker = trackers.connect(options, "one")  # another process need not start the run to read
    for alias, step in {"one-v1": 1, "one-v2": 2, "one-latest": 2}.items():
        assert tracker.find(VERSIONS, alias).metadata["step"] == step
    assert {*tracker.find(VERSIONS, "one-v1").aliases} == {"one-v1"}
    assert {"one-v2", "one-latest"} <= {*tracker.find(VERSIONS, "one-v2").aliases}
    tracker.download(tracker.find(VERSIONS, "one-v1"), tmp_path / "came")
    assert {path.name: path.read_text() for path in (tmp_path / "came").iterdir()} == {"a": "1", "b": "2"}
    tracker.finish()


def test_trackio_finds_nothing_where_there_is_nothing(options, tmp_path):
    tracker = trackers.connect(options, "one")
    assert tracker.find(VERSIONS, "one-latest") is None  # no project
    assert tracker.list_artifacts(VERSIONS) == []
    with trackio(options, "two") as other:
        other.log(1, {"loss": 1.0}, {})
        assert other.find(VERSIONS, "one-latest") is None  # no collection
        other.publish(VERSIONS, make_folder(tmp_path, a="1"), ["two-v1"], {})
        assert other.find(VERSIONS, "two-v2") is None and other.find(STATES, "two-v1") is None
    assert tracker.find(VERSIONS, "one-v1") is None  # no such run
    assert tracker.list_artifacts(STATES) == [] and rows(options) == []
    tracker.finish()


def test_trackio_lists_every_version_of_every_run(options, tmp_path):
    for number, run_id in enumerate(["one", "two", "one"]):
        with trackio(options, run_id) as tracker:
            tracker.log(number, {"loss": 1.0}, {})
            folder = make_folder(tmp_path, str(number), a=str(number))
            tracker.publish(VERSIONS, folder, [f"{run_id}-v{number}", f"{run_id}-latest"], {"n": number})
            tracker.publish(STATES, folder, [f"{run_id}-latest"], {"n": -1})
    listed = trackers.connect(options, "listing").list_artifacts(VERSIONS)
    assert [artifact.metadata["n"] for artifact in listed] == [0, 1, 2]
    ours = [{alias for alias in artifact.aliases if alias != "latest"} for artifact in listed]
    assert ours == [{"one-v0"}, {"two-v1", "two-latest"}, {"one-v2", "one-latest"}]


def test_trackio_scores_a_version_of_long_ago(options):
    with trackio(options) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {"loss": 1.0}, {})
    tracker = trackers.connect(options, "one")
    tracker.log_scores(2, {"fid": 12.5})
    tracker.finish()
    assert {"step": 2, "fid": 12.5} in rows(options)
    with trackio(options) as tracker:
        assert tracker.last_step() == 3
    stranger = trackers.connect(options, "two")
    with pytest.raises(TrackerError, match=r"^trackio: Run 'two' does not exist"):
        stranger.log_scores(2, {"fid": 1.0})


def test_trackio_that_fails_is_blamed(options, tmp_path):
    with trackio(options) as tracker:
        with pytest.raises(TrackerError, match=r"^trackio: "):
            tracker.publish(VERSIONS, tmp_path / "not there", ["one-v1"], {})
        with pytest.raises(TrackerError, match=r"^trackio: Alias 'v1' is reserved"):
            tracker.publish(VERSIONS, make_folder(tmp_path, a="1"), ["v1"], {})
        with pytest.raises(TrackerError, match=r"^trackio: "):
            tracker.log(1, {}, {"samples": tmp_path / "not there.png"})


# ---------------------------------------------------------------------------------------------------------------------
# wandb: the key


def test_without_a_key_wandb_says_how_to_give_one(tmp_path, capsys):
    options = RunsOptions(tracker="wandb")
    with pytest.raises(UserError, match=r"^wandb has no key: set WANDB_API_KEY, give --wandb_key, run `wandb login`"):
        trackers.connect(options, "one")
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine elsewhere.com\n login user\n password {KEY}\n")
    netrc.chmod(0o600)
    with pytest.raises(UserError, match="wandb has no key"):
        trackers.connect(options, "one")
    netrc.write_text("machine\n")  # damaged
    with pytest.raises(UserError, match="wandb has no key"):
        trackers.connect(options, "one")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("url", ["https://api.wandb.ai", "http://127.0.0.1:8080", "https://wandb.firm.com/"])
def test_a_key_of_wandb_login_is_found(tmp_path, monkeypatch, url):
    if "api" not in url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
    host = url.split("/")[2].split(":")[0]
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine {host}\n login user\n password {KEY}\n")
    netrc.chmod(0o600)
    tracker = trackers.connect(RunsOptions(tracker="wandb"), "one")
    assert tracker.stores_files and not tracker.offline
    assert KEY not in tracker.location


def test_a_key_in_the_netrc_that_the_environment_names_is_found(tmp_path, monkeypatch):
    netrc = tmp_path / "mine"
    netrc.write_text(f"machine api.wandb.ai\n login user\n password {KEY}\n")
    netrc.chmod(0o600)
    with pytest.raises(UserError, match="wandb has no key"):
        trackers.require_key(RunsOptions(tracker="wandb"))
    monkeypatch.setenv("NETRC", str(netrc))
    trackers.require_key(RunsOptions(tracker="wandb"))


@pytest.mark.parametrize("key", [KEY[:39], "x"])
def test_a_key_that_is_too_short_is_not_sent_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(UserError, match=r"^the wandb key is too short") as caught:
        trackers.connect(RunsOptions(), "one")
    assert KEY[:39] not in str(caught.value)


def test_a_key_in_the_environment_turns_wandb_on(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracker = trackers.connect(RunsOptions(), "one")
    assert tracker.name == "wandb" and tracker.stores_files
    tracker.finish()  # that never started


@pytest.mark.parametrize("mode", ["offline", "dryrun"])
def test_offline_wandb_needs_no_key_and_stores_no_files(monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    tracker = trackers.connect(RunsOptions(tracker="wandb"), "one")
    assert not tracker.stores_files


# ---------------------------------------------------------------------------------------------------------------------
# wandb: runs


def client(server, home, code, run_id="one", entity="", **environment):
    """What `code` put into `answer`, in a process with a home of its own."""
    home.mkdir(parents=True, exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(processes.ROOT)} | environment
    environment |= server.environment if server else {}
    words = [sys.executable, "-m", "support.wandb_program", code, run_id, str(home), entity]
    done = processes.run(words, env=environment, cwd=home, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 1 and KEY not in done.stderr + done.stdout, done.stdout
    return json.loads(said[-1])


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A run that is started on one machine and resumed on another, with versions; what both saw, and the server."""
    home = tmp_path_factory.mktemp("wandb")
    with StandIn() as server:
        first = client(
            server,
            home / "first",
            """
from PIL import Image
Image.new("RGB", (8, 8), "red").save(folder / "red.png")
answer["before"] = [tracker.find(VERSIONS, "one-latest"), tracker.list_artifacts(VERSIONS)]
tracker.start(folder, {"lr": 1e-5, "seed": 3}, 0)
answer["last"], answer["look"] = tracker.last_step(), tracker.how_to_view
tracker.log(0, {"validation_loss": 1.0}, {"samples": folder / "red.png"})
for step in range(1, 11):
    tracker.log(step, {"loss": 1 / step}, {})
tracker.publish(VERSIONS, make("v1", a="same", b="1"), ["one-v1", "one-latest", "one-best"], {"step": 5})
tracker.publish(VERSIONS, make("v2", a="same", b="2"), ["one-v2", "one-latest"], {"step": 10, "files": {"a": [1, "x"]}})
tracker.publish(STATES, make("state", a="3"), ["one-latest"], {"step": 10})
tracker.finish()
""",
        )
        second = client(
            server,
            home / "second",
            """
for alias in ("one-v1", "one-v2", "one-latest", "one-best", "one-v3", "two-latest"):
    found = tracker.find(VERSIONS, alias)
    answer[alias] = found and found.metadata["step"]
answer["metadata"] = tracker.find(VERSIONS, "one-v2").metadata
answer["aliases"] = [a for a in tracker.find(VERSIONS, "one-v2").aliases]
answer["state"] = tracker.find(STATES, "one-latest").metadata["step"]
answer["listing"] = [[a.metadata["step"], sorted(a.aliases)] for a in tracker.list_artifacts(VERSIONS)]
tracker.download(tracker.find(VERSIONS, "one-v2"), folder / "came")
answer["came"] = {path.name: path.read_text() for path in (folder / "came").iterdir()}
tracker.log_scores(5, {"fid": 12.5})
tracker.start(folder, {"lr": 1e-5, "seed": 3}, 10)
answer["last"] = tracker.last_step()
tracker.log(11, {"loss": 0.5}, {})
tracker.publish(VERSIONS, make("v3", a="same", b="3"), ["one-v3", "one-latest", "one-best"], {"step": 11})
answer["moved"] = {alias: tracker.find(VERSIONS, "one-" + alias).metadata["step"] for alias in ("best", "latest", "v1")}
tracker.finish()
""",
        )
        yield types.SimpleNamespace(first=first, second=second, server=server, home=home)


@pytest.mark.script
def test_wandb_run_is_resumed_by_its_id(story):
    assert story.server.unknown == []
    assert story.first["last"] == -1 and story.first["before"] == [None, []]
    assert story.first["look"] == f"{story.server.url}/{ENTITY}/p/runs/one"
    assert story.second["last"] == 10
    (run,) = story.server.runs.values()
    assert (run["name"], run["project"], run["displayName"], run["complete"]) == ("one", "p", "one", True)
    assert [row["_step"] for row in run["history"]] == list(range(12))
    assert [row["loss"] for row in run["history"][1:]] == [*(1 / step for step in range(1, 11)), 0.5]
    assert {key: run["config"][key]["value"] for key in ("lr", "seed")} == {"lr": 1e-5, "seed": 3}
    assert run["history"][0]["samples"]["_type"] == "image-file"
    assert [name for name in run["files"] if name.startswith("media/images/samples")]


@pytest.mark.script
def test_wandb_score_is_in_the_summary_and_stays_there(story):
    (run,) = story.server.runs.values()
    assert run["summary"]["fid"] == 12.5 and run["summary"]["loss"] == 0.5


@pytest.mark.script
def test_wandb_versions_are_found_from_another_machine(story):
    found = {key: value for key, value in story.second.items() if key.startswith(("one-", "two-"))}
    assert found == {"one-v1": 5, "one-v2": 10, "one-latest": 10, "one-best": 5, "one-v3": None, "two-latest": None}
    assert story.second["metadata"] == {"step": 10, "files": {"a": [1, "x"]}}
    assert {"one-v2", "one-latest"} <= {*story.second["aliases"]}
    assert story.second["state"] == 10 and story.second["came"] == {"a": "same", "b": "2"}
    listed = dict(story.second["listing"])
    assert listed[5] == ["one-best", "one-v1"] and set(listed[10]) == {"latest", "one-latest", "one-v2"}


@pytest.mark.script
def test_wandb_alias_leaves_the_version_that_had_it_and_files_are_sent_once(story):
    assert story.second["moved"] == {"best": 11, "latest": 11, "v1": 5}
    versions = story.server.artifacts[VERSIONS[0]]
    assert [version["type"] for version in versions] == [VERSIONS[1]] * 3
    assert [version["uploaded"] for version in versions] == [{"a", "b"}, {"b"}, {"b"}]
    assert versions[0]["aliases"] == ["one-v1"]


@pytest.mark.script
def test_wandb_key_is_in_no_file_and_no_request(story):
    assert story.server.api_keys == {KEY}
    assert not [body for body in story.server.bodies if KEY in body]
    data = [data for run in story.server.runs.values() for data in run["files"].values()]
    data += [data for versions in story.server.artifacts.values() for v in versions for data in v["files"].values()]
    data += [path.read_bytes() for path in story.home.rglob("*") if path.is_file()]
    assert len(data) > 10 and not [one for one in data if KEY.encode() in one]


@pytest.mark.script
def test_wandb_entity_is_where_all_goes(tmp_path):
    with StandIn() as server:
        answer = client(
            server,
            tmp_path / "home2",
            """
tracker.start(folder, {}, 0)
tracker.log(1, {"loss": 1.0}, {})
tracker.publish(VERSIONS, make("v1", a="1"), ["one-v1"], {"step": 1})
tracker.finish()
answer["found"] = tracker.find(VERSIONS, "one-v1").metadata["step"]
answer["listed"] = len(tracker.list_artifacts(VERSIONS))
tracker.log_scores(1, {"fid": 2.0})
answer["where"] = tracker.location
""",
            entity="team",
        )
        assert server.unknown == []
        assert answer == {"found": 1, "listed": 1, "where": f"wandb {server.url}/team/p"}
        assert server.runs["one"]["entity"] == server.artifacts[VERSIONS[0]][0]["entity"] == "team"
        assert server.runs["one"]["summary"]["fid"] == 2.0


@pytest.mark.script
def test_what_wandb_refuses_is_one_line_with_a_way_out(tmp_path):
    with StandIn() as server:
        server.deleted.add("one")
        server.refused_keys.add(OTHER_KEY)
        answer = client(
            server,
            tmp_path / "home2",
            f"""
shorten_timeout()
answer["deleted"] = refused(lambda: connect().start(folder, {{}}, 0))
answer["nobody"] = refused(lambda: connect(wandb_entity="nobody").start(folder, {{}}, 0))
answer["closed"] = refused(lambda: connect(wandb_entity="closed").start(folder, {{}}, 0))
answer["no project"] = [tracker.find(VERSIONS, "one-latest"), tracker.list_artifacts(VERSIONS)]
os.environ["WANDB_API_KEY"] = "{OTHER_KEY}"
answer["start"] = refused(lambda: tracker.start(folder, {{}}, 0))
answer["find"] = refused(lambda: tracker.find(VERSIONS, "one-latest"))
answer["listing"] = refused(lambda: tracker.list_artifacts(VERSIONS))
answer["score"] = refused(lambda: tracker.log_scores(1, {{"fid": 1.0}}))
""",
        )
    assert answer.pop("no project") == [None, []]
    ends = {"deleted": "or use another --wandb_project", "nobody": "or leave it out for your own"}
    ends |= {"closed": "or ask the project's owner for access", "start": "or give --wandb_key"}
    for case, line in answer.items():
        assert line.startswith("wandb: ") and "\n" not in line and OTHER_KEY not in line
        assert line.endswith(ends.get(case, "or give --wandb_key")), line


@pytest.mark.script
def test_wandb_that_comes_back_gets_what_it_missed(tmp_path):
    """In a run that goes on: one line when it is down, one when it works again, and nothing is lost or doubled."""
    with StandIn() as server:
        server.down = "refuse"
        home = tmp_path / "home2"
        home.mkdir()
        code = """
import config
from support.tracker_runs import make_run
from tracking.uploader import Uploader
shorten_timeout()
options = config.TrainingOptions(output_dir=str(folder / "runs"), tracker="wandb", wandb_project="p")
lines = answer["lines"] = []
with Uploader(make_run(options), options, 20, say=lines.append) as sending:
    answer["missing"] = sending.missing()
    print_answer()
    input()
    sending.version_saved("v2")
answer["missing"] = sending.missing()
"""
        process = processes.Process(
            [sys.executable, "-m", "support.wandb_program", code, "one", str(home), ""],
            env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(processes.ROOT)} | server.environment,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        before = json.loads(process.stdout.readline())
        server.down = False
        text, _ = process.communicate("\n", timeout=60)
        assert process.returncode == 0
        after = json.loads(text.splitlines()[-1])
        assert before["missing"] == ["v1", "v2", "state"] and after["missing"] == []
        (warning,) = before["lines"]
        assert warning.startswith("warning: wandb: ") and "\n" not in warning and KEY not in warning
        assert warning.endswith("--tracker wandb --publish")
        assert after["lines"][0] == warning and after["lines"][-1] == "wandb works again" and len(after["lines"]) == 3
        assert [row["_step"] for row in server.runs["one"]["history"]] == list(range(21))
        assert [row["loss"] for row in server.runs["one"]["history"][1:]] == [step / 100 for step in range(1, 21)]
        assert len(server.artifacts[VERSIONS.name]) == 2 and len(server.artifacts[STATES.name]) == 1
        assert server.unknown == []


@pytest.mark.script
def test_offline_runs_lose_and_double_nothing(tmp_path):
    """Killed after update 12, its last save being that of update 10: the folder was not synced and is replaced by one
    with everything. That is synced, killed after update 20, and resumed at 18: a second folder begins there."""
    home = tmp_path / "home2"
    life = """
from PIL import Image
Image.new("RGB", (8, 8), "red").save(folder / "red.png")
tracker.start(folder, {{"lr": 1e-5}}, {step})
answer["last"], answer["look"], answer["files"] = tracker.last_step(), tracker.how_to_view, tracker.stores_files
for step in range(tracker.last_step() + 1, {end}):
    tracker.log(step, {{"loss": step / 100}}, {{"samples": folder / "red.png"}} if step == 0 else {{}})
tracker.finish()
"""

    def live(step, end):
        answer = client(None, home, life.format(step=step, end=end), WANDB_MODE="offline", WANDB_API_KEY=KEY)
        folders = sorted((home / "wandb").glob("offline-run-*-one"))
        assert answer == {"last": answer["last"], "look": f"offline, {folders[-1]}", "files": False}
        time.sleep(1.1)  # the folders' names have seconds
        return answer["last"], folders

    with StandIn() as server:

        def sync(folder):
            environment = {"PATH": os.environ["PATH"], "HOME": str(home)} | server.environment
            words = [sys.executable, "-m", "wandb", "sync", str(folder)]
            processes.run(words, env=environment, cwd=home, check=True, capture_output=True, timeout=60)
            return [row["loss"] for row in server.runs["one"]["history"]]

        everything = [step / 100 for step in range(26)]
        last, (killed,) = live(0, 13)
        assert last == -1
        last, (replaced,) = live(10, 21)
        assert last == -1 and replaced != killed
        assert sync(replaced) == everything[:21]
        run = server.runs["one"]
        assert run["config"]["lr"]["value"] == 1e-5 and run["history"][0]["samples"]["_type"] == "image-file"
        last, (kept, added) = live(18, 26)
        assert last == 18 and kept == replaced
        assert sync(added) == everything[:21] + everything[19:]
