import dataclasses
import inspect

import pytest

import config
from cli import checks, parser
from config import InferenceOptions, RunsOptions, TrainingOptions


def parse(words, cls=TrainingOptions):
    return parser.parse(cls, words)[0]


@pytest.mark.parametrize(("text", "size"), [("512x768", (512, 768)), ("64", (64, 64)), ("64X96", (64, 96))])
def test_resolution(text, size):
    assert config.size(parse(["--resolution", text])) == size


def test_every_option_is_owned_once_and_explained():
    owners = {}
    for cls in (TrainingOptions, InferenceOptions, config.StatsOptions):
        for owner in cls.__mro__[:-1]:
            for name in inspect.get_annotations(owner):
                assert owners.setdefault(name, owner) is owner or name == "run_id", f"{name} is declared twice"
    for cls in config.SCRIPTS:
        for field in dataclasses.fields(cls):
            assert field.metadata["help"]
            assert (field.default is None) == bool(field.metadata["none"]), f"{field.name}: what does None mean?"
            if field.default is not None:
                assert checks.check_value(field, field.default) == field.default


KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def no_key(monkeypatch):
    """No WANDB_API_KEY, before and after."""
    monkeypatch.setenv("WANDB_API_KEY", "")  # so that it is put back even if the code sets it
    monkeypatch.delenv("WANDB_API_KEY")


def test_a_key_turns_wandb_on_and_an_explicit_tracker_wins(no_key, monkeypatch):
    assert config.tracker(parse([])) == "none"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert config.tracker(parse([])) == "wandb"
    for name in ("none", "wandb", "trackio", "tensorboard"):
        assert config.tracker(parse(["--tracker", name])) == name
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert config.tracker(parse([])) == "none"


@pytest.mark.parametrize("words", [[], ["--tracker", "wandb"]])
def test_wandb_that_is_disabled_is_no_tracker(no_key, monkeypatch, words):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert config.tracker(parse(words)) == "none"
    assert config.tracker(parse(["--tracker", "trackio"])) == "trackio"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert config.tracker(parse(words)) == "wandb"


@pytest.mark.parametrize("cls", [TrainingOptions, InferenceOptions, RunsOptions])
def test_saved_options_have_no_key(no_key, cls):
    saved = config.to_json(parse(["--wandb_key", KEY], cls))
    assert "wandb_key" not in saved and KEY not in str(saved)
    assert saved["wandb_project"] == "book_cover_generation"


def test_a_resumed_run_may_change_its_tracker():
    free = {f.name for f in dataclasses.fields(config.TrackingOptions) if f.metadata["resume"] == "free"}
    assert free | {"wandb_key"} == {f.name for f in dataclasses.fields(config.TrackingOptions)}


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("all", list(config.METRICS)),
        ("legibility, fid,,fid", ["fid", "legibility"]),
        ("kid,all", list(config.METRICS)),
    ],
)
def test_metrics_are_picked_by_name(words, chosen):
    assert checks.chosen_metrics(checks.check(config.InferenceOptions(metrics=words, calc_fid=True))) == chosen
