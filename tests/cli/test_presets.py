import dataclasses

import pytest

import config
from cli import parser, saved_options
from common.errors import UserError
from config import TrainingOptions

KNOWN = {field.name: field for field in dataclasses.fields(TrainingOptions)}


@pytest.mark.parametrize("name", config.PRESETS)
def test_a_preset_sets_what_it_says_and_goes_together_with_both_parts_learning(name, capsys):
    options, given = parser.parse(TrainingOptions, ["--preset", name, "--train_unet", "--ema_decay", "0.999"])
    text = capsys.readouterr().err
    assert text.startswith(f"preset {name} sets --") and text.count("\n") == 1
    for flag, value in config.PRESETS[name].items():
        if flag in KNOWN:
            assert getattr(options, flag) == given[flag] == value
            assert f"--{flag} {value}" in text


@pytest.mark.parametrize("name", config.PRESETS)
def test_flags_that_are_given_win(name, capsys, tmp_path):
    path = tmp_path / "options.json"
    path.write_text('{"ema_device": "auto"}')
    words = ["--preset", name, "--batch_size", "3", "--no-grad_ckpt", "--config", str(path)]
    options, _ = parser.parse(TrainingOptions, words)
    assert (options.batch_size, options.grad_ckpt, options.ema_device) == (3, False, "auto")
    text = capsys.readouterr().err
    assert not any(flag in text for flag in ("--batch_size", "--grad_ckpt", "--ema_device"))


def test_a_preset_may_have_nothing_left_to_set(capsys):
    values = {flag: value for flag, value in config.PRESETS["24gb"].items() if flag in KNOWN}
    words = [word for flag, value in values.items() for word in (f"--{flag}", str(value))]
    parser.parse(TrainingOptions, ["--preset", "24gb", *words])
    assert capsys.readouterr().err == "preset 24gb sets nothing, since all was given\n"


def test_without_a_preset_nothing_is_said_or_set(capsys):
    assert parser.parse(TrainingOptions, [])[1] == {}
    assert capsys.readouterr().err == ""


def test_smaller_cards_get_more_thrifty_flags():
    small, large = (config.PRESETS[name] for name in ("6gb", "24gb"))
    assert small["batch_size"] < large["batch_size"] and small["fused_backward"] and "fused_backward" not in large


def test_every_preset_says_how_much_memory_its_gpu_has():
    assert config.PRESET_GIB.keys() == config.PRESETS.keys()
    assert all(config.PRESET_GIB[f"{gib}gb"] == gib for gib in (6, 8, 12, 24))


def test_that_of_a_t4_needs_no_bf16():
    """It has none; --mixed_precision auto is fp16 there."""
    assert not config.PRESETS["t4"].keys() & {"weights_dtype", "fused_backward", "mixed_precision"}


def test_a_preset_is_for_a_new_run_and_is_not_saved():
    with pytest.raises(UserError, match="--preset is for a new run"):
        parser.parse(TrainingOptions, ["--preset", "6gb", "--run_id", "a"])
    with pytest.raises(UserError, match="--preset: expected one of 6gb, 8gb, 12gb, 24gb, t4"):
        parser.parse(TrainingOptions, ["--preset", "16gb"])
    assert not KNOWN["preset"].metadata["saved"]


@pytest.mark.parametrize("name", config.PRESETS)
def test_with_lora_a_preset_is_another_and_rates_are_higher(name, capsys):
    assert config.LORA_PRESETS.keys() == config.PRESETS.keys()
    options, given = parser.parse(
        TrainingOptions, ["--preset", name, "--train_unet", "--lora_rank", "8", "--lr_text_encoder", "1e-6"]
    )
    assert config.LORA_PRESETS[name].items() <= given.items()
    assert options.weights_dtype == "fp32" and not options.fused_backward
    assert (options.lr, options.lr_text_encoder) == (1e-4, 1e-6)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "--lora_rank sets --lr 0.0001" and second.startswith(f"preset {name} sets --batch_size")


def test_a_command_has_the_rates_that_lora_would_change():
    command = saved_options.command(TrainingOptions, {"lora_rank": 8, "lr": 1e-5})
    assert "--lr 1e-05" in command and "--lr_text_encoder 1e-05" in command
    assert "--lr" not in saved_options.command(TrainingOptions, {"lr": 1e-5})


def test_a_resumed_run_keeps_its_rates():
    given = parser.read_command_line(TrainingOptions, ["--run_id", "a", "--lora_rank", "8"])
    assert "lr" not in given
