"""A run with damaged files goes on from what is sound, with the bits of a run that was never damaged; or says why not.

Each test damages its own copy, made of hard links, of one run: four updates, saved after the second and the fourth,
with an average; of its versions only the newest stays.
"""

import json
import os
import pathlib
import shutil

import pytest
from support.training_runs import WEIGHTS, digest, final_state, read_log

import runs
import training
from checkpoints import recovery
from checkpoints.catalog import read_version_index
from checkpoints.records import SavedVersion, VersionIndex
from checkpoints.recovery import recover, set_aside_damaged_states, without_dropped
from checkpoints.run_folder import CARD_FILES, RunFolder
from checkpoints.state import read_state
from checkpoints.verify import verify
from checkpoints.versions import save_version
from common.errors import UserError
from common.files import read_json, write_json
from diffusion import pipeline
from diffusion.lora_file import LORA_FILE
from diffusion.trainable import set_trainable
from tracking import artifacts

OLD_RUN = pathlib.Path(__file__).parent.parent / "fixtures" / "runs_v0_1" / "plain"
STATE = {f"{part}{file}" for part in ("unet", "text_encoder") for file in (".safetensors", "_average.safetensors")}
STATE |= {"optimizer.pt", "unet_config.json", "text_encoder_config.json", "position.json"}
VAE = WEIGHTS["vae"]


@pytest.fixture(scope="module")
def sound(small_data, tmp_path_factory):
    """The run that is damaged in copies."""
    runs = tmp_path_factory.mktemp("sound")
    words = f"""--data_root {small_data} --output_dir {runs} --pretrained_model tiny --resolution 32x48 --batch_size 2
        --lr 1e-3 --num_workers 0 --sample_every 0 --validation_rows 2 --max_steps 4 --save_every 2 --keep_versions 0
        --train_unet --train_text_encoder --ema_decay 0.5"""
    assert training.main([*words.split(), "--run_name", "one"]) == 0
    return RunFolder(runs / "one")


@pytest.fixture
def run(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "one", copy_function=os.link)
    return RunFolder(tmp_path / "one")


def flip(path):
    """Flip a bit of a file, which leaves its hard links."""
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 16
    path.unlink()
    path.write_bytes(data)


