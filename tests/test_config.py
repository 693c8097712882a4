import dataclasses
import inspect
import json

import pytest

import config
from cli import checks, parser, saved_options
from common.errors import UserError
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
        ("entanglement,all", [*config.METRICS, "entanglement"]),
        ("entanglement", ["entanglement"]),
    ],
)
def test_metrics_are_picked_by_name(words, chosen):
    assert checks.chosen_metrics(checks.check(config.InferenceOptions(metrics=words, calc_fid=True))) == chosen


# ---------------------------------------------------------------------------------------------------------------------
# Facts of options


def fields_of(*classes):
    return {f.name: f for cls in classes for f in dataclasses.fields(cls)}


def test_a_new_option_gets_the_safe_facts():
    """It makes another memory forecast, must not change on resuming, is saved, and is not taken from a run."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class More(TrainingOptions):
        new: int = config.option(0, "something")

    facts = fields_of(More)["new"].metadata
    assert (facts["memory"], facts["resume"], facts["saved"], facts["inherited"]) == (True, "fixed", True, False)
    assert config.memory_settings(More(new=3))["new"] == 3
    assert config.to_json(More(new=3))["new"] == 3


@pytest.mark.parametrize("cls", [config.DataOptions, config.ModelOptions, config.DrawingOptions, config.FidOptions])
def test_every_option_of_drawing_and_scoring_states_what_it_affects(cls):
    for name, field in fields_of(cls).items():
        assert field.metadata["affects"] in ("nothing", "books", "drawing", "scoring"), f"--{name}: state affects="


def test_memory_facts_of_a_value():
    def settings(**options):
        return config.memory_settings(TrainingOptions(**options))

    for same in (dict(lr=1.0), dict(seed=3), dict(sample_every=7), dict(guidance_scale=2.0), dict(steps=3)):
        assert settings(**same) == settings(), same
    for other in (dict(batch_size=2), dict(sample_every=0), dict(guidance_scale=1.0), dict(ema_decay=0.9)):
        assert settings(**other) != settings(), other
    assert settings(grad_acc_steps=2) == settings(grad_acc_steps=5) != settings(grad_acc_steps=1)
    json.dumps(settings())


def test_each_part_that_can_be_trained_has_a_learning_rate():
    rates = config.learning_rates(TrainingOptions(lr=1.0, lr_text_encoder=2.0, lr_lettering=3.0))
    assert rates == {"unet": 1.0, "text_encoder": 2.0, "lettering": 3.0}
    assert {f"train_{part}" for part in rates} == {n for n in fields_of(TrainingOptions) if n.startswith("train_")}


def test_what_needed_little_memory_in_training_is_not_inherited():
    inherited = config.option_names(InferenceOptions, "inherited", True)
    assert {"seed", "resolution", "data_root", "steps", "tracker"} <= set(inherited)
    assert not {"vae_tiling", "mixed_precision", "batch_size", "fid_resize"} & set(inherited)


def test_names_of_settings_that_scores_are_compared_by():
    drawing = config.setting_options("drawing")
    assert drawing["precision"] == "mixed_precision" and drawing["vae_tiling"] == "vae_tiling"
    assert config.setting_options("scoring") == {"fid_resize": "fid_resize"}


def test_only_the_key_is_secret():
    for cls in config.SCRIPTS:
        for name in config.option_names(cls, "secret", True):
            assert name == "wandb_key" and not fields_of(cls)[name].metadata["saved"]


# ---------------------------------------------------------------------------------------------------------------------
# Aliases


@pytest.mark.parametrize("cls", config.SCRIPTS, ids=config.SCRIPTS.values())
def test_aliases_are_free_names(cls):
    names = [name for field in dataclasses.fields(cls) for name in (field.name, *field.metadata["aliases"])]
    assert len(set(names)) == len(names)
    assert all(saved_options.known_fields()[name].name in fields_of(cls) for name in names)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--num_inference_steps", "7"], "steps", 7),
        (["--num-inference-steps=7"], "steps", 7),
        (["--steps", "5", "--num_inference_steps", "7"], "steps", 7),  # the last one counts, as for one name
        (["--num_inference_steps", "7", "--steps", "5"], "steps", 5),
        (["--gradient_checkpointing", "False"], "grad_ckpt", False),
        (["--no-gradient_checkpointing"], "grad_ckpt", False),
        (["--no-grad_ckpt", "--gradient-checkpointing"], "grad_ckpt", True),
    ],
)
def test_aliases_on_the_command_line(words, name, value):
    options, given = parser.parse(TrainingOptions, words)
    assert getattr(options, name) == value and given == {name: value}


def test_an_alias_has_the_same_mistakes():
    with pytest.raises(UserError, match=r"^--steps: expected at least 1, got '0'$"):
        parse(["--num_inference_steps", "0"])
    with pytest.raises(UserError, match="did you mean --num_inference_steps"):
        parse(["--num_inference_step", "3"], InferenceOptions)
    with pytest.raises(UserError, match="unknown option --gradient_checkpointing"):
        parse(["--gradient_checkpointing"], InferenceOptions)  # which has no --grad_ckpt either


def test_aliases_in_a_file(tmp_path):
    path = tmp_path / "options.json"
    path.write_text('{"num_inference_steps": 7, "gradient_checkpointing": false}')
    options = parse(["--config", str(path)])
    assert (options.steps, options.grad_ckpt) == (7, False)
    assert parse(["--config", str(path), "--steps", "8"]).steps == 8
    path.write_text('{"num_inference_steps": 7, "steps": 5}')
    with pytest.raises(UserError, match="steps is given twice, also as num_inference_steps: remove one"):
        parse(["--config", str(path)])


def test_help_names_an_alias_beside_its_option():
    text = " ".join(parser.build_parser(TrainingOptions).format_help().split())
    for alias, line in {"num_inference_steps": "--steps N ", "gradient_checkpointing": "--grad_ckpt "}.items():
        assert text.count(alias) == 1 and line in text


# ---------------------------------------------------------------------------------------------------------------------
# Files


WRONG = {  # of each type: values that JSON can have
    "int": [[1], {}, "many", 1.5, True, None, 10**400, -(10**400)],
    "float": [[0.1], {}, "much", True, None, 10**400],
    "bool": [[True], {}, "maybe", 2, None],
    "str": [["a"], {}, 5, True, None, "", "\ud800"],
}


@pytest.mark.parametrize("name", ["batch_size", "lr", "train_unet", "data_root", "resolution", "optimizer"])
def test_a_value_of_the_wrong_type_is_one_short_line(name, tmp_path):
    path = tmp_path / "config.json"
    for value in WRONG[checks.type_name(fields_of(TrainingOptions)[name])]:
        path.write_text(json.dumps({name: value}))
        for read in (
            lambda: parse(["--config", str(path)]),
            lambda: saved_options.inherit(TrainingOptions, path, {}),
            lambda: saved_options.inherit(InferenceOptions, path, {}, ["seed"]),  # one that it does not ask for
            lambda: saved_options.refuse_changes(TrainingOptions, path, {}),
        ):
            with pytest.raises(UserError, match=f"config.json: --{name}: expected") as caught:
                read()
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, "1", '"text"', "null", "\x00", "{'seed': 1}", ""])
def test_a_file_that_is_no_json_object_is_one_short_line(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"can't read .*config\.json: ") as caught:
        saved_options.read_options(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.script
def test_a_script_exits_2_with_one_line(run_script, tmp_path):
    path = tmp_path / "options.json"
    path.write_text('{"batch_size": [4]}')
    done = run_script("training", "--config", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {path}: --batch_size: expected a whole number, got [4]\n"


# ---------------------------------------------------------------------------------------------------------------------
# Paths


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A project folder with data and a model, which is the working directory, and another folder."""
    for name in ("proj/data", "proj/models/ok", "proj/cache", "elsewhere", "home/data"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "proj")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


