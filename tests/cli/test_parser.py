import json
import os
import shlex
import subprocess
import sys

import pytest

import config
from cli import parser, saved_options
from common.errors import UserError
from config import TrainingOptions


def parse(words, cls=TrainingOptions):
    return parser.parse(cls, words)[0]


@pytest.mark.parametrize("word", ["True", "true", "1", "yes", "ON"])
def test_booleans_that_are_true(word):
    assert parse(["--train_unet", word]).train_unet is True
    assert parse([f"--train_unet={word}"]).train_unet is True


@pytest.mark.parametrize("word", ["False", "false", "0", "no", "off"])
def test_booleans_that_are_false(word):
    assert parse(["--grad_ckpt", word]).grad_ckpt is False


def test_bare_flag_and_its_negative():
    assert parse(["--train_unet"]).train_unet is True
    assert parse(["--no-grad_ckpt"]).grad_ckpt is False
    assert parse(["--no-grad-ckpt"]).grad_ckpt is False
    assert parse(["--train-unet", "--max-steps=3"]).max_steps == 3


@pytest.mark.parametrize("word", ["maybe", "2", "", "Flase"])
def test_any_other_boolean_is_an_error(word):
    with pytest.raises(UserError, match="--train_unet: expected True or False"):
        parse([f"--train_unet={word}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "nan"], "--lr: expected a number"),
        (["--lr", "0"], "--lr: expected more than 0"),
        (["--batch_size", "2.5"], "--batch_size: expected a whole number"),
        (["--batch_size", "0"], "--batch_size: expected at least 1"),
        (["--caption_dropout", "1.5"], "expected at most 1"),
        (["--batch_size", "1000000", "--plan"], "expected at most 4096"),
        (["--num_samples", "1000000"], "expected at most 1000"),
        (["--num_workers", "100000"], "expected at most 256"),
        (["--resolution", "500x770"], "multiples of 8"),
        (["--scheduler", "heun"], "expected one of dpm"),
        (["--trian_unet"], "did you mean --train_unet"),
        (["--data_root", " "], "expected some text"),
        (["--train_text_encoder", "False"], "nothing to train"),
        (["--lr_lettering", "1e-3"], "add --train_lettering True"),
        (["--train_lettering", "--train_text_encoder", "False", "--lora_rank", "4"], "nothing to put adapters into"),
        (["--warmup_steps", "5"], "constant_with_warmup"),
        (["--run_id", "a", "--run_name", "b"], "give one of the two"),
        (["--run_name", "../up"], "--run_name takes letters"),
        (["--summarize_desc"], "add --include_desc"),
        (["stray", "more"], "^a word stands where an option should be; write --option value or --option=value$"),
        (["--config", "/nowhere.json"], "can't read /nowhere.json"),
    ],
)
def test_mistakes_are_one_line_that_names_the_option(words, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(words)
    assert "\n" not in str(caught.value)


def test_config_file_loads_and_the_command_line_wins(tmp_path):
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"lr": 0.5, "seed": 7, "train_unet": True, "num_examples": None}))
    options, given = parser.parse(TrainingOptions, ["--config", str(path), "--seed", "8"])
    assert (options.lr, options.seed, options.train_unet, options.num_examples) == (0.5, 8, True, None)
    assert given == {"lr": 0.5, "seed": 8, "train_unet": True, "num_examples": None}


def test_saved_options_load_again(tmp_path):
    options = parse(["--train_unet", "--lr", "3e-4", "--resolution", "64", "--snr_gamma", "5"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_json(options)))
    assert config.to_json(parse(["--config", str(path)])) == config.to_json(options)  # paths are absolute now


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sede": 1}', "did you mean 'seed'"),
        ("[1]", "must hold one JSON object"),
        ("{", "can't read"),
        ('{"seed": true}', "--seed: expected a whole number"),
        ('{"seed": null}', "--seed: expected a whole number"),
        ('{"grad_ckpt": "perhaps"}', "expected True or False"),
    ],
)
def test_bad_config_files(tmp_path, text, message):
    path = tmp_path / "options.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        parse(["--config", str(path)])