def files(folder):
    """{path in the folder: hash}."""
    return {path.relative_to(folder).as_posix(): digest(path) for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------------------
# The training state


def test_the_two_newest_states_stay_and_every_file_is_in_a_manifest(sound):
    assert sound.saved_steps() == [2, 4] and list(read_version_index(sound).versions) == ["v2"]
    manifests = {path.parent: json.loads(path.read_text()) for path in sound.path.rglob("sha256.json")}
    assert manifests.keys() == {sound.frozen, sound.version("v2"), sound.state(2), sound.state(4)}
    for folder, manifest in manifests.items():
        found = files(folder)
        found.pop("sha256.json")
        if folder == sound.version("v2"):  # the card changes when the version is scored
            assert found.keys() & set(CARD_FILES) == {"README.md", "model_card.json"}
            found = {name: sha256 for name, sha256 in found.items() if name not in CARD_FILES}
        assert {name: entry["sha256"] for name, entry in manifest.items()} == found
        assert all((folder / name).stat().st_size == entry["bytes"] for name, entry in manifest.items())
    assert manifests[sound.state(4)].keys() == STATE
    assert verify(sound) == 0


@pytest.mark.parametrize("name", sorted(STATE))
def test_one_bit_of_any_file_of_the_newest_state_sets_it_aside(run, name):
    flip(run.state(4) / name)
    damaged = set_aside_damaged_states(run, fetchable=False)
    assert damaged == {4: f"{run.state(4) / name} is not what was saved (its SHA-256 differs)"}
    assert run.saved_steps() == [2] and (run.damaged_state(4) / name).exists()
    assert read_state(run)[0].step == 2


@pytest.mark.parametrize("name", [*sorted(STATE), "sha256.json"])
def test_so_does_a_file_that_is_gone_or_cut(run, name):
    path = run.state(4) / name
    text = path.read_bytes()
    path.unlink()
    if name == "sha256.json":
        path.write_bytes(text[:-20])
    assert list(set_aside_damaged_states(run, fetchable=False)) == [4]


def test_with_no_sound_state_nothing_is_renamed_unless_a_tracker_may_have_one(run):
    flip(run.state(4) / "optimizer.pt")
    flip(run.state(2) / "unet.safetensors")
    with pytest.raises(UserError, match=r"can't be resumed: .*optimizer\.pt is not what .* no sound state") as problem:
        set_aside_damaged_states(run, fetchable=False)
    assert "\n" not in str(problem.value) and run.saved_steps() == [2, 4]
    assert list(set_aside_damaged_states(run, fetchable=True)) == [4, 2]
    assert run.saved_steps() == [] and not run.state_folders()


def test_what_is_lost_is_said_and_the_run_ends_with_the_same_bits(run, sound, capfd, monkeypatch):
    """As if it had been killed after update 2: metrics, versions and index, too. keep_versions had v1 deleted."""
    begun = []
    monkeypatch.setattr(
        recovery,
        "without_dropped",
        lambda run, index: begun.append(list(index.versions)) or without_dropped(run, index),
    )
    flip(run.state(4) / "optimizer.pt")
    assert training.main(["--output_dir", str(run.path.parent), "--run_id", "one"]) == 0
    said = capfd.readouterr().out
    assert f"optimizer.pt is not what was saved (its SHA-256 differs): set aside as {run.damaged_state(4)}; run one "
    assert "run one goes on from update 2, and trains 2 updates again" in said
    assert "v1 is missing: v1 was made again from the training state" in said and "updates 2 to 4" in said
    assert final_state(run) == final_state(sound)
    assert run.version_index.read_text() == sound.version_index.read_text()
    kept = run.versions / "v2-before-damage"  # as it was, besides the one that was trained anew
    assert f"v2 of update 4 is kept as {kept}" in said and files(kept) == files(sound.version("v2"))
    shutil.rmtree(kept)
    assert files(run.versions) == files(sound.versions)
    logs = [[{**line, "images_per_s": 0, "memory_gib": 0} for line in read_log(each.path)] for each in (run, sound)]
    assert logs[0] == logs[1]
    assert run.saved_steps() == [2, 4] and files(run.state(2)) == files(sound.state(2))
    assert verify(run) == 0 and begun == [["v1"]]


def test_versions_that_a_later_save_has_dropped_are_not_listed_again(tmp_path):
    run = RunFolder(tmp_path)
    entries = {f"v{step}": SavedVersion(step, loss) for step, loss in enumerate([0.9, 0.5, 0.7, 0.8], 1)}
    index = VersionIndex(entries, {"latest": "v4", "best": "v2"})
    assert without_dropped(run, index) == index  # there is no versions.json to tell
    later, name = index.with_version(5, 0.4, keep_versions=1)
    assert list(later.versions) == ["v4", "v5"]
    write_json(run.version_index, later.to_json())
    kept = without_dropped(run, index)
    assert kept == VersionIndex({"v4": entries["v4"]}, {"latest": "v4", "best": "v4"})
    assert kept.with_version(5, 0.4, keep_versions=1) == (later, name)
    run.version("v2").mkdir(parents=True)
    assert list(without_dropped(run, index).versions) == ["v2", "v4"]  # what is there is listed
    run.version_index.write_text("{")
    assert without_dropped(run, index) == index


# ---------------------------------------------------------------------------------------------------------------------
# Versions and frozen parts


@pytest.mark.parametrize("name", [*WEIGHTS.values(), "tokenizer/vocab.json"])
def test_a_damaged_version_is_not_drawn_with(run, name):
    flip(run.version("v2") / name)
    with pytest.raises(UserError, match=f"{name} is not what was saved.*: bring that file back"):
        pipeline.load_parts(str(run.version("v2")))


def test_a_damaged_version_or_state_is_not_uploaded(run, tmp_path):
    flip(run.version("v2") / VAE)
    flip(run.state(4) / "optimizer.pt")
    for name, what in (("v2", f"{VAE} of v2, a version"), ("state", r"optimizer\.pt of v2, a state")):
        artifacts.pack(run, name, tmp_path / "upload" / name)
        with pytest.raises(UserError, match=f"{what} of run one, is damaged"):
            artifacts.send(None, tmp_path / "upload" / name, ["latest"])


@pytest.mark.parametrize("name", [None, "sha256.json", *WEIGHTS.values()])
def test_the_latest_version_is_made_again_to_the_byte(run, sound, capsys, name):
    """Of averaged weights, which the state has as well. name: of the file that is damaged; None: all are gone."""
    flip(run.version("v2") / name) if name else shutil.rmtree(run.version("v2"))
    recover(run, {})
    assert "v2 was made again from the training state" in capsys.readouterr().out
    before = files(sound.version("v2"))
    if name is None:  # training writes the card again, which only it can
        before = {path: sha256 for path, sha256 in before.items() if path not in CARD_FILES}
    assert files(run.version("v2")) == before
    recover(run, {})
    assert not capsys.readouterr().out


def test_a_frozen_file_that_is_gone_is_taken_from_a_version(run, sound, capsys):
    (run.frozen / VAE).unlink()
    shutil.rmtree(run.frozen / "tokenizer")
    recover(run, {})
    assert f"{VAE} is missing: taken from {run.version('v2') / VAE}" in capsys.readouterr().out
    assert files(run.frozen) == files(sound.frozen)
    (run.frozen / VAE).unlink()  # while training goes on
    save_version(run, "v3", set_trainable(pipeline.build_tiny(), ["unet", "text_encoder"]), "no")
    assert digest(run.version("v3") / VAE) == digest(sound.frozen / VAE)


def test_all_frozen_files_come_back_from_the_version_unless_it_is_damaged(run, sound, capsys):
    shutil.rmtree(run.frozen)
    recover(run, {})
    assert f"frozen is missing: taken from {run.version('v2')}" in capsys.readouterr().out
    assert files(run.frozen) == files(sound.frozen)
    shutil.rmtree(run.frozen)
    flip(run.version("v2") / VAE)
    with pytest.raises(
        UserError, match=r"is not what was saved .*frozen is gone, which it could be made of"
    ) as problem:
        recover(run, {})
    assert "\n" not in str(problem.value)


def test_without_a_sound_copy_no_version_is_published(run):
    (run.frozen / VAE).unlink()
    flip(run.version("v2") / VAE)
    with pytest.raises(UserError, match=f"{VAE} is missing, and no version of run one has a sound copy") as problem:
        recover(run, {})
    assert "\n" not in str(problem.value)
    with pytest.raises(UserError, match=f"{VAE} is missing, and no version of run one has a sound copy"):
        save_version(run, "v3", set_trainable(pipeline.build_tiny(), ["unet", "text_encoder"]), "no")
    assert [path.name for path in run.versions.iterdir()] == ["v2"]


def test_a_run_of_an_older_release_gets_its_frozen_files_back(tmp_path, capsys):
    run = RunFolder(tmp_path / "plain")
    shutil.copytree(OLD_RUN, run)
    recover(run, {})
    assert not capsys.readouterr().out and files(run.path) == files(OLD_RUN)  # unchecked, and untouched
    (run.frozen / VAE).unlink()
    recover(run, {})
    assert f"{VAE} is missing: taken from" in capsys.readouterr().out and files(run.path) == files(OLD_RUN)
    (run.version("v1") / WEIGHTS["unet"]).unlink()  # frozen there
    recover(run, {})
    assert pipeline.load_parts(str(run.version("v1")))
    shutil.rmtree(run.version("v1"))
    with pytest.raises(UserError, match=r"v1 is gone, and nothing in .* says how its text_encoder is built"):
        recover(run, {})


# ---------------------------------------------------------------------------------------------------------------------
# --verify


def test_verify_names_what_is_damaged(run, capsys):
    flip(run.state(2) / "optimizer.pt")
    (run.version("v2") / VAE).unlink()
    (run.frozen / "mine.txt").touch()
    where = ["--output_dir", str(run.path.parent), "--verify"]
    assert runs.main([*where, "--run_id", "one"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert set(lines[:2]) == {
        f"{run.state(2) / 'optimizer.pt'} is not what was saved (its SHA-256 differs)",
        f"{run.version('v2') / VAE} is missing",
    }
    assert lines[2:] == ["run one: 4 folders checked, damaged files: 2"]
    with pytest.raises(UserError, match="say which with --run_id"):
        runs.main(where)


def test_verify_does_not_miss_what_training_deletes_meanwhile(run, monkeypatch, capsys):
    def training_goes_on(folders):
        shutil.rmtree(run.state(2))
        index, _ = VersionIndex().with_version(6, 0.1, 0)
        write_json(run.version_index, {"versions": {"v3": index.versions["v1"].to_json()}, "aliases": {}})
        (run.version("v2") / VAE).unlink()
        return recovery.find_damage(folders)

    monkeypatch.setattr("checkpoints.verify.find_damage", training_goes_on)
    assert verify(run) == 0
    monkeypatch.undo()
    shutil.copytree(OLD_RUN, run.path.parent / "plain")
    assert verify(RunFolder(run.path.parent / "plain")) == 0
    assert "untouched was not checked: an older release" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# A run of adapters


@pytest.fixture(scope="module")
def lora_run(small_data, tmp_path_factory):
    """Two updates, then two more of the resumed run; and four in one go, with which it is compared."""
    runs = tmp_path_factory.mktemp("lora")
    words = f"""--data_root {small_data} --output_dir {runs} --pretrained_model tiny --resolution 32x48 --batch_size 2
        --num_workers 0 --sample_every 0 --validation_rows 2 --save_every 2 --keep_versions 0 --ema_decay 0.5
        --train_unet --lora_rank 2 --lora_alpha 3 --lora_dropout 0.3 --cache_latents --buckets"""
    for name, updates in (("one", "4"), ("two", "2")):
        assert training.main([*words.split(), "--run_name", name, "--max_steps", updates]) == 0
    assert training.main(["--output_dir", str(runs), "--run_id", "two", "--max_steps", "4"]) == 0
    return RunFolder(runs / "one"), RunFolder(runs / "two")


def test_a_resumed_run_of_adapters_ends_with_the_same_bits(lora_run):
    one, two = lora_run
    assert final_state(one) == final_state(two)
    assert digest(one.version("v2") / LORA_FILE) == digest(two.version("v2") / LORA_FILE)
    losses = [[line["loss"] for line in read_log(run) if "loss" in line] for run in lora_run]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert read_json(one.config)["lr"] == 1e-4  # not that of full fine-tuning


@pytest.mark.parametrize("lost", ["adapters", "version", "frozen", "frozen file"])
def test_a_run_of_adapters_is_made_whole(lora_run, tmp_path, capsys, lost):
    shutil.copytree(lora_run[0], tmp_path / "one", copy_function=os.link)
    run = RunFolder(tmp_path / "one")
    before = files(run.path)
    version = run.version("v2")
    if lost == "adapters":
        flip(version / LORA_FILE)
    elif lost == "version":
        shutil.rmtree(version)
    elif lost == "frozen":
        shutil.rmtree(run.frozen)
    else:
        (run.frozen / WEIGHTS["unet"]).unlink()
    recover(run, {})
    assert "made again" in capsys.readouterr().out or "frozen" in lost
    if lost == "version":  # its card is made on the resume, which knows what it says
        before = {name: digest for name, digest in before.items() if pathlib.Path(name).name not in CARD_FILES}
    assert files(run.path) == before and verify(run) == 0
