"""A run folder is made, a version and a training state are saved and read, whatever happens in between."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import open_run, state, versions
from checkpoints.open_run import fill_run, new_run, require_space_for
from checkpoints.records import TrainingState, VersionIndex
from checkpoints.recovery import recover
from checkpoints.run_folder import RunFolder
from common.errors import UserError
from common.files import machine_id
from config import TrainingOptions, to_json
from diffusion import pipeline
from diffusion.ema import EMA
from diffusion.lora import make_trainable
from diffusion.lora_file import LORA_FILE
from diffusion.trainable import set_trainable
from diffusion.weights import weights_nbytes


@pytest.fixture(scope="module")
def parts():
    return pipeline.build_tiny()


@pytest.fixture(scope="module")
def trainable(parts):
    return set_trainable(parts, ["text_encoder"])


@pytest.fixture
def options(tmp_path):
    return TrainingOptions(output_dir=str(tmp_path / "runs"), pretrained_model="tiny", run_name="one")


def new_state(step=0):
    return TrainingState(step, 8, "no", "no", "of the data", VersionIndex(), total=10, start_loss=0.5)


def begin(options, parts, trainable):
    """(folder, lock) of a new run."""
    run, lock = new_run(options, new_state(), parts, trainable)
    fill_run(run, options, new_state(), parts, trainable)
    return run, lock


def new_state_of(total):
    return dataclasses.replace(new_state(), total=total)


def index_of(*losses, keep=0):
    index, names = VersionIndex(), []
    for step, loss in enumerate(losses, 1):
        index, name = index.with_version(step, loss, keep)
        names.append(name)
    return index, names


@pytest.mark.parametrize(
    ("losses", "keep", "versions", "best"),
    [
        ([3.0, 2.0, 1.0], 0, ["v3"], "v3"),
        ([1.0, 2.0, 3.0], 0, ["v1", "v3"], "v1"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 2, ["v1", "v3", "v4", "v5"], "v1"),
        ([5.0, 1.0, 4.0, 3.0], 1, ["v2", "v3", "v4"], "v2"),
        ([2.0, None, None], 0, ["v1", "v3"], "v1"),
        ([None, None], 5, ["v1", "v2"], None),
        ([1.0, 1.0], 0, ["v1", "v2"], "v1"),
    ],
)
def test_aliases_and_pruning(losses, keep, versions, best):
    index, names = index_of(*losses, keep=keep)
    assert names == [f"v{i + 1}" for i in range(len(losses))]  # numbers are never used twice
    assert list(index.versions) == versions
    assert index.aliases.get("best") == best and index.aliases["latest"] == names[-1]


def save(run, at, trainable, optimizer=None):
    """(state, name of the version) of a save in state `at`."""
    optimizer = optimizer or torch.optim.AdamW(trainable.parameters())
    return state.save_checkpoint(run, at, trainable, optimizer, None, None, validation_loss=1.0, keep_versions=1)


def test_a_version_loads_as_a_pipeline_and_shares_the_frozen_parts(parts, trainable, options):
    from diffusers import StableDiffusionPipeline

    run, lock = begin(options, parts, trainable)
    with lock:
        assert save(run, new_state(3), trainable)[1] == "v1"
    folder = run / "versions" / "v1"
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert type(pipeline.scheduler).__name__ == "PNDMScheduler"
    for name in ("unet", "vae", "text_encoder"):
        for a, b in zip(getattr(pipeline, name).parameters(), getattr(parts, name).parameters(), strict=True):
            assert torch.equal(a, b)
    weights = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".safetensors")]
    assert {path.suffix for path in weights} == {".safetensors"}
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert os.path.samefile(folder / unet, run / "frozen" / unet)
    assert not (run / "frozen" / "text_encoder").exists()
    assert (folder / "sha256.json").exists()
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (folder / "tokenizer").iterdir()}


def test_state_comes_back_as_it_was(parts, trainable, options):
    run, lock = begin(options, parts, trainable)
    optimizer = torch.optim.AdamW(parts.text_encoder.parameters(), lr=0.1)
    for p in parts.text_encoder.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with lock:
        now, _ = save(run, new_state(7), trainable, optimizer)
    saved, folder = state.read_state(run)
    assert saved == now
    assert now.to_json() == {**new_state(7).to_json(), "ledger": json.loads((run / "versions.json").read_text())}
    assert now == dataclasses.replace(new_state(7), version_index=VersionIndex().with_version(7, 1.0, 1)[0])
    other = set_trainable(pipeline.build_tiny(), ["text_encoder"])
    fresh = torch.optim.AdamW(other.parameters(), lr=0.1)
    state.load_weights(folder, other)
    state.load_optimizer(folder, fresh)
    for a, b in zip(trainable.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["exp_avg"], fresh.state[b]["exp_avg"])


def test_lettering_is_a_versions_own_beside_lora_and_frozen_where_it_is_not_trained(options):
    def build(**words):
        parts = pipeline.build_tiny()
        asked = dataclasses.replace(options, train_lettering=True, train_text_encoder=False, **words)
        return asked, parts, make_trainable(parts, asked)

    asked, parts, trainable = build(train_unet=True, lora_rank=2)
    run, lock = begin(asked, parts, trainable)
    ema = EMA(trainable, 0.5)
    for p in trainable.parameters():
        p.data += 1
    ema.update(1)
    with lock:
        optimizer = torch.optim.AdamW(trainable.parameters())
        state.save_checkpoint(run, new_state(3), trainable, optimizer, None, ema, validation_loss=1.0, keep_versions=1)
    version, file = run.version("v1"), "lettering/diffusion_pytorch_model.safetensors"
    assert versions.own_names(to_json(asked)) == [LORA_FILE, "lettering"]
    assert not (run.frozen / "lettering").exists() and file in json.loads((version / "sha256.json").read_text())
    averages = ema.averages["lettering"]
    assert all(torch.equal(tensor, averages[name]) for name, tensor in load_file(version / file).items())

    # The state has the weights themselves; and the version can be made again
    *_, other = build(train_unet=True, lora_rank=2)
    state.load_weights(run.state(3), other)
    state.load_ema(run.state(3), again := EMA(other, 0.5))
    assert all(torch.equal(a, b) for a, b in zip(trainable.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ema.pairs(), again.pairs(), strict=True))
    before = {name: (version / name).read_bytes() for name in (file, LORA_FILE, "lettering/config.json")}
    shutil.rmtree(version)
    recover(run, {})
    assert {name: (version / name).read_bytes() for name in before} == before

    # A run that begins with that version, and trains its UNet alone
    parts = pipeline.load_parts(str(version))
    assert parts.lettering is not None
    asked = dataclasses.replace(asked, run_name="two", train_lettering=False, lora_rank=None)
    trainable = make_trainable(parts, asked)
    assert trainable.names == ["unet"] and not any(p.requires_grad for p in parts.lettering.parameters())
    run, lock = begin(asked, parts, trainable)
    with lock:
        save(run, new_state(1), trainable)
    assert versions.own_names(to_json(asked)) == ["unet"]
    assert os.path.samefile(run.version("v1") / file, run.frozen / file)
    assert (run.frozen / file).read_bytes() == before[file]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_never_resumed_from(trainable, tmp_path, wrong):
    """An infinite moment would go unnoticed: its weight just stops changing."""
    (name, weights), *_ = trainable.state_dict("text_encoder").items()
    damaged = {name: torch.full_like(weights, wrong)}
    # As bitsandbytes nests them
    moments = {"state": {0: {"__bnb_optimizer_quant_state__": {"absmax1": torch.tensor([1.0, wrong])}}}}
    for file in ("text_encoder.safetensors", "text_encoder_average.safetensors"):
        save_file(damaged, tmp_path / file)
    torch.save({"optimizer": moments, "scaler": None}, tmp_path / "optimizer.pt")
    for file, load in {
        "text_encoder.safetensors": lambda: state.load_weights(tmp_path, trainable),
        "text_encoder_average.safetensors": lambda: state.load_ema(tmp_path, EMA(trainable, 0.9)),
        "optimizer.pt": lambda: state.load_optimizer(tmp_path, None),
    }.items():
        with pytest.raises(UserError, match=f"{file} is missing or damaged: its numbers are not finite; if a tracker"):
            load()


@pytest.mark.parametrize("part", ["average", "moment"])
def test_an_average_or_a_moment_that_is_not_finite_is_never_saved(parts, trainable, options, part):
    run, lock = begin(options, parts, trainable)
    optimizer, ema = torch.optim.SGD(trainable.parameters(), momentum=0.9), EMA(trainable, 0.9)
    moment = torch.tensor([1.0, float("inf" if part == "moment" else "1")])
    optimizer.state[trainable.parameters()[0]]["momentum_buffer"] = moment
    if part == "average":
        next(iter(ema.averages["text_encoder"].values())).view(-1)[0] = float("nan")
    with lock, pytest.raises(UserError, match=r"^update 3: the average .*, or a moment .*, is not finite; .* --lr"):
        state.save_checkpoint(run, new_state(3), trainable, optimizer, None, ema, validation_loss=1.0, keep_versions=1)
    assert not list(run.versions.glob("*")) and state.read_state(run) == (None, None)


def test_a_second_process_is_refused_while_the_first_trains(parts, trainable, options):
    run, lock = begin(options, parts, trainable)
    with lock, pytest.raises(UserError, match="another process is training run one"):
        RunFolder(run.path).lock()
    with run.lock():
        pass  # free again


def test_leftovers_of_a_killed_save_are_removed_on_resume(parts, trainable, options):
    run, lock = begin(options, parts, trainable)
    with lock:
        save(run, new_state(1), trainable)
    (run / "versions" / "v2").mkdir()  # complete, but the state that lists it never was
    dead, mine = (f".{machine_id()}.{process}.tmp" for process in (999999999, os.getpid()))
    for home, names in {
        run.versions: [".v3.1.tmp", ".v3.0123abcd.99.tmp"],
        run.states: [".9.1.tmp"],
        run.path: [".scores.json" + dead, ".scores.json" + mine],
        run.covers: [".1.png" + dead, ".2.png" + mine],
        run.fetched.versions: [".v1" + dead, ".v1" + mine],
    }.items():
        for name in names:
            (home / name).mkdir(parents=True)
    saved, _ = state.read_state(run)
    fill_run(run, options, saved, parts, trainable)
    assert [path.name for path in run.versions.iterdir()] == ["v1"]
    assert [path.name for path in run.states.iterdir()] == ["000000001"]
    left = {path.relative_to(run).as_posix() for path in run.path.rglob(".*.tmp")}
    assert left == {".scores.json" + mine, "covers/.2.png" + mine, "fetched/versions/.v1" + mine}


def test_what_was_killed_before_its_first_save_begins_anew(parts, trainable, options):
    run, lock = begin(options, parts, trainable)
    weights = run.frozen / "vae" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    fill_run(run, options, new_state(), parts, trainable)
    assert weights.read_bytes() == before
    shutil.copytree(run.frozen, run.versions / "v1.bak")  # somebody's own
    fill_run(run, options, new_state(), parts, trainable)
    assert [path.name for path in run.versions.iterdir()] == ["v1.bak"]
    lock.close()


def test_the_state_before_stays_and_what_is_not_ours_does(parts, trainable, options):
    run, lock = begin(options, parts, trainable)
    with lock:
        for step in (1, 2, 3):
            save(run, new_state(step), trainable)
            if step == 1:
                shutil.copytree(run.state(1), run.states / "000000001.bak")  # somebody's copy
                run.state(0).mkdir()  # half removed
    assert sorted(path.name for path in run.states.iterdir()) == ["000000001.bak", "000000002", "000000003"]
    assert run.saved_steps() == [2, 3] and state.read_state(run)[0].step == 3


def test_metrics_reach_the_disk_before_the_state_that_goes_with_them(parts, trainable, options, monkeypatch):
    """Or a power cut leaves a state whose run has no curves."""
    run, lock = begin(options, parts, trainable)
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: events.append(os.fstat(file).st_ino) or fsync(file))
    monkeypatch.setattr(os, "replace", lambda old, new: events.append(pathlib.Path(new).name) or replace(old, new))
    run.metrics.write_text('{"step": 1, "loss": 1.0}\n')
    with lock:
        save(run, new_state(1), trainable)
    assert events.index(run.metrics.stat().st_ino) < events.index("000000001") < events.index("versions.json")


def test_a_full_disk_is_one_line_and_what_was_saved_stays(parts, trainable, options, monkeypatch):
    run, lock = begin(options, parts, trainable)
    with lock:
        first, _ = save(run, new_state(1), trainable)
        before = sorted(path for path in run.path.rglob("*"))

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        second = dataclasses.replace(first, step=2)
        with monkeypatch.context() as patch:
            patch.setattr(state, "save_file", full)
            with pytest.raises(UserError, match=r"No space left on device; what was saved before is intact"):
                save(run, second, trainable)
        saved, _ = state.read_state(run)
        assert saved == first
        assert not [path for path in run.path.rglob(".*.tmp")]
        assert {path for path in before} <= {*run.path.rglob("*")}

        usage = shutil.disk_usage(run)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(UserError, match=r"the next version needs .* GiB are free: free some space"):
            save(run, second, trainable)


def test_a_run_that_would_not_fit_is_refused_before_it_starts(parts, trainable, options, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="this run with its first version needs"):
        new_run(options, new_state(), parts, trainable)


def test_the_space_for_both_states_is_asked_for(parts, trainable, options, monkeypatch):
    asked = []
    for module in (open_run, state):
        monkeypatch.setattr(module, "require_free_space", lambda folder, needed, what: asked.append(needed))
    long = dataclasses.replace(options, save_every=5, optimizer="adamw", run_name="two")
    for total in (5, 6):  # one save, two saves
        new_run(long, new_state_of(total), parts, trainable)[1].close()
    weights = trainable.nbytes()
    assert asked[1] - asked[0] == 3 * weights  # fp32, and AdamW's two moments
    run, lock = begin(long, parts, trainable)
    with lock:
        for step in (1, 2, 3):
            save(run, new_state(step), trainable)
    assert asked[-3:] == [2 * weights, 2 * weights, weights]  # a version and a state; then the oldest state makes way
    require_space_for(run, long, new_state_of(99), parts, trainable)
    assert asked[-1] == weights


def test_two_processes_that_begin_a_run_of_one_name(parts, trainable, options, monkeypatch):
    """The second has seen no run yet, and gets the lock when the first has ended."""
    make_folders = open_run.make_folders

    def slow(run):
        make_folders(run)
        run.config.write_text("{}")  # the first process was here

    monkeypatch.setattr(open_run, "make_folders", slow)
    with pytest.raises(UserError, match="run one is there already"):
        new_run(options, new_state(), parts, trainable)
    with RunFolder(pathlib.Path(options.output_dir) / "one").lock():
        pass  # free again


def test_the_name_of_a_run_is_taken_once(parts, trainable, options):
    _, lock = begin(options, parts, trainable)
    with lock:
        pass
    with pytest.raises(UserError, match="run one is there already: resume it with --run_id one"):
        new_run(options, new_state(), parts, trainable)


def test_an_output_dir_that_can_not_be_made(parts, trainable, options, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="choose another --output_dir"):
        new_run(options, new_state(), parts, trainable)


@pytest.mark.parametrize("name", ["adamw8bit", "adamw"])
def test_the_moments_count_in_the_space_that_is_needed(name):
    from trainer import optimizers

    parts = pipeline.build_tiny()
    unet = set_trainable(parts, ["unet"])
    optimizer = optimizers.build(TrainingOptions(optimizer=name), unet)
    for p in unet.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    weights = weights_nbytes(parts, ["unet"])
    assert weights == unet.nbytes()
    moments = state.optimizer_nbytes(optimizer)
    assert (2 if name == "adamw" else 0.5) * weights <= moments < 2.5 * weights
