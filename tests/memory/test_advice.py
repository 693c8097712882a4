import dataclasses
import json
import pathlib
import re
import shlex
import types

import pytest
import torch

import training
from cli import checks
from common.errors import UserError
from common.files import GIB
from config import TrainingOptions
from diffusion import pipeline
from memory import advice, forecast, suggestions
from memory import forecast as memory_forecast
from memory.suggestions import Suggestion
from trainer.losses import Objective

pytestmark = pytest.mark.real_forecast

PLAN = ["--plan", "--pretrained_model", "tiny", "--resolution", "64x96", "--data_root", "/nowhere"]


@pytest.fixture
def closed_form(monkeypatch):
    """memory.forecast by a formula: 4 GiB, 1 for each cover of a batch, 3 without checkpointing, 2 for AdamW."""

    def forecast(options, architecture, device="cuda"):
        activations = options.batch_size + (0 if options.grad_ckpt else 3)
        sizes = {"weights": 4, "gradients": 0, "optimizer": 2 if options.optimizer == "adamw" else 0}
        sizes = {kind: size * GIB for kind, size in {**sizes, "activations": activations}.items()}
        return memory_forecast.Forecast({"training": sizes, "sampling": dict.fromkeys(memory_forecast.KINDS, GIB)}, 0)

    monkeypatch.setattr(advice, "forecast_memory", forecast)
    monkeypatch.setattr(suggestions, "forecast_memory", forecast)


def peaks(found):
    return {suggestion.flags: suggestion.peak / GIB for suggestion in found}


# ---------------------------------------------------------------------------------------------------------------------
# Less memory


@pytest.mark.parametrize(("size", "smaller"), [(4, [2, 1]), (12, [6, 3, 1]), (5, [1]), (1, [])])
def test_smaller_batches_make_the_same_updates(size, smaller):
    changes = suggestions.smaller_batches(TrainingOptions(batch_size=size, grad_acc_steps=3))
    assert [change["batch_size"] for change in changes] == smaller
    assert all(change["batch_size"] * change["grad_acc_steps"] == 3 * size for change in changes)
    options = TrainingOptions(batch_size=size, fused_backward=True)  # takes one batch alone
    changes = suggestions.smaller_batches(options)
    assert changes == [{"batch_size": n, "grad_acc_steps": 1} for n in smaller]


def test_remedies_are_options_that_go_together_and_change_something():
    alone = dict(train_unet=True, train_text_encoder=False, grad_ckpt=False)
    for words in (dict(), dict(train_unet=True), alone, dict(fused_backward=True), dict(ema_decay=0.999)):
        options = TrainingOptions(**words)
        changes = suggestions.memory_savers(options)
        for change in changes:
            assert checks.check(dataclasses.replace(options, **change)) != options
        assert not any(change in changes[:i] for i, change in enumerate(changes))
    assert {"train_unet": False} in suggestions.memory_savers(TrainingOptions(train_unet=True))
    assert not any(
        "train_unet" in c for c in suggestions.memory_savers(TrainingOptions(train_unet=True, train_text_encoder=False))
    )


def test_each_remedy_alone_and_the_first_that_is_enough(closed_form):
    options = TrainingOptions(batch_size=4, grad_ckpt=False, optimizer="adamw")  # 13 GiB
    alone, enough = suggestions.suggest(options, None, 10 * GIB)
    assert peaks(alone) == {
        "--grad_ckpt True": 10,
        "--optimizer adamw8bit": 11,
        "--batch_size 2 --grad_acc_steps 2": 11,
        "--batch_size 1 --grad_acc_steps 4": 10,
    }
    assert enough == Suggestion({"grad_ckpt": True}, 10 * GIB)


def test_remedies_together(closed_form):
    options = TrainingOptions(batch_size=4, grad_ckpt=False, optimizer="adamw")
    _, enough = suggestions.suggest(options, None, 6 * GIB)
    assert enough.change == {"grad_ckpt": True, "optimizer": "adamw8bit", "batch_size": 2, "grad_acc_steps": 2}
    assert enough.peak == 6 * GIB
    assert suggestions.suggest(options, None, 4.5 * GIB)[1] is None


def test_the_unet_learns_as_long_as_the_smallest_preset_fits(monkeypatch):
    """10 GiB, 5 as with --preset 6gb, 4 with Adafactor, 3 without the UNet. Accumulating rules fused_backward out."""

    def forecast(options, architecture, device="cuda"):
        small = options.fused_backward and options.weights_dtype == "bf16"
        gib = (4 if options.optimizer == "adafactor" else 5) if small else 10 if options.train_unet else 3
        return memory_forecast.Forecast({"training": {kind: gib * GIB / 4 for kind in memory_forecast.KINDS}}, 0)

    monkeypatch.setattr(suggestions, "forecast_memory", forecast)
    options = TrainingOptions(train_unet=True, grad_acc_steps=2)
    for gib, unet, optimizer in ((5, True, "paged_adamw8bit"), (4, True, "adafactor"), (3, False, "adamw8bit")):
        _, enough = suggestions.suggest(options, None, gib * GIB)
        changed = checks.check(dataclasses.replace(options, **enough.change))
        assert (changed.train_unet, changed.optimizer, enough.peak) == (unet, optimizer, gib * GIB)
    assert suggestions.suggest(options, None, 2 * GIB)[1] is None


