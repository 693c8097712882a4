"""What artifacts say of themselves is not trusted: names of versions and files become paths; with the real trackio."""

import json
import re
import shutil

import pytest
from support.tracker_runs import make_run, publish_all, read

import runs
from checkpoints import catalog
from checkpoints.records import SavedVersion, VersionIndex
from common.errors import UserError
from tracking import artifacts, trackers
from tracking.artifact_info import ArtifactInfo, FileInfo
from tracking.published import read_all_published
from tracking.uploader import Uploader

FILE = [3, "0" * 64]
VERSION = {"run_id": "one", "kind": "version", "version": "v2", "step": 20, "validation_loss": 0.25, "options": {}}
VERSION |= {"files": {"unet/a.bin": FILE}}
BAD = {
    "no run": {"run_id": None},
    "a run elsewhere": {"run_id": "../one"},
    "the folder above": {"run_id": ".."},
    "a run of two lines": {"run_id": "one\ntwo"},
    "a version elsewhere": {"version": "../../x"},
    "an absolute version": {"version": "/tmp/x"},
    "an alias for a version": {"version": "latest"},
    "no version": {"version": None},
    "other digits": {"version": "v٣"},
    "a long version": {"version": "v" + "1" * 300},
    "step text": {"step": "9"},
    "step 1e30": {"step": 1e30},
    "step 10**30": {"step": 10**30},
    "step 9.0": {"step": 9.0},
    "step true": {"step": True},
    "step negative": {"step": -1},
    "step null": {"step": None},
    "loss text": {"validation_loss": "low"},
    "loss true": {"validation_loss": True},
    "options a list": {"options": ["seed"]},
    "files 5": {"files": 5},
    "files null": {"files": None},
    "files a list": {"files": ["unet/a.bin"]},
    "a file above": {"files": {"../a.bin": FILE}},
    "a file far above": {"files": {"unet/../../a.bin": FILE}},
    "an absolute file": {"files": {"/tmp/a.bin": FILE}},
    "a file on a drive": {"files": {"C:/a.bin": FILE}},
    "a file with backslashes": {"files": {"..\\a.bin": FILE}},
    "a file without a name": {"files": {"": FILE}},
    "a folder": {"files": {"unet/": FILE}},
    "an entry of one": {"files": {"a.bin": [3]}},
    "an entry that is text": {"files": {"a.bin": "3,"}},
    "a size below 0": {"files": {"a.bin": [-3, "0" * 64]}},
    "a size that is true": {"files": {"a.bin": [True, "0" * 64]}},
    "a size of 1e400": {"files": {"a.bin": [10**400, "0" * 64]}},
    "a hash too short": {"files": {"a.bin": [3, "0" * 63]}},
    "a hash of other letters": {"files": {"a.bin": [3, "g" * 64]}},
    "a hash that is a number": {"files": {"a.bin": [3, 0]}},
}
# these reach a run through a real tracker, too
PUBLISHED = (
    "a version elsewhere",
    "an absolute version",
    "step text",
    "step 1e30",
    "step true",
    "files 5",
    "a file above",
)


@pytest.fixture
def run(options):
    """Where the run would be; beside it lies what no download may touch."""
    run = catalog.run_folder(options.output_dir, "one")
    prey = run.path.parent.parent / "prey"
    prey.mkdir()
    (prey / "precious").write_text("all that I have")
    return run


def files_but_locks(folder):
    return {path: data for path, data in read(folder).items() if not path.endswith(".lock")}


def test_what_the_project_writes_is_read():
    info = ArtifactInfo.from_metadata(json.loads(json.dumps(VERSION)), "wandb")
    assert info == ArtifactInfo("one", "v2", 20, {"unet/a.bin": FileInfo(3, "0" * 64)}, 0.25, {})
    assert info.nbytes == 3
    state = {key: VERSION[key] for key in ("run_id", "version", "step", "files")}
    assert ArtifactInfo.from_metadata(state, "wandb").options is None
    assert ArtifactInfo.from_metadata({**VERSION, "validation_loss": None, "step": 0, "files": {}}, "wandb").step == 0


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_anything_else_is_one_line(change):
    with pytest.raises(UserError, match=r"^wandb has an artifact .*: that is none of ours$") as caught:
        ArtifactInfo.from_metadata({**VERSION, **change}, "wandb")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("metadata", [None, [], "v1", 5, {}])
