"""The listing, --publish and --prune, on runs made by hand; with the real trackio, and wandb against its stand-in."""

import dataclasses
import os
import pathlib
import shutil
import sys

import pytest
from support import processes
from support.tracker_runs import (
    SHARED,
    add_version,
    make_run,
    own_trackio,
    publish_all,
    read,
    write_index,
    write_state,
)
from support.wandb_stand_in import KEY, StandIn

import runs
from checkpoints import catalog, scores
from checkpoints.records import VersionIndex
from common.errors import UserError
from config import TrainingOptions
from tracking import trackers
from tracking.listing import COLUMNS, readable_size
from tracking.published import forget_version, read_all_published, read_published, record_published

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    return own_trackio(tmp_path_factory)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "")  # so that it is put back though the code sets it
    monkeypatch.delenv("WANDB_API_KEY")


@pytest.fixture
def options(tmp_path):
    """Those of the runs: no tracker."""
    return TrainingOptions(output_dir=str(tmp_path / "runs"), pretrained_model="tiny", wandb_project=tmp_path.name)


@pytest.fixture
def shared_options(options):
    return dataclasses.replace(options, tracker="trackio")


@pytest.fixture
def listing(options, capsys):
    """A function: arguments -> what `python -m runs` prints, as blocks {run: (description, rows of texts)}."""

    def listed(*words):
        capsys.readouterr()
        assert runs.main(["--output_dir", options.output_dir, *words]) == 0
        shown = capsys.readouterr()
        assert shown.err == ""
        return parse(shown.out)

    return listed


def parse(text):
    blocks = {}
    for block in text.strip("\n").split("\n\n"):
        head, columns, *lines = block.split("\n")
        name, description = head.split("  ", 1)
        starts = [columns.index(word) for word in COLUMNS]
        cells = [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines]
        blocks[name] = (description, {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in cells})
    return blocks


def bytes_in(folder):
    return sum(len(data) for data in read(folder).values())


# ---------------------------------------------------------------------------------------------------------------------
# Listing


@pytest.mark.parametrize("tracker", ["none", "trackio", "tensorboard"])
def test_no_run(options, tracker):
    with pytest.raises(UserError, match=r"^there is no run in ") as caught:
        runs.main(["--output_dir", options.output_dir, "--tracker", tracker])
    end = ": --output_dir says where to look"
    if tracker == "trackio":
        end = " and in trackio: --output_dir and --wandb_project say where to look"
    assert str(caught.value) == f"there is no run in {options.output_dir}{end}"


def test_one_run(options, listing):
    run = make_run(options, steps=(10, 20, 30), losses=(0.5, 0.123456, None))
    description, rows = listing()["one"]
    assert list(rows) == ["v0", "v1", "v2", "v3"]
    assert [row["update"] for row in rows.values()] == ["0", "10", "20", "30"]
    assert [row["validation"] for row in rows.values()] == ["1.00000", "0.50000", "0.12346", ""]
    assert [row["aliases"] for row in rows.values()] == ["", "", "best", "latest"]
    assert [row["where"] for row in rows.values()] == ["tiny", "disk", "disk", "disk"]
    # what a version has of its own: the text encoder, 9000 bytes; the rest is hard links
    assert [row["size"] for row in rows.values()] == ["", *["9.0 KB"] * 3]
    assert {row["score"] for row in rows.values()} == {""}
    whole = sum(SHARED.values()) + 3 * 9000 + bytes_in(run / "state")
    whole += sum((run / name).stat().st_size for name in ("config.json", "versions.json", "metrics.jsonl"))
    assert description == f"(text_encoder from tiny, update 30 of 100, {whole / 1000:.0f} KB on disk)"


def test_a_run_before_its_first_version(options, listing):
    run = make_run(options, steps=(10,), losses=(0.5,))
    shutil.rmtree(run / "versions")
    shutil.rmtree(run / "state")
    (run / "versions.json").unlink()
    description, rows = listing()["one"]
    assert "no training state here" in description and list(rows) == ["v0"]
    assert rows["v0"]["validation"] == rows["v0"]["size"] == ""


def test_both_trained_parts_are_named(options, listing):
    make_run(dataclasses.replace(options, train_unet=True))
    assert listing()["one"][0].startswith("(unet and text_encoder from tiny, ")


