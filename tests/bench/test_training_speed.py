"""bench.training_speed: real processes, watched from outside; a stand-in for the example, which is not ours."""

import os
import sys

import pytest
from support import processes

from bench import training_speed
from common.errors import UserError

COUNTING = """
import sys, time
from tqdm import tqdm
words = sys.argv
for _ in tqdm(range(int(words[words.index("--max_train_steps") + 1])), desc="Steps", mininterval=0):
    time.sleep(0.02)
"""


@pytest.mark.nightly
@pytest.mark.script
@pytest.mark.slow
def test_all_ways(tmp_path, capsys, monkeypatch, forking):
    monkeypatch.setattr(os, "wait4", processes.wait4)
    example = tmp_path / "example.py"
    example.write_text(COUNTING)
    words = f"--example {example} --out {tmp_path} --resolution 64 --batch_size 2 --updates 2 --repeats 1 --covers 30"
    assert training_speed.main(words.split()) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == [training_speed.EXAMPLE, *training_speed.OURS, training_speed.BARE]
    images_per_s = float(rows[1][1])
    assert 0 < images_per_s < 101  # 2 images in 20 ms at best
    assert rows[1][3] == "1.00 x" and rows[-1][4] == "100%"
    assert all(float(row[5]) > 0.005 for row in rows[1:])  # GiB


@pytest.mark.script
def test_a_process_that_fails_is_told_with_its_log(tmp_path):
    with pytest.raises(UserError, match=r"no speed from .*; see .*last\.log"):
        training_speed.measure([sys.executable, "-c", "raise SystemExit('no')"], 4, tmp_path / "last.log")
    assert "no" in (tmp_path / "last.log").read_text()


def test_an_example_that_is_not_there():
    with pytest.raises(UserError, match="no such file"):
        training_speed.main(["--example", "/nowhere/train.py"])