def test_metadata_that_is_no_object_is_one_line(metadata):
    with pytest.raises(UserError, match=r"that is none of ours$"):
        ArtifactInfo.from_metadata(metadata, "wandb")


def publish_with(options, collection, folder, change):
    """Publish a folder whose metadata has the change; everything else about it is as it should be."""
    tracker = trackers.connect(options, "one")
    tracker.start(folder, {}, 0)
    tracker.log(0, {"loss": 1.0}, {})
    metadata = {**VERSION, "step": 5, "files": artifacts.list_files(folder), **change}
    tracker.publish(collection, folder, ["one-latest", "one-v2"], metadata)
    tracker.finish()


@pytest.mark.parametrize("change", [BAD[name] for name in PUBLISHED], ids=PUBLISHED)
@pytest.mark.parametrize("collection", [trackers.VERSIONS, trackers.STATES])
def test_a_foreign_artifact_writes_and_removes_nothing(options, run, tmp_path, collection, change):
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "a.bin").write_text("abc")
    publish_with(options, collection, folder, change)
    before = files_but_locks(tmp_path)
    with pytest.raises(UserError, match=r"^trackio has an artifact of run one .*: that is none of ours$"):
        if collection == trackers.STATES:
            artifacts.fetch_run(options, "one")
        else:
            artifacts.fetch_version(options, "one", "latest")
    assert files_but_locks(tmp_path) == before


def test_a_foreign_artifact_is_not_listed(options, run, tmp_path, capsys):
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "a.bin").write_text("abc")
    publish_with(options, trackers.VERSIONS, folder, {"run_id": "../prey"})
    publish_all(options, make_run(options))
    shutil.rmtree(options.output_dir)
    words = ["--output_dir", options.output_dir, "--tracker", "trackio", "--wandb_project", options.wandb_project]
    assert runs.main(words) == 0
    shown = capsys.readouterr()
    assert "prey" not in shown.out + shown.err and shown.out.startswith("one  (in trackio alone)")


def test_training_goes_on_beside_a_foreign_state(options, run, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "a.bin").write_text("abc")
    publish_with(options, trackers.STATES, folder, {"step": "9"})
    lines = []
    with Uploader(make_run(options), options, 20, say=lines.append):
        pass
    assert "of step '9': that is none of ours; nothing stops for it" in lines[0] and "\n" not in lines[0]
    assert "lacks v1, v2, state" in lines[-1]


# ---------------------------------------------------------------------------------------------------------------------
# The version index inside a downloaded state

INDEX = {
    "versions": {"v1": {"step": 10, "validation_loss": 0.5}, "v2": {"step": 20, "validation_loss": None}},
    "aliases": {"latest": "v2", "best": "v1"},
}


def without(key):
    return {name: value for name, value in INDEX.items() if name != key}


BAD_INDEX = {
    "no index": None,
    "a list": [],
    "versions null": {**INDEX, "versions": None},
    "versions a list": {**INDEX, "versions": ["v1", "v2"]},
    "no aliases": without("aliases"),
    "a version outside": {
        **INDEX,
        "versions": {**INDEX["versions"], "../../../prey": {"step": 1, "validation_loss": 1}},
    },
    "an absolute version": {**INDEX, "versions": {**INDEX["versions"], "/prey": {"step": 1, "validation_loss": 1}}},
    "an entry of text": {**INDEX, "versions": {**INDEX["versions"], "v3": "10"}},
    "a step of text": {**INDEX, "versions": {**INDEX["versions"], "v3": {"step": "9", "validation_loss": 1}}},
    "a loss of text": {**INDEX, "versions": {**INDEX["versions"], "v3": {"step": 9, "validation_loss": "1"}}},
    "no loss": {**INDEX, "versions": {**INDEX["versions"], "v3": {"step": 9}}},
    "an alias of nothing": {**INDEX, "aliases": {**INDEX["aliases"], "best": "v7"}},
    "an alias of a list": {**INDEX, "aliases": {**INDEX["aliases"], "best": ["v1"]}},
    "an alias with a path": {**INDEX, "aliases": {**INDEX["aliases"], "../best": "v1"}},
    "no latest": {**INDEX, "aliases": {"best": "v1"}},
    "another latest": {**INDEX, "aliases": {"latest": "v1"}},
}


