"""experiments.transfer: three regimes trained and scored by the real scripts, a table, a picture; again for free."""

import importlib
import json
import sys
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image
from support import processes

from common.errors import UserError
from experiments import regimes, transfer


@pytest.mark.slow
@pytest.mark.script
def test_the_whole_comparison_and_again(tmp_path, small_data, monkeypatch, capsys, forking):
    """The first score is drawn by two processes, everything else in this one, which computes in fp32."""
    started = []

    def real(script, *words, processes=1):
        started.append(script)
        if script == "sd_inference" and started.count(script) == 1:
            regimes.run_script(script, *words, processes=2)
        else:
            assert not importlib.import_module(script).main(list(map(str, words)))

    monkeypatch.setattr(transfer, "TRAIN", ["no" if word == "bf16" else word for word in transfer.TRAIN])
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
        *("| (real covers to learn from)", "| (the autoencoder's copies of such covers)"),
        *("| v0", "| text encoder", "| UNet", "| both"),
    ]
    with Image.open(tmp_path / "covers.png") as picture:
        assert picture.width > 4 * 128 and picture.height > 5 * 192

    # The same command again trains and draws nothing
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/covers/*/*.png")}
    assert len(times) == 4 * 4
    del started[:]
    capsys.readouterr()
    assert transfer.main(words.split()) == 0
    assert started == ["precalc_fid_stats", *3 * ["training"]]
    assert capsys.readouterr().out.count("is complete at update 2") == 3
    assert (tmp_path / "table.md").read_text() == table
    assert times == {path: path.stat().st_mtime_ns for path in times}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_imgs", "5"], "--num_imgs 5: expected 2 to 4"),
        (["--num_imgs", "4", "--max_steps", "9"], "was made with --max_steps 400, and now it is 9"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(words, message, tmp_path, small_data, monkeypatch):
    monkeypatch.setattr(transfer, "run_script", None)
    (tmp_path / "asked.json").write_text('{"max_steps": 400}')
    if "--max_steps" in words:
        options = dict(pretrained_model="mini", data_root=str(small_data), test_fraction=0.5, max_steps=400, num_imgs=4)
        options |= dict(lr=1e-3, lr_text_encoder=4e-4, lettering_steps=400, num_examples=None, validation_rows=256)
        (tmp_path / "asked.json").write_text(json.dumps(options))
    with pytest.raises(UserError, match=message):
        transfer.main(["--out", str(tmp_path), "--data_root", str(small_data), *words])


@pytest.mark.script
def test_an_error_in_drawing_processes_is_the_script_s_own(small_data, tmp_path, forking):
    """Two processes; exit status 2, not the launcher's."""
    with pytest.raises(SystemExit) as left:
        regimes.run_script("sd_inference", "--output_dir", tmp_path, "--run_id", "none", processes=2)
    assert left.value.code == 2


@pytest.mark.script
def test_an_error_of_a_script_ends_it_with_its_status(tmp_path):
    command = [sys.executable, "-m", "experiments.transfer", "--out", tmp_path, "--data_root", tmp_path / "none"]
    done = processes.run(command, cwd=regimes.ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_the_table_has_means_and_spreads():
    score = {"score": "FD", "n": 10, "n_reference": 12}
    one = dict(score=score, real=1.0, first=0.4, last=0.2, seconds=60.4, nbytes=2_500_000)
    one |= dict(titles=None, real_titles=None)
    results = [one | dict(name="v0", seed=0, distance=9.0)]
    results += [one | dict(name="UNet", seed=seed, distance=distance) for seed, distance in enumerate((3.0, 5.0))]
    lines = transfer.table(Namespace(max_steps=5, lettering_steps=5), 2.0, results).splitlines()
    assert lines[0].startswith(
        "FD of 10 covers to 12 held-out ones, lower is better; 5 updates of 16 covers, seeds 0, 1;"
    )
    assert lines[-2] == "| v0 | 9.0 | 9.0 | | | | |"
    assert lines[-1] == "| UNet | 4.0 ± 1.4 | 3.0, 5.0 | 0.4000 | 0.2000 | 60 | 2.5 |"

    # With lettering, a column more
    results = [result | dict(titles=result["seed"] / 4, real_titles=0.98) for result in results]
    results[1:] = [result | dict(name="UNet, lettering") for result in results[1:]]
    lines = transfer.table(Namespace(max_steps=5, lettering_steps=20), 2.0, results).splitlines()
    assert "5 updates of 16 covers (20 with lettering)" in lines[0] and " titles read |" in lines[2]
    assert lines[4] == "| (real covers to learn from) | 1.0 | | 0.98 | | | | |"
    assert lines[-2] == "| v0 | 9.0 | 9.0 | 0.00 | | | | |"
    assert lines[-1] == "| UNet, lettering | 4.0 ± 1.4 | 3.0, 5.0 | 0.12 ± 0.18 | 0.4000 | 0.2000 | 60 | 2.5 |"
    assert len({line.count("|") for line in lines[2:]}) == 1
    assert transfer.spread([1.0, 2.0, 3.0]) == f"2.0 ± {np.std([1, 2, 3], ddof=1):.1f}"
    assert float(transfer.spread([1.26])) == pytest.approx(1.3)