PATHS = ("data_root", "cache_dir", "pretrained_model", "summarizer", "output_dir")


def paths(options):
    return {name: config.to_json(options)[name] for name in PATHS}


def test_paths_are_saved_as_absolute_ones(places):
    options = config.TrainingOptions(data_root="data", cache_dir="../cache", pretrained_model="models/ok")
    assert paths(options) == {
        "data_root": f"{places}/proj/data",
        "cache_dir": f"{places}/cache",
        "pretrained_model": f"{places}/proj/models/ok",
        "summarizer": "facebook/bart-large-cnn",
        "output_dir": f"{places}/proj/runs",
    }
    assert config.to_json(config.TrainingOptions(data_root="~/data"))["data_root"] == f"{places}/home/data"


def test_what_is_no_path_stays_as_it_is(places):
    (places / "proj" / "mini").mkdir()
    for model in ("owner/name", "mini", "tiny", "sd15-random"):
        saved = config.to_json(config.TrainingOptions(data_root="demo", pretrained_model=model))
        assert (saved["data_root"], saved["pretrained_model"], saved["cache_dir"]) == ("demo", model, None)


def test_a_model_in_one_file_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.safetensors").write_bytes(b"")
    (field,) = (f for f in dataclasses.fields(config.TrainingOptions) if f.name == "pretrained_model")
    path = config.absolute_path(field, "m.safetensors")
    assert path == str(tmp_path / "m.safetensors") and not config.is_gone(field, path)
    (tmp_path / "m.safetensors").unlink()
    assert config.is_gone(field, path)


def test_paths_of_older_runs_are_looked_for_where_they_were_typed(places, monkeypatch):
    path = places / "proj" / "out" / "runs" / "one" / "config.json"
    saved = {"output_dir": "out/runs", "data_root": "data", "pretrained_model": "models/ok", "cache_dir": "lost"}
    monkeypatch.chdir(places / "elsewhere")
    found = config.find_paths(config.TrainingOptions, saved, path)
    assert found == saved | {
        "data_root": f"{places}/proj/data",
        "pretrained_model": f"{places}/proj/models/ok",
        "output_dir": str(path.parent.parent) if path.parent.parent.is_dir() else "out/runs",
    }
    saved["output_dir"] = "/gone/runs"  # does not say where the run was started: the working directory counts
    assert config.find_paths(config.TrainingOptions, saved, path) == saved
    monkeypatch.chdir(places / "proj")
    assert config.find_paths(config.TrainingOptions, saved, path)["data_root"] == f"{places}/proj/data"
