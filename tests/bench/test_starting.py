"""bench.starting: --help of every script, and a data folder opened twice."""

import pytest

import config
from bench import starting


@pytest.mark.script
def test_both_tables(tmp_path, capsys):
    assert starting.main(["--rows", "30", "--repeats", "1", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for script in config.SCRIPTS.values():
        assert sum(line.startswith(f"| python -m {script} --help | ") for line in lines) == 1
    (first, later) = (line.split(" | ")[-1] for line in lines if "time, every" in line or line.startswith("| later"))
    assert first == later == "30 |"  # no two covers are taken for one