def test_scores_stand_with_their_versions(options, listing):
    run = make_run(options)
    scores.add_score(run, "v0", scores.Score.from_json({"score": "FID", "distance": 301.256, "n": 50}))
    scores.add_score(run, "v2", scores.Score.from_json({"score": "FID", "distance": 99.0, "n": 5}))
    scores.add_score(run, "v2", scores.Score.from_json({"score": "FID", "distance": 12.345, "n": 5000}))
    scores.add_score(run, "v2", scores.Score.from_json({"score": "FD-efficientnet", "distance": 1.5, "n": 20}))
    rows = listing()["one"][1]
    assert rows["v0"]["score"] == "FID 301.26 (n = 50)"
    assert rows["v1"]["score"] == ""
    assert rows["v2"]["score"] == "FID 12.35 (n = 5000); FD-efficientnet 1.50 (n = 20)"


def test_one_run_shows_every_metric_of_its_versions(options, listing, capsys):
    def value(name, figure):
        return {"name": name, "value": figure, "error": 1.5, "n": 50, "real": 20, "better": "lower", "note": None}

    run = make_run(options)
    scores.add_score(run, "v2", scores.Score.from_json({"score": "FD", "n": 50, "values": {"kid": value("KD", 0.25)}}))
    scores.add_score(
        run,
        "v0",
        scores.Score.from_json({"score": "FD", "n": 50, "distance": 301.0, "values": {"fid": value("FD", 301.0)}}),
    )
    assert runs.main(["--output_dir", str(run.path.parent), "--run_id", run.name]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = {words[1]: [word.strip() for word in words[2:] if word] for words in lines if len(words) > 2}
    assert rows["metric"] == ["v0", "v2", "real covers"]
    assert rows["FD"] == ["301.00 ± 1.5", "20.00"] and rows["KD"] == ["0.25 ± 1.5", "20.00"]
    assert "not comparable" not in "".join(map(str, lines))
    scores.add_score(run, "v1", scores.Score.from_json({"score": "FD", "n": 9, "values": {"kid": value("KD", 0.5)}}))
    assert runs.main(["--output_dir", str(run.path.parent), "--run_id", run.name]) == 0
    assert "measured with different settings, so not comparable: n\n" in capsys.readouterr().out
    assert runs.main(["--output_dir", str(run.path.parent)]) == 0
    assert "real covers" not in capsys.readouterr().out  # of all runs just the listing


def test_several_runs_the_last_one_started_at_the_end(options, listing):
    for index, run_id in enumerate(["b", "a", "c"]):
        config = make_run(options, run_id) / "config.json"
        os.utime(config, ns=(index * 10**9, index * 10**9))
    assert list(listing()) == ["b", "a", "c"]
    assert list(listing("--run_id", "a")) == ["a"]


@pytest.mark.parametrize("run_id", ["two", "on", "one2"])
def test_a_run_that_is_not_there(options, run_id):
    make_run(options)
    with pytest.raises(UserError, match=f"^there is no run {run_id} in .*: --output_dir says where to look$"):
        runs.main(["--output_dir", options.output_dir, "--run_id", run_id])


def test_where_versions_live(options, shared_options, listing):
    run = make_run(options)
    publish_all(shared_options, run)
    shutil.rmtree(run / "versions" / "v1")
    rows = listing()["one"][1]  # without a tracker only published.json knows
    assert [row["where"] for row in rows.values()] == ["tiny", "trackio (not asked)", "disk, trackio (not asked)"]
    asked = listing("--tracker", "trackio", "--wandb_project", options.wandb_project)["one"][1]
    assert [row["where"] for row in asked.values()] == ["tiny", "trackio", "disk, trackio"]
    assert rows["v1"]["size"] == "" and rows["v2"]["size"] == "9.0 KB"
    forget_version(run, "v2")
    assert listing()["one"][1]["v2"]["where"] == "disk"


def test_runs_that_only_the_tracker_has(options, shared_options, listing):
    run = make_run(shared_options, steps=(10, 20, 30), losses=(0.5, 0.25, 0.75))
    publish_all(shared_options, run)
    publish_all(shared_options, make_run(shared_options, "two"))
    there = bytes_in(run / "versions" / "v1")
    shutil.rmtree(options.output_dir)
    words = ("--tracker", "trackio", "--wandb_project", options.wandb_project)
    blocks = listing(*words)
    assert sorted(blocks) == ["one", "two"]
    description, rows = blocks["one"]
    assert description == "(in trackio alone)"
    assert [row["version"] for row in rows.values()] == ["v1", "v2", "v3"]
    assert [row["update"] for row in rows.values()] == ["10", "20", "30"]
    assert [row["aliases"] for row in rows.values()] == ["", "best", "latest"]
    assert [row["validation"] for row in rows.values()] == ["0.50000", "0.25000", "0.75000"]
    assert {row["where"] for row in rows.values()} == {"trackio"}
    size = float(rows["v1"]["size"].removesuffix(" KB")) * 1000
    assert 0 <= size - there < 4000  # and about.json
    assert list(listing(*words, "--run_id", "two")) == ["two"]
    with pytest.raises(UserError, match=r"^there is no run three in .* and in trackio: "):
        runs.main(["--output_dir", options.output_dir, *words, "--run_id", "three"])


def test_a_run_of_disk_and_tracker_is_listed_once(options, shared_options, listing):
    run = make_run(shared_options)
    publish_all(shared_options, run)
    words = ("--tracker", "trackio", "--wandb_project", options.wandb_project)
    rows = listing(*words)["one"][1]
    assert [row["where"] for row in rows.values()] == ["tiny", "disk, trackio", "disk, trackio"]
    assert listing("--run_id", "one")["one"][1] == rows  # its config.json says which tracker


def test_an_old_version_that_lost_its_name_in_the_tracker_is_not_listed_twice(options, shared_options, listing):
    run = make_run(shared_options)
    publish_all(shared_options, run)
    shutil.rmtree(run)
    publish_all(shared_options, make_run(shared_options, steps=(10, 25), seed=1), "v2", "state")
    shutil.rmtree(options.output_dir)
    rows = listing("--tracker", "trackio", "--wandb_project", options.wandb_project)["one"][1]
    assert [(row["version"], row["update"]) for row in rows.values()] == [("v1", "10"), ("v2", "25")]


def test_what_others_keep_in_the_project_is_passed_over(options, shared_options, tmp_path, listing):
    publish_all(shared_options, make_run(shared_options))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_text("a")
    tracker = trackers.connect(shared_options, "other")
    tracker.start(tmp_path, {}, 0)
    tracker.publish(trackers.VERSIONS, tmp_path / "other", ["other-v1"], {"step": 1})
    tracker.finish()
    assert list(listing("--tracker", "trackio", "--wandb_project", options.wandb_project)) == ["one"]


def test_a_fetch_that_was_cut_off_does_not_spoil_the_listing(options, shared_options, listing):
    run = make_run(shared_options)
    publish_all(shared_options, run)
    for name in ("config.json", "versions.json", "metrics.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "state")
    words = ("--tracker", "trackio", "--wandb_project", options.wandb_project)
    assert list(listing(*words)) == list(listing(*words, "--run_id", "one")) == ["one"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / "config.json").write_text("[]"),
        lambda run: (run / "versions.json").write_text('{"versions": 3}'),
        lambda run: (run / "scores.json").write_text("{"),
        lambda run: (run / "published.json").write_text("[]"),
        lambda run: (run / "state/000000020/position.json").write_text("{}"),
    ],
)
def test_a_damaged_run_beside_good_ones_is_one_warning_and_not_read_for_another(options, capsys, damage):
    make_run(options, "good")
    damage(make_run(options, "bad"))
    (pathlib.Path(options.output_dir) / "foreign").mkdir()
    assert runs.main(["--output_dir", options.output_dir]) == 0
    shown = capsys.readouterr()
    assert list(parse(shown.out)) == ["good"]
    assert (
        shown.err.startswith("warning: ") and shown.err.count("\n") == 1 and f"{options.output_dir}/bad/" in shown.err
    )
    assert runs.main(["--output_dir", options.output_dir, "--run_id", "good"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("good  (") and shown.err == ""


def test_offline_wandb_is_listed_as_not_asked(options, shared_options, monkeypatch, capsys):
    asked = dataclasses.replace(options, tracker="wandb")
    run = make_run(asked)
    record_published(run, trackers.location(asked), "v1", 10, ["v1"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert runs.main(["--output_dir", options.output_dir, "--run_id", "one"]) == 0
    shown = capsys.readouterr()
    line = "warning: wandb is offline (WANDB_MODE=offline); unset WANDB_MODE; this lists what is on disk alone\n"
    assert shown.err == line
    where = [row["where"] for row in parse(shown.out.split("trained ")[0])["one"][1].values()]
    assert where == ["tiny", "disk, wandb (not asked)", "disk"]


def test_a_tracker_that_can_not_be_reached_is_one_warning(options, shared_options, monkeypatch, capsys):
    make_run(shared_options)

    def cut(*_):
        raise trackers.TrackerError("trackio: no route to host")

    monkeypatch.setattr(trackers.Trackio, "list_artifacts", cut)
    assert runs.main(["--output_dir", options.output_dir, "--tracker", "trackio"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "warning: trackio: no route to host; this lists what is on disk alone\n"
    assert list(parse(shown.out)) == ["one"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (9949, "9.9 KB"),
        (12_345, "12 KB"),
        (123_456_789, "123 MB"),
        (3_438_000_000, "3.4 GB"),
        (2 * 10**12, "2000 GB"),
    ],
)
def test_sizes_in_words(size, text):
    assert readable_size(size) == text


# ---------------------------------------------------------------------------------------------------------------------
# Publishing


def publish(options, *words):
    return runs.main(["--output_dir", options.output_dir, "--run_id", "one", "--publish", *words])


def test_publishing_without_a_tracker_says_how_to_name_one(options):
    make_run(options)
    with pytest.raises(UserError, match="--publish: to which tracker"):
        publish(options)


def test_publishing_what_is_not_there(options):
    with pytest.raises(UserError, match="no run one in"):
        publish(options, "--tracker", "trackio")


def test_publishing_brings_what_is_missing_and_then_nothing(options, shared_options, capsys, listing):
    run = make_run(options)
    words = ("--tracker", "trackio", "--wandb_project", options.wandb_project)
    assert publish(options, *words) == 0
    shown = capsys.readouterr()
    assert "publishing: v1, v2, state\n" in shown.out and "lacks" not in shown.out + shown.err
    assert read_published(run, trackers.location(shared_options)).to_json() == {
        "versions": {"v1": 10, "v2": 20},
        "aliases": {"v1": "v1", "v2": "v2", "latest": "v2", "best": "v2"},
        "state": 20,
    }
    assert publish(options, *words) == 0
    assert "publishing: curves; versions and state are there already\n" in capsys.readouterr().out
    shutil.rmtree(options.output_dir)
    assert [row["update"] for row in listing(*words)["one"][1].values()] == ["10", "20"]


def test_the_run_says_which_tracker(options, shared_options):
    run = make_run(dataclasses.replace(shared_options, upload="versions"))
    assert publish(options) == 0
    ((location, has),) = read_all_published(run).items()
    assert location == trackers.location(shared_options)
    assert (has.versions, has.state) == ({"v1": 10, "v2": 20}, None)


def test_publishing_that_fails_says_so(options, shared_options, monkeypatch, capsys):
    make_run(shared_options)

    def cut(*_):
        raise trackers.TrackerError("trackio: no route to host")

    for method in ("start", "log", "publish"):
        with monkeypatch.context() as patch:
            patch.setattr(trackers.Trackio, method, cut)
            assert publish(options) == 2
            assert capsys.readouterr().out.count("no route to host") == 1
    assert publish(options) == 0


def test_curves_that_fail_are_a_failure_too(options, shared_options, monkeypatch):
    make_run(dataclasses.replace(shared_options, upload="none"))

    def cut(*_):
        raise trackers.TrackerError("trackio: no route to host")

    monkeypatch.setattr(trackers.Trackio, "log", cut)
    assert publish(options) == 2


def test_a_run_that_trains_is_left_to_its_own_process(options, shared_options):
    run = make_run(shared_options)
    with run.lock(), pytest.raises(UserError, match="another process is training run one"):
        publish(options)


@pytest.mark.script
def test_the_command_that_the_warning_names_publishes(options, shared_options, monkeypatch, tmp_path, capsys):
    """Typed in another process, as people do."""
    import shlex

    from tracking import uploader

    run = make_run(shared_options)
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(trackers.Trackio, "start", lambda *_: (_ for _ in ()).throw(trackers.TrackerError("trackio: no")))
        with uploader.Uploader(run, shared_options, 20, say=said.append):
            pass
    words = shlex.split(said[-1].split("publish with: ")[1])
    assert words[:3] == ["python", "-m", "runs"]
    done = processes.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert read_published(run, trackers.location(shared_options)).state == 20


# ---------------------------------------------------------------------------------------------------------------------
# Pruning


@pytest.mark.parametrize("tracker", ["none", "trackio", "tensorboard"])
def test_pruning_works_with_wandb_alone(options, tracker):
    make_run(options)
    with pytest.raises(UserError, match="--prune works with wandb alone"):
        runs.main(["--output_dir", options.output_dir, "--run_id", "one", "--prune", "--tracker", tracker])


def wandb_process(server, home, *commands, status=0):
    """What `python -m runs` prints for each of the commands, in one process; "rm FOLDER" deletes.

    status: with which each ends; None = any."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(processes.ROOT),
    } | server.environment
    words = [sys.executable, "-m", "support.commands_of_runs", *commands]
    done = processes.run(words, env=environment, cwd=home, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr and server.unknown == []
    assert "warning" not in done.stdout + done.stderr
    parts = [part.partition("status ") for part in done.stdout.split("---\n")[:-1]]
    assert status is None or {int(code) for _, _, code in parts} == {status}, done.stdout
    return [text for text, _, _ in parts]


@pytest.mark.slow
@pytest.mark.script
def test_wandb_lists_publishes_and_loses_what_nothing_names(options, tmp_path):
    """Versions that the run's list has dropped go, and states but the newest; other runs' stay."""
    with StandIn() as server:
        run = make_run(options, steps=(10, 20, 30), losses=(0.5, 0.25, 0.75))
        make_run(options, "two")
        (listed, *_) = wandb_process(
            server, tmp_path, "--upload all", "--run_id one --publish", "--run_id two --publish"
        )
        assert {row["where"] for row in parse(listed)["one"][1].values()} == {"tiny", "disk"}
        versions, states = (server.artifacts[collection[0]] for collection in (trackers.VERSIONS, trackers.STATES))
        assert (len(versions), len(states)) == (5, 2)

        # one goes on: v4, and its list keeps v2 (best), v3 and v4
        index, name = catalog.read_version_index(run).with_version(40, 0.9, 1)
        assert list(index.versions) == ["v2", "v3", "v4"]
        add_version(run, name)
        shutil.rmtree(run / "versions" / "v1")
        write_state(run, index, 40)
        write_index(run, index)
        prune = "--run_id one --prune"
        published, pruned, again, listed = wandb_process(
            server, tmp_path, "--run_id one --publish", prune, prune, "rm runs/one", "--upload all"
        )
        assert "publishing: v4, state\n" in published
        assert sorted(pruned.splitlines()) == [
            "deleted state of update 30 from wandb",
            "deleted v1 of update 10 from wandb",
        ]
        assert again == ""
        left = {(a["metadata"]["run_id"], a["metadata"]["version"]) for a in versions}
        assert left == {("one", "v2"), ("one", "v3"), ("one", "v4"), ("two", "v1"), ("two", "v2")}
        assert {(a["metadata"]["run_id"], a["metadata"]["step"]) for a in states} == {("one", 40), ("two", 20)}

        blocks = parse(listed)
        assert [(row["version"], row["aliases"], row["where"]) for row in blocks["one"][1].values()] == [
            ("v2", "best", "wandb"),
            ("v3", "", "wandb"),
            ("v4", "latest", "wandb"),
        ]
        assert blocks["one"][0] == "(in wandb alone)" and "on disk" in blocks["two"][0]
        assert {row["where"] for row in blocks["two"][1].values()} == {"tiny", "disk, wandb"}


def names_in(server):
    """The versions that the stand-in has, in order, and how many states."""
    versions, states = (server.artifacts[collection[0]] for collection in (trackers.VERSIONS, trackers.STATES))
    return sorted(a["metadata"]["version"] for a in versions), len(states)


@pytest.mark.script
def test_pruning_by_a_machine_that_was_left_behind_or_has_nothing_is_refused(options, tmp_path):
    """Its list is old, or elsewhere, so nothing says what the run has dropped."""
    with StandIn() as server:
        run = make_run(options, steps=(10, 20, 30), losses=(0.5, 0.25, 0.75))
        prune = "--run_id one --prune"
        wandb_process(server, tmp_path, "--run_id one --publish")
        shutil.rmtree(run)
        make_run(options, steps=(10, 20), losses=(0.5, 0.25))  # a machine whose state is the last but one
        behind, gone = wandb_process(server, tmp_path, prune, "rm runs/one", prune, status=None)
        assert behind.startswith("refused: --prune goes by the list of the machine that trains run one, and wandb has")
        assert gone.startswith("refused: no run one in runs")
        assert names_in(server) == (["v1", "v2", "v3"], 1)


@pytest.mark.script
def test_pruning_keeps_the_newest_states_version_and_what_somebody_named_by_hand(options, tmp_path):
    with StandIn() as server:
        run = make_run(options, steps=(10, 20, 30, 40), losses=(0.5, 0.25, 0.75, 0.9))
        wandb_process(server, tmp_path, "--run_id one --publish")
        (mine,) = (a for a in server.artifacts[trackers.VERSIONS[0]] if a["metadata"]["version"] == "v1")
        mine["aliases"].append("shown-to-the-publisher")
        entry = catalog.read_version_index(run).versions["v2"]
        write_index(run, VersionIndex({"v2": entry}, {"best": "v2"}))  # all others were dropped
        (pruned,) = wandb_process(server, tmp_path, "--run_id one --prune")
        assert pruned.splitlines() == ["deleted v3 of update 30 from wandb"]
        assert names_in(server) == (["v1", "v2", "v4"], 1)
