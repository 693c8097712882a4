"""experiments.sampling_curve: each combination is scored once by the real script and listed in a table."""

import importlib
import json

import pytest

from common.errors import UserError
from experiments import sampling_curve


@pytest.mark.slow
def test_two_schedulers_and_again(tmp_path, small_data, monkeypatch):
    started = []

    def real(script, *words, processes=1):
        started.append(words)
        assert not importlib.import_module(script).main(list(map(str, words)))

    monkeypatch.setattr(sampling_curve, "run_script", real)
    data = f"--data_root {small_data} --test_fraction 0.5 --resolution 32x48 --fid_features efficientnet".split()
    data += ["--fid_stats_path", str(tmp_path / "stats.npz")]
    assert not importlib.import_module("precalc_fid_stats").main(data)
    words = ["--out", str(tmp_path), "--schedulers", "ddim", "dpm++", "--numbers", "2", "3", *data]
    words += ["--version", "v0", "--pretrained_model", "tiny", "--output_dir", str(tmp_path), "--num_imgs", "3"]
    assert sampling_curve.main(words) == 0
    assert len(started) == 4
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("FD (EfficientNet-Lite0) of 3 covers")
    assert lines[2] == "| scheduler | 2 steps | 3 steps |"
    assert [line.split(" |")[0] for line in lines[4:]] == ["| ddim", "| dpm++"]
    assert all(line.count(" s |") == 2 for line in lines[4:])
    assert sampling_curve.main(words) == 0 and len(started) == 4
    with pytest.raises(UserError, match=r"was made with --guidance_scale 7\.5, and now it is 3\.0"):
        sampling_curve.main([*words, "--guidance_scale", "3"])
    assert len(started) == 4


@pytest.mark.parametrize("words", [["--steps", "3"], ["--scheduler", "ddim"], ["--save_dir", "x"]])
def test_what_it_tries_itself_can_not_be_given(words, tmp_path):
    with pytest.raises(UserError, match="are what this varies"):
        sampling_curve.main(["--out", str(tmp_path), *words])


def test_a_number_of_steps_that_a_scheduler_can_not_take_is_found_before_any_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling_curve, "run_script", None)  # would raise a TypeError
    words = ["--out", str(tmp_path / "out"), "--numbers", "5", "600", "--version", "v0", "--pretrained_model", "tiny"]
    with pytest.raises(UserError, match=r"--scheduler ddim can't draw in 600 steps; .* give --steps 500, or another"):
        sampling_curve.main([*words, "--output_dir", str(tmp_path)])
    assert not (tmp_path / "out").exists()


def test_it_does_not_go_on_with_another_version_than_it_began_with(tmp_path, monkeypatch):
    """Without --run_id it is the newest run's latest, which may change in between."""

    def stop(*words, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(sampling_curve, "run_script", stop)
    words = ["--out", str(tmp_path / "out"), "--output_dir", str(tmp_path)]
    run = tmp_path / "one"
    for name in ("v1", "v2"):
        (run / "versions" / name).mkdir(parents=True)
        (run / "versions" / name / "model_index.json").write_text("{}")
    (run / "config.json").write_text('{"pretrained_model": "tiny"}')
    versions = {name: {"step": 1, "validation_loss": 1.0} for name in ("v1", "v2")}
    for latest in ("v1", "v2"):
        index = {"versions": versions, "aliases": {"latest": latest, "best": "v1"}}
        (run / "versions.json").write_text(json.dumps(index))
        if latest == "v1":
            with pytest.raises(KeyboardInterrupt):
                sampling_curve.main(words)
    with pytest.raises(UserError, match=r"was made with --version v1, and now it is v2"):
        sampling_curve.main(words)
