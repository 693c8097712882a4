"""What a run's folder holds reaches the tracker, whatever happens to the tracker; with the real trackio."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import threading
import time
import types
from collections import Counter

import pytest
from support.tracker_runs import (
    SHARED,
    TRAINED,
    add_version,
    make_run,
    noise,
    publish_all,
    read,
    write_index,
    write_state,
)

from checkpoints import catalog
from checkpoints.records import SavedVersion
from checkpoints.state import read_state
from tracking import artifacts, trackers, uploader
from tracking.published import Published, read_published
from tracking.uploader import Uploader


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """An uploader that a test leaves at work would be seen by the next one."""
    yield
    for thread in threading.enumerate():
        if thread.name == "uploader":
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(uploader, "INTERVAL", 0.02)


@pytest.fixture
def run(options):
    return make_run(options)


@pytest.fixture
def said():
    """Every line that the uploader prints."""
    return []


@pytest.fixture
def published(monkeypatch):
    """Counts what is published, by kind and version."""
    counted, publish = Counter(), trackers.Trackio.publish

    def counting(self, collection, folder, aliases, metadata):
        publish(self, collection, folder, aliases, metadata)
        counted[metadata["kind"], metadata["version"]] += 1

    monkeypatch.setattr(trackers.Trackio, "publish", counting)
    return counted


class Outage:
    """In a `with` block, the named methods of trackio's Tracker fail."""

    def __init__(self, monkeypatch, *names):
        self.patch, self.names, self.tries = monkeypatch, names, Counter()
        self.real = {name: getattr(trackers.Trackio, name) for name in names}

    def __enter__(self):
        for name in self.names:
            self.patch.setattr(trackers.Trackio, name, self.failing(name))
        return self

    def failing(self, name):
        def fail(*_, **__):
            self.tries[name] += 1
            with trackers.tracker_errors("trackio"):
                raise ConnectionError("no route\nto host")

        return fail

    def __exit__(self, *_):
        for name, real in self.real.items():
            self.patch.setattr(trackers.Trackio, name, real)


