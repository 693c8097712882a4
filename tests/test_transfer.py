"""bench.transfer: three regimes trained and scored by the real scripts, a table, a picture; and again without work."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bench import regimes, transfer


def test_the_whole_comparison_and_again(tmp_path, small_data, monkeypatch, capsys):
    """The first score is drawn by two processes, everything else in this one."""
    started = []

    def real(script, *words, processes=1):
        started.append(script)
        if started.count("sd_inference") == 1 and script == "sd_inference":
            regimes.run_script(script, *words, processes=2)
        else:
            assert not importlib.import_module(script).main(list(map(str, words)))

    monkeypatch.setattr(transfer, "run_script", real)
    words = f"--out {tmp_path} --data_root {small_data} --pretrained_model tiny --seeds 0 --max_steps 2 --num_imgs 4"
    assert transfer.main(words.split()) == 0
    assert started == [
        "precalc_fid_stats",
        "training",
        "sd_inference",
        *2 * ["sd_inference", "training"],
        "sd_inference",
    ]
    table = (tmp_path / "table.md").read_text()
    names = [line.split(" |")[0] for line in table.splitlines() if line.startswith("| ")]
    assert names[1:] == [
        *("| (real covers to learn from)", "| (autoencoder's copies of the held-out covers)"),
        *("| v0", "| text encoder", "| UNet", "| both"),
    ]
    with Image.open(tmp_path / "covers.png") as picture:
        assert picture.width > 4 * 128 and picture.height > 5 * 192

    # The same command again trains and draws nothing
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.png")}
    assert len(times) == 4 * 4
    del started[:]
    capsys.readouterr()
    assert transfer.main(words.split()) == 0
    assert started == ["precalc_fid_stats", *3 * ["training"]]
    assert capsys.readouterr().out.count("is complete at update 2") == 3
    assert (tmp_path / "table.md").read_text() == table
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_an_error_of_a_script_ends_it_with_its_status(tmp_path):
    command = [sys.executable, "-m", "bench.transfer", "--out", tmp_path, "--data_root", tmp_path / "none"]
    done = subprocess.run(command, cwd=regimes.ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_the_table_has_means_and_spreads():
    told = {"score": "FD", "n": 10, "n_reference": 12}
    one = dict(told=told, real=1.0, first=0.4, last=0.2, minutes=1.0)
    results = [one | dict(name="v0", seed=0, distance=9.0)]
    results += [one | dict(name="UNet", seed=seed, distance=distance) for seed, distance in enumerate((3.0, 5.0))]
    lines = transfer.table(type("Options", (), {"max_steps": 5}), 2.0, results).splitlines()
    assert lines[0] == "FD of 10 covers to 12 held-out ones, lower is better; 5 updates of 16 covers, seeds 0, 1."
    assert lines[-2] == "| v0 | 9.0 | 9.0 | | | |"
    assert lines[-1] == "| UNet | 4.0 ± 1.4 | 3.0, 5.0 | 0.4000 | 0.2000 | 1.0 |"
    assert transfer.spread([1.0, 2.0, 3.0]) == f"2.0 ± {np.std([1, 2, 3], ddof=1):.1f}"
    assert float(transfer.spread([1.26])) == pytest.approx(1.3)
