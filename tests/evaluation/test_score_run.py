"""How a score is reported and kept: which covers count, what is printed beside it, what the run's listing keeps."""

import types

import pytest

import config
from checkpoints import scores
from checkpoints.run_folder import RunFolder
from checkpoints.scores import Score, ScoreValue
from data.book import Book
from evaluation import score_run
from generation.version import Version


def score(value=20.0, n=4, weights="w", **settings):
    settings = {"score": "FD", "n": n, "n_reference": 9, "dims": 2, "weights": weights, **settings}
    return Score(settings, {"fid": ScoreValue("FD", value, 1.5, 3.0, n, "lower")}, {"clip": "no model"}, value)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with the version v1, and no tracker."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = RunFolder(tmp_path / "one")
    run.path.mkdir()
    run.version_index.write_text(
        '{"versions": {"v1": {"step": 3, "validation_loss": 0.5}}, "aliases": {"latest": "v1", "best": "v1"}}'
    )
    return run


def test_the_first_books_of_the_split_are_scored_and_too_few_are_said(capsys):
    data = types.SimpleNamespace(books=lambda split: [f"{split} {i}" for i in range(5)])
    options = config.InferenceOptions(split="test", num_imgs=2)
    assert score_run.books_to_score(options, data) == ["test 0", "test 1"]
    assert score_run.books_to_score(config.InferenceOptions(split="train", num_imgs=None), data)[-1] == "train 4"
    assert capsys.readouterr().err == ""
    assert len(score_run.books_to_score(config.InferenceOptions(split="test", num_imgs=9), data)) == 5
    assert capsys.readouterr().err == "warning: --num_imgs 9: --split test has 5\n"


def test_the_score_of_v0_stands_beside_one_with_the_same_settings_only(run, capsys):
    version = Version("v1", "tiny", run)
    score_run.print_score(score(), version)
    out = capsys.readouterr().out
    assert "FD = 20.0000 (4 covers of v1, 9 real); lower is better" in out
    assert "skipped: CLIP score, CMMD: no model" in out
    assert "v0 has no score with these settings yet" in out
    scores.add_score(run, "v0", score(50.0, n=5))
    score_run.print_score(score(), version)
    assert "v0 has no score with these settings yet" in capsys.readouterr().out
    scores.add_score(run, "v0", score(50.0, weights="w0"))
    score_run.print_score(score(), version)
    out = capsys.readouterr().out
    assert "v0 has no score" not in out and "50.0" in out


def test_a_score_over_more_covers_of_the_same_weights_stays_in_the_listing(run, capsys):
    options = config.InferenceOptions(tracker="none")
    score_run.record_score(options, Version("v1", "tiny", run), run, score(20.0, n=8))
    score_run.record_score(options, Version("v1", "tiny", run), run, score(10.0, n=4))
    assert scores.read_scores(run)["v1"]["FD"] == score(20.0, n=8)
    assert (
        "the run's listing keeps the score over 8 covers; this one is only in metrics.json" in capsys.readouterr().out
    )
    score_run.record_score(options, Version("v1", "tiny", run), run, score(10.0, n=4, weights="newer"))
    assert scores.read_scores(run)["v1"]["FD"] == score(10.0, n=4, weights="newer")


@pytest.mark.parametrize("options", [{"lora": "style.safetensors"}, {"lora_scale": 0.5}])
def test_scores_with_another_lora_are_none_of_the_version_as_it_was_trained(run, capsys, options):
    options = config.InferenceOptions(tracker="none", **options)
    score_run.record_score(options, Version("v1", "tiny", run), run, score())
    assert scores.read_scores(run) == {}
    assert "scores without --lora and --lora_scale; this one is only in metrics.json" in capsys.readouterr().out
    folder = run.version("v1")
    score_run.update_card(options, Version("v1", str(folder), run), run, folder, score(), [Book(0, "a")], ["a"])
    assert not folder.exists()
    score_run.print_score(score(), Version("v1", "tiny", run), listed=False)
    assert "v0 has no score" not in capsys.readouterr().out


def test_a_tracker_that_fails_is_a_warning_and_the_score_is_kept(run, monkeypatch, capsys):
    from common.errors import UserError
    from tracking import trackers

    def fail(*_):
        raise UserError("no network")

    monkeypatch.setattr(trackers, "connect", fail)
    score_run.record_score(config.InferenceOptions(tracker="none"), Version("v1", "tiny", run), run, score())
    assert capsys.readouterr().err == "warning: no network; run this command again to send the score\n"
    assert scores.read_scores(run)["v1"]["FD"] == score()