def wait_for(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came")


def logged(options, run_id="one"):
    """[(step, {name: value})] of what trackio has of a run, in the order of their coming."""
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs(options.wandb_project, run_id)
    return [(row["step"], {k: v for k, v in row.items() if k not in ("step", "timestamp")}) for row in rows]


def found(options, alias, collection=trackers.VERSIONS):
    tracker = trackers.connect(options, "one")
    artifact = tracker.find(collection, alias)
    tracker.finish()
    return artifact


def append(run, *lines):
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


CURVES = [(0, {"validation_loss": 1.0}), *((step, {"loss": step / 100}) for step in range(1, 21))]  # see make_run


def test_everything_reaches_the_tracker_and_is_sent_once(run, options, said, published):
    first = Uploader(run, options, 20, say=said.append)
    assert first.missing() == ["v1", "v2", "state"]
    with first:
        pass
    assert first.missing() == []
    assert said == [f"trackio: trackio show --project {options.wandb_project}"]
    assert logged(options) == CURVES
    assert published == {("version", "v1"): 1, ("version", "v2"): 1, ("state", "v2"): 1}
    for alias, name in {"v1": "v1", "v2": "v2", "latest": "v2", "best": "v2"}.items():
        assert found(options, f"one-{alias}").metadata["version"] == name
    assert found(options, "one-latest", trackers.STATES).metadata["step"] == 20
    assert found(options, "latest").metadata["run_id"] == "one" and found(options, "v1") is not None  # trackio's own
    has = read_published(run, trackers.location(options))
    aliases = {"v1": "v1", "v2": "v2", "latest": "v2", "best": "v2"}
    assert has == Published({"v1": 10, "v2": 20}, aliases, 20)
    assert not (run / "upload").exists()

    with Uploader(run, options, 20, say=said.append):
        pass
    assert logged(options) == CURVES and published.total() == 3
    assert len(said) == 2


def test_what_comes_while_it_runs_is_sent_at_once(run, options, said, published):
    with Uploader(run, options, 20, say=said.append) as sending:
        wait_for(lambda: sending.missing() == [])
        append(run, {"step": 21, "loss": 9.0}, {"step": 21, "validation_loss": 8.0}, {"step": 22, "loss": 7.0})
        wait_for(lambda: len(logged(options)) == 22)  # 22 is held back: more of it may come
        with sending.files_lock:
            name = save(run, 22, 0.9)
        sending.version_saved(name)
        wait_for(lambda: sending.missing() == [])
        assert sending.thread.is_alive()
    assert logged(options)[21:] == [(21, {"loss": 9.0, "validation_loss": 8.0}), (22, {"loss": 7.0})]
    assert found(options, "one-latest").metadata["version"] == "v3"
    assert found(options, "one-best").metadata["version"] == "v2"
    assert found(options, "one-latest", trackers.STATES).metadata["step"] == 22
    assert published[("version", "v3")] == published[("state", "v3")] == 1


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"tracker": "none"}, []),
        ({"tracker": "tensorboard"}, []),
        ({"upload": "none"}, []),
        ({"upload": "versions"}, ["v1", "v2"]),
        ({"upload": "all"}, ["v1", "v2", "state"]),
    ],
)
def test_what_is_sent_is_what_was_asked_for(run, options, said, published, change, wanted):
    options = dataclasses.replace(options, **change)
    with Uploader(run, options, 20, say=said.append) as sending:
        assert sending.missing() == wanted
    assert sending.missing() == []
    assert published.total() == len(wanted)
    assert len(said) == (options.tracker != "none")
    assert logged(options) == (CURVES if options.tracker == "trackio" else [])
    assert (run / "published.json").exists() == bool(wanted)
    assert (run / "tensorboard").exists() == (options.tracker == "tensorboard")


def test_other_processes_than_the_first_do_nothing(run, options, said, published):
    before = read(run)
    with Uploader(run, options, 20, enabled=False, say=said.append) as sending:
        sending.version_saved("v2")
        assert not sending.thread.is_alive()
    assert said == [] and not published and read(run) == before


def test_pictures_are_sent_if_they_are_there(run, options, said):
    from PIL import Image

    (run / "samples").mkdir()
    Image.new("RGB", (8, 8), "red").save(run / "samples" / "000021.png")
    append(run, {"step": 21, "samples": "samples/000021.png", "grad_norm": None, "loss": 2})
    append(run, {"step": 22, "samples": "samples/000022.png"}, {"step": 23, "loss": 3.0})
    with Uploader(run, options, 20, say=said.append):
        pass
    (_, first), *rest = logged(options)[21:]
    assert first["loss"] == 2 and "grad_norm" not in first
    assert first["samples"]["_type"] == "trackio.image" and first.keys() == {"loss", "samples"}
    assert dict(rest).get(22, {}) == {} and rest[-1] == (23, {"loss": 3.0})
    assert len(said) == 1


@pytest.mark.parametrize("method", ["open", "log", "publish"])
def test_an_outage_is_reported_once_and_nothing_is_lost_or_doubled(run, options, said, published, monkeypatch, method):
    outage = Outage(monkeypatch, method)
    with outage, Uploader(run, options, 20, say=said.append) as sending:
        wait_for(lambda: sending.failing)
        for step in range(21, 24):
            append(run, {"step": step, "loss": step / 100})
            before = outage.tries[method]
            sending.version_saved("v2")
            wait_for(lambda before=before: outage.tries[method] > before)
        assert sum("warning" in line for line in said) == 1
        assert sending.thread.is_alive()
        outage.__exit__()
        sending.version_saved("v2")
        wait_for(lambda: sending.missing() == [])
        append(run, {"step": 24, "loss": 0.24})
    warning = next(line for line in said if "warning" in line)
    assert "trackio: no route to host" in warning and "\n" not in warning
    assert str(run) in warning and warning.endswith(sending.publish_command())
    assert [line for line in said if "show" not in line] == [warning, "trackio works again"]
    assert logged(options) == CURVES + [(step, {"loss": step / 100}) for step in range(21, 25)]
    assert published == {("version", "v1"): 1, ("version", "v2"): 1, ("state", "v2"): 1}


