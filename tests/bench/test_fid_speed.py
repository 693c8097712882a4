"""bench.fid_speed: the ways agree, on a few small pictures and dimensions."""

import types

import pytest

from bench import fid_speed


@pytest.mark.nightly
@pytest.mark.slow
def test_statistics_agree_to_the_digit_or_nearly(tmp_path, capsys):
    fid_speed.compare_statistics(tmp_path, types.SimpleNamespace(covers=6, resolution="64x96", batch_size=4, repeats=1))
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    found = {row[0]: row[3] for row in rows}
    legacy, clean = (list(map(float, found[f"ours, --fid_resize {way}"].split(", "))) for way in ("legacy", "clean"))
    assert max(legacy) < 1e-6  # float32
    assert min(clean) > 1e-3  # antialiased


def test_distances_agree_and_memory_stays(capsys):
    fid_speed.compare_distances(types.SimpleNamespace(repeats=1), dims=32)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    theirs, ours = (float(row[-1]) for row in rows[-2:])
    assert abs(theirs - ours) < 1e-6 * theirs
    fid_speed.watch_memory(dims=256, batch=50)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    least, most = (func(int(row[1]) for row in rows[1:]) for func in (min, max))
    assert most - least <= 1  # MiB, of 500 features as of 8000
