"""The measurement of what scoring costs, on a handful of covers: it goes through, and tells of every metric."""

import re

import pytest

from bench import scoring_cost


@pytest.mark.nightly
@pytest.mark.slow
def test_every_metric_has_its_line(tmp_path, capsys):
    words = ["--covers", "8", "--resolution", "64x96", "--out", str(tmp_path)]
    assert scoring_cost.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"[678] covers of 64x96, \d+ real ones", lines[0])  # the halves are not quite equal
    rows = {line.split("|")[1].strip(): [float(cell) for cell in line.split("|")[2:4]] for line in lines[3:]}
    assert list(rows) == ["statistics of the real covers", "fid", "kid", "precision", "memorisation", "legibility"]
    assert all(seconds >= 0 and gib > 0.1 for seconds, gib in rows.values())