@pytest.mark.parametrize(
    ("methods", "missing"),
    [
        (["open", "log", "publish"], "v1, v2, state, the last curves"),
        (["log"], "v1, v2, state, the last curves"),
        (["publish"], "v1, v2, state"),
    ],
)
def test_an_outage_to_the_end_says_what_is_missing_and_another_uploader_sends_it(
    run, options, said, monkeypatch, methods, missing
):
    with Outage(monkeypatch, *methods), Uploader(run, options, 20, say=said.append) as sending:
        pass
    assert sending.missing() == ["v1", "v2", "state"] and sending.failing
    end = f" of run one; publish with: {sending.publish_command()}"
    assert said[-1].startswith(f"trackio lacks {missing}") and said[-1].endswith(end)
    assert len([line for line in said if "show" not in line]) == 2
    with Uploader(run, options, 20, say=said.append) as sending:
        pass
    assert sending.missing() == [] and logged(options) == CURVES
    assert "show" in said[-1]


def test_between_failures_and_saves_it_is_left_in_peace(run, options, said, monkeypatch):
    with Outage(monkeypatch, "log") as outage, Uploader(run, options, 20, say=said.append) as sending:
        wait_for(lambda: sending.failing)
        tries = outage.tries["log"]
        time.sleep(0.3)  # 15 looks
        assert outage.tries["log"] == tries


