"""The comparison of regimes: what it hands on to which script, and one real run of it, stopped and gone on with."""

import importlib
import json

import pytest

import config
from bench import regimes


def test_options_go_to_the_scripts_that_know_them():
    words = regimes.sort_words(["--data_root", "demo", "--num_imgs=9", "--lr", "1e-4", "--include_desc", "--split=all"])
    assert words[config.StatsOptions] == ["--data_root", "demo", "--include_desc", "--split", "all"]
    assert words[config.TrainingOptions] == ["--data_root", "demo", "--lr", "1e-4", "--include_desc"]
    assert words[config.InferenceOptions] == [
        "--data_root",
        "demo",
        "--num_imgs",
        "9",
        "--include_desc",
        "--split",
        "all",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data-rot", "x"], "unknown option --data_rot; did you mean --data_root?"),
        (["--epochs", "3"], "--epochs can't be given here"),
        (["--wandb_key=abc"], "--wandb_key can't be given here"),
        (["--lr", "fast"], "--lr: expected a number, got 'fast'"),
        (["--lr", "1", "2"], "2 stands where an option should be"),
        (["--scale", "3"], "--scale 3.0: expected a factor above 0, at most 1"),
    ],
)
def test_mistakes_are_found_before_anything_runs(words, message, tmp_path, monkeypatch):
    monkeypatch.setattr(regimes, "run_script", lambda *_: pytest.fail("a script was started"))
    with pytest.raises(config.UserError) as problem:
        regimes.main(["--out", str(tmp_path), *words])
    assert message in str(problem.value)


def test_regimes_are_trained_scored_and_shown(small_data, tmp_path, monkeypatch):
    """Two short regimes by the real scripts, most of them in this process; the second start goes on after a stop."""
    two = {name: regimes.REGIMES[name]._replace(epochs=1) for name in ("unet-8x3000", "both-8x5000")}
    monkeypatch.setattr(regimes, "REGIMES", two)
    started, processes = [], regimes.run_script

    def real(script, *words):
        if script == "precalc_fid_stats":
            processes(script, *words)
        else:
            assert not importlib.import_module(script).main(list(map(str, words)))

    def stopped(script, *words):
        started.append((script, *map(str, words)))
        if script == "sd_inference" and len(started) > 3:
            raise KeyboardInterrupt
        real(script, *words)

    words = f"""--out {tmp_path} --scale 0.001 --data_root {small_data} --pretrained_model tiny --resolution 32x48
        --fid_features efficientnet --metrics fid --num_imgs 4 --steps 2 --sample_every 0 --validation_rows 2
        --num_workers 0"""
    monkeypatch.setattr(regimes, "run_script", stopped)
    with pytest.raises(KeyboardInterrupt):
        regimes.main(words.split())
    assert [script for script, *_ in started] == ["precalc_fid_stats", "training", "sd_inference", "sd_inference"]

    again = []
    monkeypatch.setattr(regimes, "run_script", lambda script, *words: (again.append(words), real(script, *words)))
    assert regimes.main(words.split()) == 0
    assert "--run_id" in again[0] and "--run_name" in again[3]  # the first regime goes on, the second begins
    options = json.loads((tmp_path / "runs" / "both-8x5000" / "config.json").read_text())
    assert (options["num_examples"], options["train_unet"], options["train_text_encoder"]) == (5, True, True)
    scores = {name: json.loads((tmp_path / "runs" / name / "scores.json").read_text()) for name in two}
    assert {name: list(of) for name, of in scores.items()} == {"unet-8x3000": ["v0", "v1"], "both-8x5000": ["v1"]}
    page = (tmp_path / "report.html").read_text()
    assert "unet-8x3000:v1" in page and "both-8x5000:v1" in page and page.count("data:image/") == 4 * 4