def test_a_resumed_run_takes_its_own_options_and_refuses_another_past(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_json(parse(["--lr", "0.25", "--max_steps", "10"]))))
    given = {"max_steps": 20}
    saved_options.refuse_changes(TrainingOptions, path, given)
    assert (
        saved_options.inherit(TrainingOptions, path, given).lr,
        saved_options.inherit(TrainingOptions, path, given).max_steps,
    ) == (
        0.25,
        20,
    )
    saved_options.refuse_changes(TrainingOptions, path, {"lr": 0.25})  # the same again is no change
    for name, value in {"seed": 5, "lr": 0.5, "resolution": "64x64", "num_examples": 3}.items():
        with pytest.raises(UserError, match=f"--{name} {value} would change the past"):
            saved_options.refuse_changes(TrainingOptions, path, {name: value})


@pytest.mark.script
@pytest.mark.parametrize("script", ["training", "sd_inference", "precalc_fid_stats", "dataset", "runs", "typeset"])
def test_help_teaches_and_needs_no_heavy_import(script, run_script):
    done = run_script(script, "--help", real=True)
    assert done.returncode == 0
    assert f"python -m {script}" in done.stdout.split("examples:")[1]
    heavy = "{'torch', 'numpy', 'pandas', 'PIL', 'diffusers', 'transformers', 'accelerate', 'wandb', 'trackio'}"
    code = (
        f"import sys, {script}; sys.exit(str(sorted({heavy} & set(sys.modules))) if {heavy} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.script
def test_a_typo_exits_2_with_one_line(run_script):
    done = run_script("training", "--trian_unet", real=True)
    assert done.returncode == 2
    assert done.stderr == "error: unknown option --trian_unet; did you mean --train_unet?\n"
    assert done.stdout == ""


# ---------------------------------------------------------------------------------------------------------------------
# The key

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def no_key(monkeypatch):
    """No WANDB_API_KEY, before and after."""
    monkeypatch.setenv("WANDB_API_KEY", "")  # so that it is put back though the code sets it
    monkeypatch.delenv("WANDB_API_KEY")


SPELLINGS = [
    ["--wandb_key", KEY],
    [f"--wandb_key={KEY}"],
    ["--wandb-key", KEY],
    [f"--wandb-key={KEY}"],
    ["--wandb_key", "old", f"--wandb-key={KEY}"],  # the last one counts
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("cls", [TrainingOptions, config.InferenceOptions, config.RunsOptions])
def test_a_key_moves_from_the_command_line_to_the_environment(no_key, monkeypatch, capsys, cls, spelling):
    monkeypatch.setattr(
        sys, "argv", ["script.py", "--wandb_project", "a.b", *spelling, "--run_id=7", "--upload", "none"]
    )
    options, _ = parser.parse(cls)
    assert os.environ["WANDB_API_KEY"] == KEY == options.wandb_key
    words = ["script.py", "--wandb_project", "a.b", "--run_id=7", "--upload", "none"]
    assert sys.argv == [*words, "--tracker", "wandb"]  # the processes that we launch are to know, too
    assert (options.wandb_project, options.run_id, options.upload, options.tracker) == ("a.b", "7", "none", "wandb")
    shown = capsys.readouterr()
    assert shown.out == "" and KEY not in shown.err
    assert shown.err.count("WANDB_API_KEY is safer") == 1 and shown.err.count("\n") == 1
    again, _ = parser.parse(cls)  # as a process does that we launch with what is left of the words
    assert config.tracker(again) == "wandb" and again.wandb_key is None
    assert capsys.readouterr().err == ""


def test_without_a_key_the_environment_and_the_words_stay(no_key, monkeypatch, capsys):
    words = ["script.py", "--tracker", "trackio", "--max-steps=3"]
    monkeypatch.setattr(sys, "argv", words.copy())
    parser.parse(TrainingOptions)
    assert sys.argv == words and "WANDB_API_KEY" not in os.environ
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "words",
    [
        ["--wandb_key", ""],
        ["--wandb_key=  "],
        [f"--wandb_kye={KEY}"],
        ["--wandb-kye", KEY],
        [f"--wandb_key={KEY}", "--tracker", "trackio"],
        [f"--wandb_key={KEY}", "--lr", "-1"],
        [f"--wandb_key={KEY}", "--trian_unet"],
        [f"--wandb_key={KEY}", "stray"],
        ["--wandb_key=\udcff" + KEY],  # not UTF-8
        ["-wandb_key", KEY],
        [f"-wandb_key={KEY}"],
        [f"wandb_key={KEY}"],
    ],
)
def test_no_mistake_echoes_a_key(no_key, capsys, words):
    with pytest.raises(UserError) as caught:
        parse(words)
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err


def test_a_blank_key_is_named(no_key):
    with pytest.raises(UserError, match=r"^--wandb_key: expected some text$"):
        parse(["--wandb_key", " "])


@pytest.mark.parametrize("value", [KEY, 12345678901234567890, [KEY]])
@pytest.mark.parametrize("cls", [TrainingOptions, config.InferenceOptions, config.RunsOptions])
def test_a_key_in_a_file_is_refused(no_key, tmp_path, cls, value):
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"wandb_key": value, "wandb_project": "p"}))
    with pytest.raises(UserError, match="wandb_key") as caught:
        parse(["--config", str(path)], cls)
    assert KEY not in str(caught.value) and "1234567890" not in str(caught.value)
    assert "WANDB_API_KEY" not in os.environ