def test_a_disk_that_fails_is_reported_and_the_uploader_lives(run, options, said, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with Uploader(run, options, 20, say=said.append) as sending, monkeypatch.context() as patch:
        patch.setattr(artifacts, "link_or_copy_tree", full)
        sending.version_saved("v1")
        wait_for(lambda: sending.failing)
        assert sending.thread.is_alive()
        patch.undo()
        sending.version_saved("v1")
        wait_for(lambda: not sending.failing)
    assert sum("No space left on device" in line for line in said) == 1
    assert sending.missing() == []


def test_a_name_that_is_used_again_is_published_again(run, options, said, published):
    with Uploader(run, options, 20, say=said.append) as sending:
        wait_for(lambda: sending.missing() == [])
        with sending.files_lock:
            index = catalog.read_version_index(run)
            index.versions["v2"] = SavedVersion(15, 0.75)
            index.aliases["best"] = "v1"
            shutil.rmtree(run / "versions" / "v2")
            add_version(run, "v2", seed=1)
            write_index(run, index)
            write_state(run, index, 15)
        sending.version_saved("v2")
        assert "v2" in sending.missing() or published["version", "v2"] == 2
    # v1 is the best again, and published once more to say so
    assert published == {("version", "v1"): 2, ("version", "v2"): 2, ("state", "v2"): 2}
    assert found(options, "one-v2").metadata["step"] == found(options, "one-latest").metadata["step"] == 15
    assert found(options, "one-best").metadata["version"] == "v1"
    found(options, "one-v2").download(str(run / "again"))
    assert (run / "again" / TRAINED).read_bytes() == noise(9000, "v2", 1)


def test_versions_that_were_pruned_are_passed_over(run, options, said, published):
    shutil.rmtree(run / "versions" / "v1")
    assert Uploader(run, options, 20).missing() == ["v2", "state"]
    with Uploader(run, options, 20, say=said.append):
        pass
    assert published == {("version", "v2"): 1, ("state", "v2"): 1}
    assert not any("warning" in line for line in said)
    assert not (run / "upload").exists()


def save(run, step, loss, seed=0):
    """What a save leaves in the run's folder; the name of its version."""
    index, name = catalog.read_version_index(run).with_version(step, loss, 9)
    add_version(run, name, seed)
    write_state(run, index, step)
    write_index(run, index)
    return name


def test_no_state_is_sent_before_its_version_though_a_save_lands_in_between(run, options, said, monkeypatch):
    sent, publish = [], trackers.Trackio.publish
    saves = {("version", 20): 30, ("state", 30): 40, ("version", 40): 50}  # what is sent: what is saved meanwhile

    def publishing(self, collection, folder, aliases, metadata):
        step = saves.pop((metadata["kind"], metadata["step"]), None)
        if step:
            with sending.files_lock:
                name = save(run, step, 0.9)
            sending.version_saved(name)
        if metadata["kind"] == "state":  # another machine may take over from now on
            version = self.find(trackers.VERSIONS, f"one-{metadata['version']}")
            assert version and version.metadata["step"] == metadata["step"], sent
        publish(self, collection, folder, aliases, metadata)
        sent.append((metadata["kind"], metadata["step"]))

    monkeypatch.setattr(trackers.Trackio, "publish", publishing)
    with Uploader(run, options, 20, say=said.append) as sending:
        pass
    newest_first = [(kind, step) for step in (20, 30, 40, 50) for kind in ("version", "state")]
    assert sent == [*newest_first, ("version", 10)] and not saves
    assert sending.missing() == [] and len(said) == 1, said


def test_machines_that_train_in_turn_never_send_what_is_older(run, options, said, published, tmp_path):
    """One trains, another goes on; the first starts again where it was, and then where the other is."""
    elsewhere = dataclasses.replace(options, output_dir=str(tmp_path / "second"))
    with Uploader(run, options, 20, say=said.append):
        pass
    artifacts.fetch_run(elsewhere, "one")
    other = catalog.run_folder(elsewhere.output_dir, "one")
    save(other, 30, 0.125)
    append(other, {"step": 30, "loss": 0.3})
    with Uploader(other, elsewhere, 20, say=said.append):
        pass
    assert found(options, "one-latest", trackers.STATES).metadata["step"] == 30
    count, curves, said[:] = published.total(), logged(options), []

    append(run, {"step": 21, "loss": 9.0})
    save(run, 25, 0.01)  # left behind: its v3 and its best are another past's
    with Uploader(run, options, 20, say=said.append) as sending:
        sending.version_saved("v3")
    assert len(said) == 2 and "newer state of run one, of update 30, from another machine" in said[0]
    assert said[1].startswith("trackio lacks v3, state, the last curves of run one; publish with: ")
    assert published.total() == count and logged(options) == curves
    for alias in ("v3", "latest", "best"):
        assert found(options, f"one-{alias}").metadata["step"] == 30

    artifacts.fetch_run(options, "one")
    assert read_state(run)[0].step == 30
    assert read(run / "versions" / "v3") == read(other / "versions" / "v3")
    said.clear()
    save(run, 40, 0.5)
    with Uploader(run, options, 30, say=said.append):
        pass
    assert len(said) == 1, said
    assert found(options, "one-latest", trackers.STATES).metadata["step"] == 40
    assert found(options, "one-v4").metadata["step"] == 40 and found(options, "one-best").metadata["step"] == 30


def test_training_that_fails_waits_for_the_uploader(run, options, said, published):
    with pytest.raises(ZeroDivisionError), Uploader(run, options, 20, say=said.append):
        raise ZeroDivisionError
    assert published.total() == 3


def test_best_that_a_dead_machine_moved_is_moved_back_by_the_one_that_takes_over(run, options, said, tmp_path):
    """It had sent its best version, and not yet the state that goes on from it."""
    elsewhere = dataclasses.replace(options, output_dir=str(tmp_path / "second"))
    with Uploader(run, options, 20, say=said.append):
        pass
    save(run, 30, 0.01)
    tracker = trackers.connect(options, "one")
    tracker.start(run.path, {}, 20)
    aliases = artifacts.pack(run, "v3", run / "upload")
    artifacts.send(tracker, run / "upload", aliases)
    tracker.finish()
    assert found(options, "one-best").metadata["step"] == 30
    artifacts.fetch_run(elsewhere, "one")
    other = catalog.run_folder(elsewhere.output_dir, "one")
    assert read_state(other)[0].step == 20
    save(other, 35, 0.9)
    with Uploader(other, elsewhere, 20, say=said.append) as sending:
        pass
    assert sending.missing() == []
    index = catalog.read_version_index(other)
    for alias, name in index.aliases.items():
        assert found(options, f"one-{alias}").metadata["step"] == index.versions[name].step, alias


@pytest.mark.parametrize("method", ["find", "start", "log", "publish"])
def test_a_tracker_that_hangs_holds_neither_the_training_nor_its_end(run, options, said, monkeypatch, method):
    """Whatever call it hangs in, for ever; the end says what is missing and how to publish it, which works then."""
    stuck, real = threading.Event(), getattr(trackers.Trackio, method)
    for name, seconds in {"START_SECONDS": 0.5, "QUIET_SECONDS": 0.1, "CALL_SECONDS": 0.6}.items():
        monkeypatch.setattr(uploader, name, seconds)

    def hang(*_):
        stuck.wait()
        raise trackers.TrackerError("too late")

    monkeypatch.setattr(trackers.Trackio, method, hang)
    with Uploader(run, options, 20, say=said.append) as sending:
        began = time.monotonic()
        sending.version_saved("v2")
    assert 0.6 <= time.monotonic() - began < 4 and sending.thread.is_alive()
    lacks, command = said[-1].split(" of run one; publish with: ")
    assert lacks == "trackio lacks v1, v2, state, the last curves" and command == sending.publish_command()
    assert any("has not answered in 0.5 s" in line for line in said) == (method in ("find", "start"))
    monkeypatch.setattr(trackers.Trackio, method, real)
    monkeypatch.setattr(uploader, "CALL_SECONDS", 60)
    with Uploader(run, options, 20, say=said.append) as again:
        pass
    assert again.missing() == [] and logged(options)[-20:] == CURVES[1:]
    stuck.set()  # so that the thread ends


def test_a_remedy_of_the_tracker_is_named_before_the_command(run, options, said, monkeypatch):
    """To publish once more in the same way could never work."""

    def refuse(*_):
        raise trackers.TrackerError("trackio: permission denied", "use another --wandb_project")

    monkeypatch.setattr(trackers.Trackio, "start", refuse)
    with Uploader(run, options, 20, say=said.append) as sending:
        pass
    warning, lacks = said
    assert warning.startswith("warning: trackio: permission denied; use another --wandb_project; nothing stops for it")
    assert warning.endswith(f"; after that it is published by: {sending.publish_command()}")
    lacking = (
        "trackio lacks v1, v2, state, the last curves of run one: use another --wandb_project; then publish with: "
    )
    assert lacks == lacking + sending.publish_command()


@pytest.mark.parametrize("mode", ["offline", "dryrun"])
def test_the_command_of_an_offline_shell_goes_online(run, options, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    sending = Uploader(run, dataclasses.replace(options, tracker="wandb"), 20)
    assert sending.publish_command().startswith("env -u WANDB_MODE python -m runs --output_dir ")
    monkeypatch.setenv("WANDB_MODE", "online")
    assert sending.publish_command().startswith("python -m runs --output_dir ")


def test_ctrl_c_leaves_at_once(run, options, said, monkeypatch):
    stuck = threading.Event()
    monkeypatch.setattr(trackers.Trackio, "log", lambda *_: stuck.wait(20))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Uploader(run, options, 20, say=said.append) as sending:
        raise KeyboardInterrupt
    assert time.monotonic() - began < 2
    sending.stopping.set()
    stuck.set()
    sending.thread.join()


def test_ctrl_c_while_the_uploader_finishes_after_training_leaves_at_once(run, options, said, monkeypatch):
    import torch

    import training
    from trainer import loop, session

    stuck, ended, began, work = threading.Event(), threading.Event(), [], Uploader.upload_loop
    # after a Ctrl-C inside Thread.join() Python 3.11 takes a thread for stopped that goes on: join() is no help then
    monkeypatch.setattr(Uploader, "upload_loop", lambda self: (work(self), ended.set()))
    monkeypatch.setattr(trackers.Trackio, "log", lambda *_: stuck.wait(20))
    sending = Uploader(run, options, 20, say=said.append)

    def train(*_):
        began.append(time.monotonic())
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        return 0

    accelerator = types.SimpleNamespace(is_main_process=True, device=torch.device("cpu"))
    prepared = types.SimpleNamespace(lock=contextlib.nullcontext(), accelerator=accelerator, complete=True)
    monkeypatch.setattr(session, "prepare", lambda *_: prepared)
    monkeypatch.setattr(session, "start", lambda _: types.SimpleNamespace(uploader=sending))
    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(KeyboardInterrupt):
        training.main(["--pretrained_model", "tiny", "--tracker", "trackio"])
    assert 0.4 < time.monotonic() - began[0] < 2
    stuck.set()
    assert ended.wait(60)


def test_a_killed_runs_curves_are_not_doubled_when_it_is_resumed(run, options, said):
    """It logged up to update 20 and is resumed from the state of update 10."""
    with Uploader(run, options, 20, say=said.append):
        pass
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:11]))
    with Uploader(run, options, 10, say=said.append):
        append(run, *({"step": step, "loss": step / 100} for step in range(11, 26)))
    assert [step for step, _ in logged(options)] == list(range(26))


