"""The measurement of what reading costs, for a few updates: it goes through, and tells of every way."""

import re

import pytest

from bench import loading


@pytest.mark.nightly
@pytest.mark.slow
def test_every_way_has_its_line(capsys):
    words = "--covers 20 --resolution 32x48 --updates 2 --repeats 2"
    assert loading.main(words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| covers come as"))
    assert "medians of 2 turns of 2 updates each" in lines[first - 1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first + 2 :]]
    assert [row[0] for row in rows] == [*loading.WAYS, loading.BARE]
    for _, median, spread, against, share in rows:
        least, most = map(float, re.fullmatch(r"(\S+) \.\.\. (\S+)", spread).groups())
        assert 0 < least <= float(median) <= most
        assert float(against.removesuffix(" x")) > 0 and share.endswith("%")
    assert rows[0][3] == "1.00 x" and rows[-1][4] == "100%"
