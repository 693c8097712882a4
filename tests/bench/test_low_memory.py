"""The comparison of low-memory modes, with few updates of few modes: it trains each once and says how far they are."""

import re

import pytest

from bench import low_memory
from common.errors import UserError


@pytest.mark.nightly
@pytest.mark.script
def test_each_mode_has_its_line_and_is_trained_once(tmp_path, small_data, capsys, monkeypatch, forking):
    fused = "--optimizer adamw --fused_backward True --max_grad_norm 1e9"
    monkeypatch.setattr(low_memory, "MODES", {"plain": "--optimizer adamw --max_grad_norm 1e9", "fused": fused})
    monkeypatch.setattr(low_memory, "FIXED", low_memory.FIXED.replace("--data_root demo", f"--data_root {small_data}"))
    words = ["--out", str(tmp_path), "--updates", "4", "--seeds", "2"]
    assert low_memory.main(words) == 0
    first = capsys.readouterr()
    assert first.err.count("training ") == 3
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.out.splitlines() if line[:1] == "|"]
    assert rows[0] == ["mode", *(f"update {i}" for i in range(1, 5)), "end, less plain", "in spreads"]
    plain, other_seed, fused = rows[2:]
    assert plain[0] == "plain, seed 0" and fused[0] == "fused"
    assert fused[1:] == plain[1:]  # without clipping they are the same
    assert other_seed[1:] != plain[1:] and float(other_seed[5]) != 0
    spread = float(re.search(r"spread: ([\d.]+)", first.out)[1])
    assert spread == pytest.approx(abs(float(other_seed[5])) / 2**0.5, abs=1e-4)  # of two values
    assert abs(float(other_seed[6])) == pytest.approx(2**0.5, abs=0.06)

    assert low_memory.main(words) == 0
    assert capsys.readouterr() == (first.out, "")


def test_one_seed_has_no_spread(tmp_path):
    with pytest.raises(UserError, match="--seeds must be at least 2"):
        low_memory.main(["--out", str(tmp_path), "--seeds", "1"])