@pytest.mark.parametrize("saved", ["none", "trackio", "tensorboard", None])
def test_a_key_without_a_tracker_means_wandb_whatever_the_run_had(no_key, monkeypatch, tmp_path, saved):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_json(TrainingOptions(tracker=saved, lr=0.25))))
    monkeypatch.setattr(sys, "argv", ["script.py", "--wandb_key", KEY])
    given = parser.read_command_line(TrainingOptions)
    assert given["tracker"] == "wandb"
    options = saved_options.inherit(TrainingOptions, path, given)
    assert (config.tracker(options), options.lr) == ("wandb", 0.25)
    assert config.tracker(saved_options.inherit_tracker(config.RunsOptions, path, given)) == "wandb"
    monkeypatch.setattr(sys, "argv", ["script.py"])  # the key alone, in the environment, leaves the run its tracker
    options = saved_options.inherit(TrainingOptions, path, parser.read_command_line(TrainingOptions))
    assert config.tracker(options) == (saved or "wandb")


@pytest.mark.parametrize("words", [[KEY], ["--max_steps", "3", KEY], [f"{KEY}=1"], [KEY, "--lr", "1"]])
def test_a_stray_word_is_not_echoed(words):
    with pytest.raises(UserError) as caught:
        parse(words)
    assert KEY not in str(caught.value) and "--option value" in str(caught.value)


def test_a_command_gives_the_options_back():
    options = config.TrainingOptions(
        data_root="my data; rm -rf /", train_unet=True, train_text_encoder=False, lr=3e-3, max_steps=30, snr_gamma=5.0
    )
    text = saved_options.command(config.TrainingOptions, vars(options))
    python, dash, script, *words = shlex.split(text)
    assert (python, dash, script) == ("python", "-m", "training")
    assert parser.parse(config.TrainingOptions, words)[0] == options
    assert "--epochs" not in words and "--lr_text_encoder" not in words  # defaults need not be said
    assert saved_options.command(config.TrainingOptions, {"wandb_key": "secret"}) == "python -m training"
    assert saved_options.command(config.TrainingOptions, {"lr": 1e-5}, always=["lr"]) == "python -m training --lr 1e-05"
