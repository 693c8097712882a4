"""What goes to a tracker and comes back, with the real trackio in a folder of its own."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from support import processes
from support.tracker_runs import (
    SHARED,
    TRAINED,
    add_version,
    make_run,
    noise,
    publish_all,
    read,
    write_index,
)

import config
from checkpoints import catalog, versions
from checkpoints.records import SavedVersion, VersionIndex
from checkpoints.run_folder import RunFolder
from checkpoints.state import read_state
from common.errors import UserError
from tracking import artifacts, trackers
from tracking.published import Published, forget_version, read_all_published, read_published, record_published
from trainer.resume import find_run_to_resume


@pytest.fixture
def elsewhere(options, tmp_path):
    """Those of another machine, where nothing is on disk."""
    return dataclasses.replace(options, output_dir=str(tmp_path / "second"))


@pytest.fixture
def downloads(monkeypatch):
    """Counts what is fetched, by the kind and version."""
    counted, download = Counter(), trackers.Trackio.download

    def counting(artifact, folder):
        counted[artifact.type, artifact.metadata["version"]] += 1
        download(artifact, folder)

    monkeypatch.setattr(trackers.Trackio, "download", staticmethod(counting))
    return counted


@pytest.fixture
def outage(monkeypatch):
    """A function that cuts trackio off."""

    def cut(*_, **__):
        raise ConnectionError("no route\nto host")

    return lambda: monkeypatch.setattr(trackers.Trackio, "open", cut)


# ---------------------------------------------------------------------------------------------------------------------
# Packing


def test_a_packed_version_costs_no_space_and_says_what_it_is(options):
    run = make_run(options)
    folder = run / "upload"
    assert artifacts.pack(run, "v2", folder) == ["v2", "latest", "best"]
    assert artifacts.pack(run, "v1", run / "other") == ["v1"]
    version = run / "versions" / "v2"
    for path in read(version):
        assert os.path.samefile(folder / path, version / path), path
    assert set(read(folder)) == {*read(version), "about.json"}
    about = json.loads((folder / "about.json").read_text())
    assert about["options"] == config.to_json(options)
    assert {key: about[key] for key in ("run_id", "kind", "version", "step", "validation_loss")} == {
        "run_id": "one",
        "kind": "version",
        "version": "v2",
        "step": 20,
        "validation_loss": 0.25,
    }
    shutil.rmtree(version)  # pruned meanwhile
    assert (folder / TRAINED).read_bytes() == noise(9000, "v2", 0)


def test_a_packed_state_has_what_a_resumed_run_begins_from(options):
    run = make_run(options)
    folder = run / "upload"
    assert artifacts.pack(run, "state", folder) == ["latest"]
    state = run / "state" / "000000020"
    wanted = {**read(state), "config.json": (run / "config.json").read_bytes()}
    wanted["metrics.jsonl"] = (run / "metrics.jsonl").read_bytes()
    packed = read(folder)
    about = json.loads(packed.pop("about.json"))
    assert about.pop("sent")
    assert about == {"run_id": "one", "kind": "state", "version": "v2", "step": 20}
    assert packed == wanted
    assert os.path.samefile(folder / "optimizer.pt", state / "optimizer.pt")
    with (run / "metrics.jsonl").open("a") as file:  # training goes on while it is sent
        file.write("more\n")
    assert (folder / "metrics.jsonl").read_bytes() == wanted["metrics.jsonl"]


def test_without_hard_links_files_are_copied(options, monkeypatch):
    run = make_run(options)

    def refused(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    artifacts.pack(run, "v1", run / "upload")
    packed = read(run / "upload")
    del packed["about.json"]
    assert packed == read(run / "versions" / "v1")


def test_the_metadata_has_size_and_hash_of_every_file(options):
    run = make_run(options)
    publish_all(options, run, "v1")
    tracker = trackers.connect(options, "one")
    about = tracker.find(trackers.VERSIONS, "one-v1").metadata
    files = about["files"]
    for path, data in read(run / "versions" / "v1").items():
        assert files.pop(path) == [len(data), hashlib.sha256(data).hexdigest()]
    assert files.keys() == {"about.json"}
    assert (about["run_id"], about["version"], about["step"], about["validation_loss"]) == ("one", "v1", 10, 0.5)
    assert about["options"] == config.to_json(options)
    assert tracker.find(trackers.VERSIONS, "one-best") is None  # v2 is that, and was not sent
    tracker.finish()


def test_runs_with_equal_weights_stay_apart_and_share_the_files(options, store):
    for run_id in ("one", "two"):
        publish_all(options, make_run(options, run_id))
    for run_id in ("one", "two"):
        tracker = trackers.connect(options, run_id)
        for alias in ("v1", "v2", "latest", "best"):
            assert tracker.find(trackers.VERSIONS, f"{run_id}-{alias}").metadata["run_id"] == run_id
        assert tracker.find(trackers.STATES, f"{run_id}-latest").metadata["run_id"] == run_id
        tracker.finish()
    blobs = [path for path in (store / "artifacts" / options.wandb_project).rglob("*") if path.is_file()]
    # once for both: shared files, two text encoders, weights and optimizer, position, config and metrics;
    # for each: about.json of two versions and of the state
    assert len(blobs) == len(SHARED) + 2 + 2 + 3 + 2 * 3


# ---------------------------------------------------------------------------------------------------------------------
# published.json


def test_what_was_published_is_recorded_for_each_tracker(tmp_path):
    run = RunFolder(tmp_path)

    def has(location):
        return read_published(run, location)

    record_published(run, "here", "v1", 10, ["v1", "latest", "best"])
    record_published(run, "here", "state", 10, ["latest"])
    record_published(run, "there", "v1", 10)
    assert has("here").aliases == {"v1": "v1", "latest": "v1", "best": "v1"}
    record_published(run, "here", "v2", 20, ["v2", "latest"])
    aliases = {"v1": "v1", "v2": "v2", "latest": "v2", "best": "v1"}  # an alias leaves the version that had it
    assert has("here") == Published({"v1": 10, "v2": 20}, aliases, 10)
    assert has("there") == Published({"v1": 10}, {}, None)
    assert has("nowhere") == Published({}, {}, None)
    forget_version(run, "v1")
    assert has("here").versions == {"v2": 20} and has("here").state == 10
    assert has("there") == Published({}, {}, None)
    forget_version(run, "v9")
    assert read_all_published(run).keys() == {"here", "there"}


# ---------------------------------------------------------------------------------------------------------------------
# A run on another machine


def test_a_run_comes_whole(options, elsewhere, downloads):
    run = make_run(options)
    publish_all(options, run)
    artifacts.fetch_run(elsewhere, "one")
    came = catalog.run_folder(elsewhere.output_dir, "one")
    for name in ("versions/v2", "state"):
        assert read(came / name) == read(run / name)
    assert read(came / "frozen") == read(run / "frozen")
    assert os.path.samefile(came / "frozen/unet/weights.safetensors", came / "versions/v2/unet/weights.safetensors")
    for name in ("config.json", "metrics.jsonl"):
        assert (came / name).read_bytes() == (run / name).read_bytes()
    assert catalog.read_version_index(came) == catalog.read_version_index(run)
    assert read_state(came)[0].step == 20
    has = read_published(came, trackers.location(elsewhere))
    assert (has.versions, has.state) == ({"v1": 10, "v2": 20}, 20)  # v1 is in the tracker, too
    assert downloads == {("model", "v2"): 1, ("state", "v2"): 1}
    artifacts.fetch_run(elsewhere, "one")
    assert downloads.total() == 2
    assert not [path for path in came.path.rglob(".*.tmp")]


def test_the_newer_of_disk_and_tracker_counts(options, elsewhere, downloads):
    publish_all(options, make_run(options))
    old = make_run(elsewhere, steps=(10,), losses=(0.5,))
    artifacts.fetch_run(elsewhere, "one")
    assert read_state(old)[0].step == 20
    assert catalog.read_version_index(old).aliases["latest"] == "v2"
    assert len((old / "metrics.jsonl").read_text().splitlines()) == 21
    assert (old / "versions" / "v2" / TRAINED).read_bytes() == noise(9000, "v2", 0)

    shutil.rmtree(old)
    newer = make_run(elsewhere, steps=(10, 20, 30), losses=(3, 2, 1), seed=5)
    before, count = read(newer), downloads.total()
    artifacts.fetch_run(elsewhere, "one")
    assert downloads.total() == count
    assert read(newer) == before


def test_the_same_update_on_disk_and_in_the_tracker_is_left_alone(options, elsewhere, downloads):
    publish_all(options, make_run(options))
    run = make_run(elsewhere, seed=7)
    before = read(run)
    artifacts.fetch_run(elsewhere, "one")
    assert read(run) == before and not downloads


def test_a_run_that_the_tracker_does_not_know(options, elsewhere):
    artifacts.fetch_run(elsewhere, "one")  # not even the project
    publish_all(options, make_run(options))
    artifacts.fetch_run(elsewhere, "two")
    artifacts.fetch_run(elsewhere, "on")
    assert not pathlib.Path(elsewhere.output_dir).exists()
    with pytest.raises(
        UserError, match=r"no run two in .*, and with --tracker wandb or trackio it is looked for there"
    ):
        catalog.find_run(elsewhere.output_dir, "two")


def test_a_tracker_out_of_reach(options, elsewhere, outage):
    publish_all(options, make_run(options))
    outage()
    line = r"^trackio: no route to host; a state of run one is not in \S*second either; try again when it can be "
    with pytest.raises(trackers.TrackerError, match=line + "reached, or say with --output_dir where the run is$"):
        artifacts.fetch_run(elsewhere, "one")
    assert not pathlib.Path(elsewhere.output_dir).exists()
    run = make_run(elsewhere, steps=(10,), losses=(0.5,))
    before = read(run)
    artifacts.fetch_run(elsewhere, "one")  # goes on from what is there
    assert read(run) == before


def test_no_space_for_what_would_come(options, elsewhere, monkeypatch):
    publish_all(options, make_run(options))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"v2 needs 0\.00 GiB in .* are free: free some space"):
        artifacts.fetch_run(elsewhere, "one")
    assert [path for path in read(pathlib.Path(elsewhere.output_dir)) if ".lock" not in path] == []


def test_a_fetch_that_was_cut_off_goes_on_where_it_was(options, elsewhere, downloads, monkeypatch):
    run = make_run(options)
    publish_all(options, run)
    came = catalog.run_folder(elsewhere.output_dir, "one")
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "download_state", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            artifacts.fetch_run(elsewhere, "one")
    assert (came / "versions" / "v2").is_dir() and not (came / "state").exists()
    artifacts.fetch_run(elsewhere, "one")
    assert downloads == {("model", "v2"): 1, ("state", "v2"): 1}
    assert read(came / "state") == read(run / "state")


# ---------------------------------------------------------------------------------------------------------------------
# Damage


def blob(store, options, data):
    """Where trackio keeps a file of these bytes."""
    digest = hashlib.sha256(data).hexdigest()
    return store / "artifacts" / options.wandb_project / "blobs" / "sha256" / digest[:2] / digest


def change(path):
    data = path.read_bytes()
    path.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [(change, "came damaged from trackio"), (cut, "came damaged from trackio"), (pathlib.Path.unlink, "^trackio: ")],
)
def test_a_damaged_download_is_refused_and_leaves_nothing(options, elsewhere, store, damage, message):
    run = make_run(options)
    publish_all(options, run)
    came = catalog.run_folder(elsewhere.output_dir, "one")
    spoilt = blob(store, options, (run / "versions/v2" / TRAINED).read_bytes())
    good = spoilt.read_bytes()
    damage(spoilt)
    for bring in (
        lambda: artifacts.fetch_run(elsewhere, "one"),
        lambda: artifacts.fetch_version(elsewhere, "one", "v2"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            bring()
        assert "\n" not in str(caught.value)
        assert [path for path in read(came) if ".lock" not in path] == []
        assert not (came / "versions" / "v2").exists() and not list(came.path.glob("versions/.*"))
    artifacts.fetch_version(elsewhere, "one", "v1")  # is not concerned

    spoilt.write_bytes(good)
    optimizer = blob(store, options, (run / "state/000000020/optimizer.pt").read_bytes())
    good = optimizer.read_bytes()
    damage(optimizer)
    with pytest.raises(UserError, match=message):
        artifacts.fetch_run(elsewhere, "one")
    assert not list(came.path.glob("state/*")) and not list(came.path.glob("state/.*"))
    assert not (came / "metrics.jsonl").exists()
    optimizer.write_bytes(good)
    artifacts.fetch_run(elsewhere, "one")
    assert read(came / "state") == read(run / "state")


def test_a_file_that_nobody_sent_is_refused(options, elsewhere, monkeypatch):
    publish_all(options, make_run(options))
    download = trackers.Trackio.download

    def adding(artifact, folder):
        download(artifact, folder)
        (folder / "unet" / "more.bin").write_bytes(b"x")

    monkeypatch.setattr(trackers.Trackio, "download", staticmethod(adding))
    with pytest.raises(UserError, match=r"v2 of one came damaged from trackio \(unet/more\.bin is not what was sent\)"):
        artifacts.fetch_run(elsewhere, "one")
    assert [p for p in read(pathlib.Path(elsewhere.output_dir)) if ".lock" not in p] == []


@pytest.mark.parametrize("name", ["../x", "v1/../../x", "/tmp/x", "", None, 3, "v", "v1\n", "latest", "vx"])
@pytest.mark.parametrize("collection", [trackers.VERSIONS, trackers.STATES])
def test_a_version_name_that_is_none_is_refused(options, elsewhere, tmp_path, collection, name):
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "x.bin").write_bytes(b"x")
    tracker = trackers.connect(options, "one")
    tracker.start(folder, {}, 0)
    tracker.log(0, {"loss": 1.0}, {})
    about = {"run_id": "one", "version": name, "step": 5, "validation_loss": None, "options": {}}
    tracker.publish(collection, folder, ["one-latest"], {**about, "files": artifacts.list_files(folder)})
    tracker.finish()
    before = read(tmp_path)
    with pytest.raises(UserError, match="that is none of ours"):
        if collection == trackers.STATES:
            artifacts.fetch_run(elsewhere, "one")
        else:
            artifacts.fetch_version(elsewhere, "one", "latest")
    after = {path: data for path, data in read(tmp_path).items() if not path.endswith(".lock")}
    assert after == before and not list(tmp_path.rglob("second/**/versions"))


# ---------------------------------------------------------------------------------------------------------------------
# One version on another machine


@pytest.mark.parametrize(("version", "name"), [("latest", "v3"), ("best", "v2"), ("v1", "v1")])
def test_a_version_is_fetched_once(options, elsewhere, downloads, version, name):
    run = make_run(options, steps=(10, 20, 30), losses=(0.5, 0.25, 0.75))
    publish_all(options, run)
    for _ in range(2):
        artifacts.fetch_version(elsewhere, "one", version)
        found, source, came = catalog.resolve_version(elsewhere.output_dir, "one", version, "else")
        assert found == name and read(pathlib.Path(source)) == read(run / "versions" / name)
        assert downloads == {("model", name): 1}
    assert catalog.read_version_index(came.fetched) == VersionIndex(
        {name: catalog.read_version_index(run).versions[name]}, {} if version == name else {version: name}
    )
    assert json.loads((came / "config.json").read_text()) == config.to_json(options)
    assert {path.name for path in came.path.iterdir()} == {"config.json", "fetched"}  # nothing that training goes by
    assert {path.name for path in (came / "fetched").glob("[!.]*")} == {"versions", "versions.json", "published.json"}
    assert catalog.find_version(came, version) == (name, came.fetched)
    assert catalog.version_entry(came, version if version == name else name).step == int(name[1:]) * 10
    artifacts.fetch_version(elsewhere, "one", name)
    assert downloads.total() == 1


@pytest.mark.script
def test_two_processes_that_want_the_same_version_fetch_it_once(options, elsewhere):
    run = make_run(options)
    publish_all(options, run)
    words = [sys.executable, "-m", "support.slow_fetch", elsewhere.output_dir, options.wandb_project]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pair = [processes.Process(words, cwd=processes.ROOT, **pipes) for _ in range(2)]
    for process in pair:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert sorted(out for out, _ in outputs) == ["", "downloading\n"]
    name, source, came = catalog.resolve_version(elsewhere.output_dir, "one", "latest", "else")
    assert name == "v2" and read(pathlib.Path(source)) == read(run / "versions" / "v2")
    assert not list(came.path.rglob("*.tmp"))


def test_v0_brings_just_the_name_of_the_model(options, elsewhere, downloads):
    publish_all(options, make_run(options))
    artifacts.fetch_version(elsewhere, "one", "v0")
    came = catalog.run_folder(elsewhere.output_dir, "one")
    assert read(came).keys() == {"config.json"} and not downloads
    assert catalog.resolve_version(elsewhere.output_dir, "one", "v0", "else") == ("v0", "tiny", came)


@pytest.mark.parametrize(("run_id", "version"), [("one", "v9"), ("two", "latest"), ("two", "v0"), ("on", "e-v1")])
def test_versions_that_the_tracker_does_not_know(options, elsewhere, downloads, run_id, version):
    publish_all(options, make_run(options))
    artifacts.fetch_version(elsewhere, run_id, version)
    assert not downloads and not pathlib.Path(elsewhere.output_dir).exists()


def test_an_alias_that_moved_in_the_tracker_is_followed(options, elsewhere, downloads):
    run = make_run(options, steps=(10,), losses=(0.5,))
    publish_all(options, run)
    artifacts.fetch_version(elsewhere, "one", "best")
    shutil.rmtree(run)
    publish_all(options, make_run(options))
    artifacts.fetch_version(elsewhere, "one", "best")
    name, source, _ = catalog.resolve_version(elsewhere.output_dir, "one", "best", "else")
    assert name == "v2" and pathlib.Path(source, TRAINED).read_bytes() == noise(9000, "v2", 0)
    assert downloads == {("model", "v1"): 1, ("model", "v2"): 1}


def test_a_name_that_was_used_again_is_fetched_again(options, elsewhere):
    """A run that was killed and resumed from an older state makes another v2."""
    run = make_run(options)
    publish_all(options, run)
    artifacts.fetch_version(elsewhere, "one", "latest")
    shutil.rmtree(run)
    publish_all(options, make_run(options, steps=(10, 25), seed=1), "v2", "state")
    artifacts.fetch_version(elsewhere, "one", "latest")
    name, source, came = catalog.resolve_version(elsewhere.output_dir, "one", "latest", "else")
    assert catalog.version_entry(came, name).step == 25
    assert pathlib.Path(source, TRAINED).read_bytes() == noise(9000, "v2", 1)


def test_a_version_of_another_past_does_not_stand_in_for_the_one_that_comes(options, elsewhere):
    """One machine went on without its tracker, another from an older state: both have a v2 and a v3."""
    run = make_run(options, steps=(10, 25, 35), losses=(0.5, 0.25, 0.125))
    old = make_run(elsewhere, steps=(10, 20, 30), losses=(0.5, 0.375, 0.3))
    for name in ("v2", "v3"):
        shutil.rmtree(old / "versions" / name)
        add_version(old, name, seed=3)
    publish_all(options, run)
    artifacts.fetch_run(elsewhere, "one")
    assert read_state(old)[0].step == 35
    # v2 of the other past is gone, and comes when it is asked for; v1 is of both
    assert sorted(path.name for path in (old / "versions").iterdir()) == ["v1", "v3"]
    for name in ("v1", "v3"):
        assert read(old / "versions" / name) == read(run / "versions" / name)


def test_where_the_run_is_trained_the_disk_comes_first(options, elsewhere, downloads, monkeypatch):
    publish_all(options, make_run(options, steps=(10, 20, 30), losses=(3, 2, 1)))
    make_run(elsewhere)
    monkeypatch.setattr(trackers, "connect", None)  # it is not even asked
    for version in ("latest", "best", "v1", "v0"):
        artifacts.fetch_version(elsewhere, "one", version)
    assert catalog.resolve_version(elsewhere.output_dir, "one", "latest", "else")[0] == "v2"
    assert not downloads


def test_a_pruned_version_comes_back_beside_the_run_that_trains(options, downloads):
    """Fetched for drawing while training goes on: its list and its pruning do not meet what was fetched."""
    run = make_run(options, steps=(10, 20, 30), losses=(0.5, 0.25, 0.75))
    publish_all(options, run)
    index = catalog.read_version_index(run)
    del index.versions["v1"]
    write_index(run, index)
    versions.prune_versions(run, index)
    before = read(run)
    artifacts.fetch_version(options, "one", "v1")
    assert downloads == {("model", "v1"): 1}
    after = read(run)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"fetched"}
    versions.prune_versions(run, index)  # as the next save does
    name, source, _ = catalog.resolve_version(options.output_dir, "one", "v1", "else")
    assert name == "v1" and pathlib.Path(source, TRAINED).read_bytes() == noise(9000, "v1", 0)
    assert catalog.version_entry(run, "v1") == SavedVersion(10, 0.5)
    for alias in ("latest", "best"):  # are the run's own still
        assert catalog.find_version(run, alias)[1] == run


def test_versions_while_the_tracker_is_out_of_reach(options, elsewhere, outage):
    publish_all(options, make_run(options))
    artifacts.fetch_version(elsewhere, "one", "best")
    outage()
    artifacts.fetch_version(elsewhere, "one", "best")  # what it meant the last time
    assert catalog.resolve_version(elsewhere.output_dir, "one", "best", "else")[0] == "v2"
    for version in ("latest", "v1"):
        with pytest.raises(
            trackers.TrackerError, match=rf"^trackio: no route to host; version {version} of run one is not in "
        ):
            artifacts.fetch_version(elsewhere, "one", version)


def test_a_run_that_came_from_elsewhere_draws_with_the_versions_that_its_list_names(options, elsewhere, downloads):
    """Its training state came with the newest version alone; the others come when they are asked for."""
    run = make_run(options, steps=(10, 20, 30), losses=(0.5, 0.25, 0.75))
    publish_all(options, run)
    artifacts.fetch_run(elsewhere, "one")
    for version, name in {"best": "v2", "v1": "v1", "latest": "v3"}.items():
        for _ in range(2):
            artifacts.fetch_version(elsewhere, "one", version)
            found, source, _ = catalog.resolve_version(elsewhere.output_dir, "one", version, "else")
            assert found == name and read(pathlib.Path(source)) == read(run / "versions" / name)
    assert downloads == {("model", "v1"): 1, ("model", "v2"): 1, ("model", "v3"): 1, ("state", "v3"): 1}


def test_a_run_that_trains_is_not_replaced_by_what_the_tracker_has(options, elsewhere, downloads):
    """Another process trains it here, from an older state; a second one would resume it."""
    publish_all(options, make_run(options))
    run = make_run(elsewhere, steps=(10,), losses=(0.5,))
    before = read(run)
    with run.lock(), pytest.raises(UserError, match="another process is training run one"):
        artifacts.fetch_run(elsewhere, "one")
    assert {path: data for path, data in read(run).items() if not path.endswith(".lock")} == before
    assert not downloads
    _, found = find_run_to_resume({"run_id": "one", "output_dir": elsewhere.output_dir})  # under the run's own lock
    assert found == run and read_state(run)[0].step == 20


def test_a_version_that_another_process_fetches_meanwhile_is_not_fetched_again(options, downloads, monkeypatch):
    run = make_run(options)
    publish_all(options, run)
    kept = run.path.parent / "kept"
    shutil.move(run / "versions" / "v2", kept)  # somebody has deleted it

    class SlowLock:
        """When it is got, another process has just let go of it."""

        def __init__(self, _):
            shutil.move(kept, run / "versions" / "v2")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(artifacts, "file_lock", SlowLock)
    artifacts.fetch_run(options, "one")
    assert not downloads and (run / "versions" / "v2" / TRAINED).exists()


def test_offline_wandb_resumes_from_the_disk_and_says_why_it_can_not_fetch(elsewhere, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    offline = dataclasses.replace(elsewhere, tracker="wandb")
    line = r"^wandb is offline \(WANDB_MODE=offline\); unset WANDB_MODE$"
    with pytest.raises(UserError, match=line):
        artifacts.fetch_run(offline, "one")
    with pytest.raises(UserError, match=line):
        artifacts.fetch_version(offline, "one", "best")
    run = make_run(offline)
    before = read(run)
    artifacts.fetch_run(offline, "one")
    artifacts.fetch_version(offline, "one", "best")
    assert read(run) == before
