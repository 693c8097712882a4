"""Runs of version 0.1, before the packages: they resume, draw, list and report as they did.

tests/fixtures/runs_v0_1 was made by that version on tests/fixtures/book_dataset, four updates each: "plain" (text
encoder, AdamW, with a score) and "everything" (UNet, cached latents, buckets, 8-bit moments, an average, accumulation).
expected.json has what that version itself logged when it went on to update 6.
"""

import json
import pathlib
import shutil

import pytest

import report
import runs
import sd_inference
import training

DATA = pathlib.Path(__file__).parent.parent / "fixtures"
EXPECTED = json.loads((DATA / "runs_v0_1" / "expected.json").read_text())


@pytest.fixture
def old_runs(tmp_path):
    """(the runs' folder, a copy; options that say where the data are)"""
    shutil.copytree(DATA / "runs_v0_1", tmp_path / "runs")
    (tmp_path / "runs" / "expected.json").unlink()
    return tmp_path / "runs", ["--output_dir", str(tmp_path / "runs"), "--data_root", str(DATA / "book_dataset")]


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_they_go_on_as_they_would_have(old_runs, name):
    folder, where = old_runs
    assert training.main(["--run_id", name, "--max_steps", "6", *where]) == 0
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    for kind, field in {"losses": "loss", "norms": "grad_norm", "validation": "validation_loss"}.items():
        logged = {str(line["step"]): line[field] for line in lines if field in line}
        assert logged.keys() == EXPECTED[name][kind].keys()
        for step, value in EXPECTED[name][kind].items():
            assert logged[step] == pytest.approx(value, rel=1e-5), (kind, step)
    assert (folder / name / "untouched").is_dir() and not (folder / name / "frozen").exists()
    index = json.loads((folder / name / "versions.json").read_text())
    assert index["aliases"] == {"latest": "v2", "best": "v2"} and list(index["versions"]) == ["v2"]
    assert (folder / name / "versions" / "v2" / "model_index.json").is_file()


def test_they_are_listed_with_their_scores(old_runs, capsys):
    folder, _ = old_runs
    assert runs.main(["--output_dir", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "plain  (text_encoder from tiny, update 4 of 4" in text
    assert "everything  (unet from tiny, update 4 of 4" in text
    assert "FD (EfficientNet-Lite0) 474.66 (n = 3)" in text


def test_they_are_drawn_and_shown_on_a_page(old_runs, tmp_path, capsys):
    folder, where = old_runs
    assert sd_inference.main(["--run_id", "everything", "--version", "v1", "--num_samples", "1", *where]) == 0
    assert len(list((folder / "everything" / "covers").glob("v1_grid_*.png"))) == 1
    page = tmp_path / "report.html"
    words = ["--run_id", "plain", "--version", "v0,v1", "--num_samples", "1", "--report_path", str(page)]
    assert report.main([*words, *where]) == 0
    text = page.read_text()
    assert '<th scope="row">FD (EfficientNet-Lite0)<small>' in text and "<b>474.7</b>" in text  # four digits, as ever


@pytest.mark.parametrize("value", ["3", "[]", "{", '"text"', "null"])
@pytest.mark.parametrize("file", ["versions.json", "state/000000004/position.json", "config.json", "environment.json"])
def test_a_file_that_is_no_json_object_is_one_line(old_runs, file, value):
    from common.errors import UserError

    folder, where = old_runs
    (folder / "plain" / file).write_text(value)
    with pytest.raises(UserError) as problem:
        if file == "versions.json":
            sd_inference.main(["--run_id", "plain", *where])
        else:
            training.main(["--run_id", "plain", "--max_steps", "6", *where])
    assert "\n" not in str(problem.value) and pathlib.Path(file).name in str(problem.value)