# ---------------------------------------------------------------------------------------------------------------------
# --plan


@pytest.mark.slow
def test_json(capsys):
    """No data folder, no GPU, no run."""
    assert training.main([*PLAN, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (
        plan["fits"] is True
        and plan["tight"] is False
        and plan["vram_gib"] == 12
        and plan["suggestions"] == []
        and plan["enough"] is None
    )
    assert set(plan["parts"]) == {*forecast.KINDS, "context"}
    assert sum(plan["parts"].values()) == pytest.approx(plan["peak_gib"]) == max(plan["phases"].values())
    assert plan["peak_gib"] == plan["phases"][plan["phase"]]
    assert set(plan["phases"]) == {"training", "validation", "sampling"}


def test_what_does_not_fit_is_reported_with_a_remedy(capsys, closed_form):
    words = [*PLAN, "--vram_gb", "7", "--batch_size", "6"]
    assert training.main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is False and plan["peak_gib"] == 10
    first = {"flags": "--batch_size 3 --grad_acc_steps 2", "peak_gib": 7, "saves_gib": 3, "fits": True}
    assert plan["enough"] == plan["suggestions"][0] == first
    assert training.main(words) == 0
    table = capsys.readouterr().out
    assert "peak: 10.00 GiB, in training; it does not fit into 7.00 GiB" in table
    assert "enough: --batch_size 3 --grad_acc_steps 2, which needs 7.00 GiB" in table
    assert training.main([*words, "--vram_gb", "3"]) == 0
    assert "give a lower --resolution" in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_is_looked_for_where_cuda_alone_takes_the_card(capsys, monkeypatch):
    monkeypatch.setattr(advice, "suggest", lambda *_: pytest.fail("remedies were traced"))
    assert training.main([*PLAN, "--vram_gb", "0.4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "CUDA alone takes that: no option can help"


def test_a_preset_is_held_against_its_own_card(capsys, closed_form):
    for preset, gib in (("6gb", 6), ("24gb", 24), ("t4", 14.7)):
        assert training.main([*PLAN, "--preset", preset]) == 0
        assert f"into {gib:.2f} GiB" in capsys.readouterr().out


def test_the_table_adds_up(capsys, closed_form):
    assert training.main(PLAN) == 0
    lines = capsys.readouterr().out.splitlines()
    training_column = [float(line.split()[-2]) for line in lines if line.startswith("  ")]
    assert training_column[-1] == sum(training_column[:-1]) == 8
    assert lines[-2] == "peak: 8.00 GiB, in training; it fits into 12.00 GiB"
    assert lines[-1].startswith("that leaves 4.00 GiB for fragmentation") and lines[-1].endswith("1.20 GiB")
    assert training.main([*PLAN, "--vram_gb", "8.5"]) == 0
    table = capsys.readouterr().out
    assert "it just fits into 8.50 GiB\nthat leaves 0.50 GiB" in table and table.endswith("that is tight\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json"], "add --plan"),
        (["--vram_gb", "8"], "add --plan"),
        (["--plan", "--vram_gb", "0"], "--vram_gb: expected more than 0"),
        (["--plan", "--vram_gb", "much"], "--vram_gb: expected a number"),
        (["--plan", "--pretrained_model", "/nowhere/model"], "no such folder"),
        (["--plna"], "did you mean --plan"),
        (["--plan", "--run_id", "none"], "no run none"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        training.main([*words, "--output_dir", str(tmp_path)])


def test_the_card_is_the_one_that_was_given_or_is_here(monkeypatch):
    assert advice.vram_gib(TrainingOptions(vram_gb=8.0)) == 8
    assert advice.vram_gib(TrainingOptions(vram_gb=8.0, preset="24gb")) == 8
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    card = types.SimpleNamespace(total_memory=24 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert advice.vram_gib(TrainingOptions()) == 24


# ---------------------------------------------------------------------------------------------------------------------
# In a run


@pytest.fixture
def words(small_data, tmp_path):
    common = "--pretrained_model tiny --resolution 32x48 --num_workers 0 --steps 2 --num_samples 1 --run_name run"
    return [*common.split(), "--data_root", str(small_data), "--output_dir", str(tmp_path / "runs")]


def stand_in():
    return pipeline.build_tiny()


def expect(device="cpu"):
    return advice.announce_forecast(TrainingOptions(resolution="32x48"), pipeline.build_tiny(), torch.device(device))


@pytest.mark.slow
def test_a_run_begins_with_its_forecast(words, capsys):
    assert training.main([*words, "--max_steps", "1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("memory:")]
    (peak,) = (re.fullmatch(r"memory: about ([\d.]+) MiB expected at most, in training, .*", line)[1] for line in lines)
    assert 1 < float(peak) < 10


def test_on_a_gpu_the_forecast_says_whether_it_fits(closed_form, monkeypatch, capsys):
    for gib, ending in ((12, "of 12.00"), (9, "of 9.00; that is tight"), (6, "says which flags would bring it under")):
        card = types.SimpleNamespace(total_memory=gib * GIB)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        expect("cuda")
        line = capsys.readouterr().out.strip()
        assert line.startswith("memory: about 8.00 GiB expected at most, in training, of") and line.endswith(ending)


@pytest.mark.parametrize("problem", [RuntimeError, AssertionError, TypeError, KeyError])
def test_a_forecast_that_fails_stops_no_run(monkeypatch, capsys, problem):
    def fails(*_):
        raise problem("no fake for this operator")

    monkeypatch.setattr(advice, "forecast_memory", fails)
    assert expect() is None
    assert "no fake for this operator" in capsys.readouterr().err


def test_the_measured_peak_stands_beside_the_forecast(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 * GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 8 * GIB)
    forecast = memory_forecast.Forecast({"training": dict.fromkeys(memory_forecast.KINDS, 2 * GIB)}, GIB)
    line = advice.compare_with_measured(forecast, torch.device("cuda"), "adamw")
    assert "7.00 GiB of tensors at most, 8.00 were expected; torch held 8.00" in line
    line = advice.compare_with_measured(forecast, torch.device("cuda"), "paged_adamw8bit")
    assert "7.00 GiB of tensors at most, 6.00 were expected" in line and line.endswith("paged moments 2.00")


def test_out_of_memory_says_how_to_go_on_and_so_it_goes(words, monkeypatch, closed_form, tmp_path):
    """The command in the message is run as it stands: update 2 was not kept, update 1 was."""
    steps = []

    training_losses = Objective.training_losses

    def full(self, batch, sample_indexes):
        if len(sample_indexes) == 4 and sample_indexes[0] >= 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        steps.append(sample_indexes)
        return training_losses(self, batch, sample_indexes)

    monkeypatch.setattr(Objective, "training_losses", full)
    monkeypatch.setattr(advice, "available_bytes", lambda options: 6 * GIB)
    with pytest.raises(UserError, match=r"the GPU's memory is full: about 8\.0 GiB are needed; go on") as caught:
        training.main([*words, "--max_steps", "2", "--save_every", "1", "--batch_size", "4"])
    command = shlex.split(str(caught.value).split("with: ")[1])
    assert command[:3] == ["python", "-m", "training"]
    assert command[-4:] == ["--batch_size", "2", "--grad_acc_steps", "2"]
    assert training.main(command[3:]) == 0
    assert [(sample_indexes[0], len(sample_indexes)) for sample_indexes in steps] == [(0, 4), (4, 2), (6, 2)]


def test_out_of_memory_rather_goes_on_than_starts_again(closed_form, monkeypatch):
    """8-bit AdamW would be the first remedy, but the run could not have it. A resumed run may not even have got in."""
    monkeypatch.setattr(advice, "available_bytes", lambda options: 9 * GIB)
    options = TrainingOptions(optimizer="adamw", batch_size=4, pretrained_model="tiny")  # 10 GiB
    for parts in (stand_in(), None):
        problem = advice.out_of_memory(options, parts, pathlib.Path("runs/run"))
        assert str(problem).endswith("--output_dir runs --run_id run --batch_size 2 --grad_acc_steps 2")


def test_out_of_memory_with_what_a_run_cannot_change(closed_form, monkeypatch):
    """AdamW's states are part of the run: a new one is needed. So it is if a new run's model did not even get in."""
    monkeypatch.setattr(advice, "available_bytes", lambda options: 6 * GIB)
    options = TrainingOptions(optimizer="adamw", batch_size=1, pretrained_model="tiny")  # 7 GiB
    parts, run = stand_in(), pathlib.Path("runs/run")
    problem = advice.out_of_memory(options, parts, run)
    assert "start a new run with --optimizer adamw8bit, which needs about 5.0 GiB" in str(problem)
    problem = advice.out_of_memory(dataclasses.replace(options, batch_size=4, optimizer="adamw8bit"), None, None)
    assert "start a new run with --batch_size 2 --grad_acc_steps 2" in str(problem)
    monkeypatch.setattr(advice, "available_bytes", lambda options: GIB)
    assert "use a lower --resolution" in str(advice.out_of_memory(options, parts, run))