def publish_state_with(options, run, change):
    """Publish a run whose state's position.json has the change, then let the machine lose everything."""
    path = run / "state" / "000000020" / "position.json"
    publish_all(options, run, "v1", "v2")
    folder = run / "upload"
    aliases = artifacts.pack(run, "state", folder)
    position = json.loads(path.read_text()) | change
    (folder / "position.json").unlink()  # a hard link
    (folder / "position.json").write_text(json.dumps(position))
    tracker = trackers.connect(options, "one")
    tracker.start(run.path, {}, 20)
    artifacts.send(tracker, folder, aliases)
    tracker.finish()
    shutil.rmtree(run)


def test_a_version_index_passes(options, run):
    publish_state_with(options, make_run(options), {"ledger": INDEX})
    artifacts.fetch_run(options, "one")
    versions = {"v1": SavedVersion(10, 0.5), "v2": SavedVersion(20, None)}
    assert catalog.read_version_index(run) == VersionIndex(versions, INDEX["aliases"])


@pytest.mark.parametrize("index", BAD_INDEX.values(), ids=BAD_INDEX)
def test_any_other_version_index_is_one_line(options, run, tmp_path, index):
    publish_state_with(options, make_run(options), {"ledger": index})
    with pytest.raises(UserError) as caught:
        artifacts.fetch_run(options, "one")
    # one line: . matches no line feed
    assert re.fullmatch(r"the state of update 20 of run one in trackio .*: that is none of ours", str(caught.value))
    assert not list(run.path.glob("state/*")) and not (run / "versions.json").exists()
    assert (tmp_path / "prey" / "precious").read_text() == "all that I have"


def test_a_state_that_names_a_folder_outside_deletes_nothing(options, run, tmp_path):
    make_run(options)
    index = catalog.read_version_index(run).to_json()
    index["versions"]["../../../prey"] = {"step": 1, "validation_loss": None}
    publish_state_with(options, run, {"ledger": index})
    assert (run / "versions" / "../../../prey").resolve() == (tmp_path / "prey").resolve()  # where it aims at
    (run / "versions").mkdir(parents=True)  # or the path would lead nowhere
    old = make_run(options, steps=(10,), losses=(0.5,))  # what this machine has of the run
    before = read(old)
    with pytest.raises(UserError) as caught:
        artifacts.fetch_run(options, "one")
    line = r"the state of update 20 of run one in trackio is damaged \(can't read .*position\.json: "
    line += r"'\.\./\.\./\.\./prey' is no version; run one can't be resumed from it\): that is none of ours"
    assert re.fullmatch(line, str(caught.value))  # one line: . matches no line feed
    assert (tmp_path / "prey" / "precious").read_text() == "all that I have"
    after = {path: data for path, data in files_but_locks(old).items() if not path.startswith("versions/v2/")}
    published = after.pop("published.json")  # v2, which came first and was sound
    assert after == before and b"v2" in published
    assert not list(old.path.rglob(".*.tmp"))


@pytest.mark.parametrize(
    "change",
    [
        *({"step": 30}, {"ledger": None}, {"ledger": {"versions": {}, "aliases": {}}}),
        *({"window": 0}, {"precision": "fp8"}, {"total": "100"}, {"start_loss": None}, {"fingerprint": 3}),
    ],
)
def test_a_state_that_contradicts_its_artifact_is_refused(options, run, change):
    publish_state_with(options, make_run(options), change)
    with pytest.raises(UserError, match=r"that is none of ours$"):
        artifacts.fetch_run(options, "one")
    assert not list(run.path.glob("state/*")) and not (run / "versions.json").exists() and not (run / "frozen").exists()


@pytest.mark.parametrize("name", ["position.json", "config.json", "metrics.jsonl"])
def test_a_state_without_its_files_is_refused(options, run, name):
    make_run(options)
    publish_all(options, run, "v1", "v2")
    folder = run / "upload"
    aliases = artifacts.pack(run, "state", folder)
    (folder / name).unlink()
    tracker = trackers.connect(options, "one")
    tracker.start(run.path, {}, 20)
    artifacts.send(tracker, folder, aliases)
    tracker.finish()
    shutil.rmtree(run)
    with pytest.raises(UserError, match=f"^trackio has an artifact of run one without {re.escape(name)}: that is none"):
        artifacts.fetch_run(options, "one")
    assert not (run / "state").exists()
    assert read_all_published(run).keys() == {trackers.location(options)}  # of the version, which was sound