def test_the_command_can_be_pasted(run, options, said):
    options = dataclasses.replace(options, output_dir="my runs; $HOME")
    assert Uploader(run, options, 20).publish_command() == (
        "python -m runs --output_dir 'my runs; $HOME' --run_id one --tracker trackio --publish"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Free space for a store on this machine


def sizes(run, *names):
    return sum(len(data) for name in names for data in read(run / name).values())


@pytest.mark.parametrize("first", [True, False])
def test_only_what_is_new_needs_space(run, options, said, monkeypatch, store, first):
    """The first version brings all of its files; the next ones just what was trained."""
    if not first:
        publish_all(options, run, "v1")
    asked = {}

    def require_space(folder, needed, what, *_):
        asked.setdefault(what, []).append((pathlib.Path(folder), needed))

    monkeypatch.setattr(uploader, "require_free_space", require_space)
    with Uploader(run, options, 20, say=said.append):
        pass
    needed = [size for folder, size in asked["a copy for trackio"] if folder == store]
    shared, extra = sum(SHARED.values()), 4000  # about.json, and config and metrics beside the state
    state = sizes(run, "state")
    # the newest version, the state, and then the older version
    least = [shared + 9000, state, 9000] if first else [9000, state]
    assert len(needed) == len(least)
    for size, at_least in zip(needed, least, strict=True):
        assert at_least < size < at_least + 2 * extra


def test_a_full_store_is_reported_and_nothing_is_published(run, options, said, published, monkeypatch, store):
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with Uploader(run, options, 20, say=said.append) as sending:
            pass
    assert not published and sending.missing() == ["v1", "v2", "state"]
    assert f"a copy for trackio needs 0.00 GiB in {store}" in said[1] and "free some space" in said[1]
    assert logged(options) == CURVES
    assert len(said) == 3 and said[2].startswith("trackio lacks v1, v2, state"), said
