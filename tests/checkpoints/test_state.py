import errno
import json
import os

import pytest
import torch

from checkpoints import state, versions
from checkpoints.run_folder import lock_run, open_run
from common.errors import UserError
from config import TrainingOptions
from diffusion import pipeline
from diffusion import weights as diffusion_weights
from diffusion.parts import set_trainable


@pytest.fixture(scope="module")
def parts():
    return set_trainable(pipeline.build_tiny(), ["text_encoder"])


@pytest.fixture
def options(tmp_path):
    return TrainingOptions(output_dir=str(tmp_path / "runs"), pretrained_model="tiny", run_name="one")


def new_position():
    return {"step": 0, "precision": "no", "save_dtype": "no", "ledger": {"versions": {}, "aliases": {}}}


def ledger_of(*losses, keep=0):
    ledger, names = {"versions": {}, "aliases": {}}, []
    for step, loss in enumerate(losses, 1):
        ledger, name = versions.add_version(ledger, step, loss, keep)
        names.append(name)
    return ledger, names


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
    ledger, names = ledger_of(*losses, keep=keep)
    assert names == [f"v{i + 1}" for i in range(len(losses))]  # numbers are never used twice
    assert list(ledger["versions"]) == versions
    assert ledger["aliases"].get("best") == best and ledger["aliases"]["latest"] == names[-1]


def save(run, position, parts, loss=1.0):
    optimizer = torch.optim.AdamW(parts.text_encoder.parameters())
    return state.save(run, position, parts, ["text_encoder"], optimizer, None, loss, 1)


def test_a_version_loads_as_a_pipeline_and_shares_what_was_not_touched(parts, options):
    from diffusers import StableDiffusionPipeline

    position = new_position()
    run, lock = open_run(None, options, position, parts, ["text_encoder"])
    with lock:
        position["step"] = 3
        assert save(run, position, parts) == "v1"
    folder = run / "versions" / "v1"
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert type(pipeline.scheduler).__name__ == "PNDMScheduler"
    for name in ("unet", "vae", "text_encoder"):
        for a, b in zip(getattr(pipeline, name).parameters(), getattr(parts, name).parameters(), strict=True):
            assert torch.equal(a, b)
    weights = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".safetensors")]
    assert {path.suffix for path in weights} == {".safetensors"}
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert os.path.samefile(folder / unet, run / "untouched" / unet)
    assert not (run / "untouched" / "text_encoder").exists()
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (folder / "tokenizer").iterdir()}


def test_state_comes_back_as_it_was(parts, options):
    position = new_position()
    run, lock = open_run(None, options, position, parts, ["text_encoder"])
    optimizer = torch.optim.AdamW(parts.text_encoder.parameters(), lr=0.1)
    for p in parts.text_encoder.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with lock:
        position["step"] = 7
        state.save(run, position, parts, ["text_encoder"], optimizer, None, 1.0, 1)
    saved, folder = state.read_position(run)
    assert saved == position
    assert position == {**new_position(), "step": 7, "ledger": json.loads((run / "versions.json").read_text())}
    other = set_trainable(pipeline.build_tiny(), ["text_encoder"])
    fresh = torch.optim.AdamW(other.text_encoder.parameters(), lr=0.1)
    state.load_weights(folder, other, ["text_encoder"])
    state.load_optimizer(folder, fresh)
    for a, b in zip(parts.text_encoder.parameters(), other.text_encoder.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["exp_avg"], fresh.state[b]["exp_avg"])


def test_a_second_process_is_refused_while_the_first_trains(parts, options):
    run, lock = open_run(None, options, new_position(), parts, ["text_encoder"])
    with lock, pytest.raises(UserError, match="another process is training run one"):
        lock_run(run)
    with lock_run(run):
        pass  # free again


def test_leftovers_of_a_killed_save_are_removed_on_resume(parts, options):
    position = new_position()
    run, lock = open_run(None, options, position, parts, ["text_encoder"])
    position["step"] = 1
    with lock:
        save(run, position, parts)
    (run / "versions" / "v2").mkdir()  # published, but the state that speaks of it never was
    (run / "versions" / ".v3.1.tmp").mkdir()
    (run / "state" / ".9.1.tmp").mkdir()
    saved, _ = state.read_position(run)
    with open_run(run, options, saved, parts, ["text_encoder"])[1]:
        pass
    assert [path.name for path in (run / "versions").iterdir()] == ["v1"]


def test_a_full_disk_is_one_line_and_what_was_saved_stays(parts, options, monkeypatch):
    position = new_position()
    run, lock = open_run(None, options, position, parts, ["text_encoder"])
    with lock:
        position["step"] = 1
        save(run, position, parts)
        before = sorted(path for path in run.rglob("*"))

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        position["step"] = 2
        with monkeypatch.context() as patch:
            patch.setattr(state, "save_file", full)
            with pytest.raises(UserError, match=r"No space left on device; what was saved before is intact"):
                save(run, position, parts)
        saved, _ = state.read_position(run)
        assert saved["step"] == 1
        assert not [path for path in run.rglob(".*.tmp")]
        assert {path for path in before} <= {*run.rglob("*")}

        usage = state.shutil.disk_usage(run)
        monkeypatch.setattr(state.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(UserError, match=r"the next version needs .* GiB are free: free some space"):
            save(run, position, parts)


def test_a_run_that_would_not_fit_is_refused_before_it_starts(parts, options, monkeypatch):
    usage = state.shutil.disk_usage("/")
    monkeypatch.setattr(state.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="this run with its first version needs"):
        open_run(None, options, new_position(), parts, ["text_encoder"])


def test_the_name_of_a_run_is_taken_once(parts, options):
    _, lock = open_run(None, options, new_position(), parts, ["text_encoder"])
    with lock:
        pass
    with pytest.raises(UserError, match="run one is there already: resume it with --run_id one"):
        open_run(None, options, new_position(), parts, ["text_encoder"])


def test_an_output_dir_that_can_not_be_made(parts, options, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="choose another --output_dir"):
        open_run(None, options, new_position(), parts, ["text_encoder"])


@pytest.mark.parametrize("name", ["adamw8bit", "adamw"])
def test_the_moments_count_in_the_room_that_is_needed(name):
    from trainer import optimizers

    parts = set_trainable(pipeline.build_tiny(), ["unet"])
    optimizer = optimizers.build(TrainingOptions(optimizer=name), parts, ["unet"])
    for p in parts.unet.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    weights = diffusion_weights.weights_nbytes(parts, ["unet"])
    moments = state.optimizer_nbytes(optimizer)
    assert (2 if name == "adamw" else 0.5) * weights <= moments < 2.5 * weights
