"""The comparison of regimes: what it hands on to which script, and one real run of it, stopped and gone on with."""

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys

import pytest

import config
from common.errors import UserError
from experiments import regimes


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
        (["--scal", "0.1"], "unknown option --scal; did you mean --scale?"),
        (["--scale", "few"], "argument --scale: invalid float value: 'few'"),
        (["--scale", "3"], "--scale 3.0: expected a factor above 0, at most 1"),
    ],
)
def test_mistakes_are_found_before_anything_runs(words, message, tmp_path, monkeypatch):
    monkeypatch.setattr(regimes, "run_script", lambda *_: pytest.fail("a script was started"))
    with pytest.raises(UserError) as problem:
        regimes.main(["--out", str(tmp_path), *words])
    assert message in str(problem.value)


# ---------------------------------------------------------------------------------------------------------------------
# Covers


def test_regimes_get_the_covers_that_there_are(small_data):
    words = ["--data_root", str(small_data), "--resolution", "32x48"]  # 22 covers to train on
    assert regimes.count_covers(words, 0.005) == {
        "unet-8x3000": (15, 15),
        "text-2x500": (3, 3),
        "text-8x5000": (25, 22),
        "text-2x6000": (30, 22),
        "both-8x5000": (25, 22),
    }


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("0.05", "both with 22 of the 22 training covers: give a smaller --scale, or more data"),
        ("0.0001", "both with 1 of the 22 training covers: give a larger --scale"),
    ],
)
def test_regimes_that_would_be_the_same_are_refused(scale, message, small_data, tmp_path, monkeypatch):
    monkeypatch.setattr(regimes, "run_script", lambda *_: pytest.fail("a script was started"))
    with pytest.raises(UserError) as problem:
        regimes.main(f"--out {tmp_path} --scale {scale} --data_root {small_data} --resolution 32x48".split())
    assert str(problem.value) == f"--scale {scale}: text-2x500 and text-2x6000 would be the same, {message}"


# ---------------------------------------------------------------------------------------------------------------------
# Stopping

SLOW = """
import signal, sys, time
def stop(number, _frame):
    time.sleep(1.5)
    open("saved.txt", "a").write(signal.Signals(number).name)
    sys.exit(STATUS)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(30)
"""
DRIVER = """
import pathlib
from experiments import regimes
regimes.ROOT = pathlib.Path()
regimes.run_script("slow", "word")
print("went on")
"""


@pytest.mark.script
@pytest.mark.parametrize("status", ["128 + number", "5", "0"])  # 0: it was done just then
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_script_that_is_stopped_can_save(number, status, tmp_path):
    """Ctrl-C goes to the whole process group, SIGTERM to the first process alone."""
    (tmp_path / "slow.py").write_text(SLOW.replace("STATUS", status))
    environment = {**os.environ, "PYTHONPATH": str(regimes.ROOT)}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        **dict(cwd=tmp_path, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True),
    )
    try:
        assert driver.stdout.readline() == "ready\n"
        (os.killpg if number == signal.SIGINT else os.kill)(driver.pid, number)
        assert driver.wait(timeout=20) == (5 if status == "5" else 128 + number)
        assert (tmp_path / "saved.txt").read_text() == number.name  # there when we end, and asked for once
        with pytest.raises(ProcessLookupError):  # nobody is left in the group
            os.killpg(driver.pid, 0)
        assert driver.stdout.read() == ""
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
        driver.stdout.close()


@pytest.mark.script
@pytest.mark.parametrize(("body", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137), ("", None)])
def test_the_status_of_a_script_becomes_ours(body, status, tmp_path, monkeypatch):
    (tmp_path / "brief.py").write_text(f"import os, sys\nassert sys.argv[1:] == ['word', '7']\n{body}\n")
    monkeypatch.setattr(regimes, "ROOT", tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    if status:
        with pytest.raises(SystemExit) as end:
            regimes.run_script("brief", "word", 7)
        assert end.value.code == status
    else:
        regimes.run_script("brief", "word", 7)
    assert signal.getsignal(signal.SIGTERM) == before


# ---------------------------------------------------------------------------------------------------------------------
# The whole


def contents(folder):
    """{file: hash} of all that is under a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.script
def test_regimes_are_trained_scored_and_shown(small_data, tmp_path, monkeypatch, capfd, forking):
    """Two short regimes by the real scripts, most of them in this process; the last start goes on after a stop."""
    two = {name: regimes.REGIMES[name]._replace(epochs=1) for name in ("unet-8x3000", "both-8x5000")}
    monkeypatch.setattr(regimes, "REGIMES", two)
    started, processes = [], regimes.run_script

    def real(script, *words):
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

    # Other options are refused, by training itself, and nothing changes
    before = contents(tmp_path / "runs")
    monkeypatch.setattr(regimes, "run_script", real)
    with pytest.raises(UserError, match=r"--lr 0\.5 would change the past of this run"):
        regimes.main([*words.split(), "--lr", "0.5"])
    refusing = {"precalc_fid_stats": real, "training": processes}  # in its own process
    monkeypatch.setattr(regimes, "run_script", lambda script, *words: refusing[script](script, *words))
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        regimes.main(words.replace("--scale 0.001", "--scale 0.005").split())
    error = capfd.readouterr().err
    assert end.value.code == 2 and "error: --num_examples 15 would change the past of this run, which has 3" in error
    assert "Traceback" not in error
    assert contents(tmp_path / "runs") == before

    # The same options go on
    again = []
    monkeypatch.setattr(regimes, "run_script", lambda *words: (again.append(words), real(*words)))
    assert regimes.main(words.split()) == 0
    text = capfd.readouterr().out
    assert "== 1 of 2: unet-8x3000, 3 covers, 1 epochs" in text and "is complete at update 1" in text
    identities = [(word, words[words.index(word) + 1]) for words in again for word in words if word == "--run_name"]
    assert identities == [("--run_name", "both-8x5000")]  # the first regime goes on, the second begins
    options = json.loads((tmp_path / "runs" / "both-8x5000" / "config.json").read_text())
    assert (options["num_examples"], options["train_unet"], options["train_text_encoder"]) == (5, True, True)
    scores = {name: json.loads((tmp_path / "runs" / name / "scores.json").read_text()) for name in two}
    assert {name: list(of) for name, of in scores.items()} == {"unet-8x3000": ["v0", "v1"], "both-8x5000": ["v1"]}
    page = (tmp_path / "report.html").read_text()
    assert "unet-8x3000:v1" in page and "both-8x5000:v1" in page and page.count("data:image/") == 4 * 4
