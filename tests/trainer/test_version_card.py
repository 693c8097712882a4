"""The card of a version as training writes it: what only training knows, and the preview of that update."""

import json
import types

import pytest

import config
from checkpoints.environment import record_environment
from checkpoints.records import SavedVersion, TrainingState, VersionIndex
from checkpoints.run_folder import RunFolder
from data.book import Book
from diffusion import pipeline
from diffusion.trainable import set_trainable
from trainer.batches import BatchSchedule
from trainer.version_card import restore_card, write_version_card

INDEX = VersionIndex({"v1": SavedVersion(4, 0.25)}, {"latest": "v1"})
STATE = TrainingState(4, 4, "no", "no", "data", INDEX, total=8, start_loss=0.5)


@pytest.fixture
def work(tmp_path):
    """A run that has made four updates of four covers, of ten."""
    run = RunFolder(tmp_path / "one")
    run.version("v1").mkdir(parents=True)
    record_environment(run, 0, {"commit": "abc", "libraries": {"torch": "2"}})
    return types.SimpleNamespace(
        options=config.TrainingOptions(data_root="demo", pretrained_model="tiny", num_samples=4),
        run=run,
        trainable=set_trainable(pipeline.build_tiny(), ["text_encoder"]),
        train_set=types.SimpleNamespace(books=[None] * 10),
        val_set=types.SimpleNamespace(books=[Book(row, "t") for row in range(3)]),
        schedule=BatchSchedule(10, 4, 0),
    )


def test_a_card_says_what_was_trained_and_shows_the_preview(work):
    folder = work.run.version("v1")
    write_version_card(work, STATE, 0.25, folder, "v1")
    text = (folder / "README.md").read_text()
    weights = sum(p.numel() for p in work.trainable.parameters())
    assert f"| trained | text encoder ({weights:,} weights) |" in text
    assert "demo: 10 covers to train on, 3 held-out ones" in text
    assert "| covers seen | 14, 1.4 epochs |" in text  # 4 + 4 + 2 of the first epoch, 4 of the second
    assert "| validation loss | 0.25000; before training 0.50000 |" in text and "covers.png" not in text
    work.run.samples.mkdir()
    (work.run.samples / "000004.png").write_bytes(b"a picture")
    write_version_card(work, STATE, 0.25, folder, "v1")
    assert (folder / "covers.png").read_bytes() == b"a picture"
    assert "of 3 held-out books" in (folder / "README.md").read_text()
    assert json.loads((folder / "model_card.json").read_text())["samples"] == 14


def test_pictures_with_captions_are_no_books(work):
    work.val_set.books = [Book(7, "", caption="a lighthouse at night", file="a.jpg")]
    folder = work.run.version("v1")
    work.run.samples.mkdir()
    (work.run.samples / "000004.png").write_bytes(b"a picture")
    write_version_card(work, STATE, 0.25, folder, "v1")
    text = (folder / "README.md").read_text()
    assert 'pipe("a lighthouse at night"' in text and "1 held-out pictures with their captions" in text
    assert "title" not in text.split("## Limits")[0]


def test_a_version_without_a_card_gets_the_same_one_on_resume_and_another_is_left_alone(work):
    folder = work.run.version("v1")
    write_version_card(work, STATE, 0.25, folder, "v1")
    before = (folder / "README.md").read_bytes()
    (folder / "README.md").unlink()
    restore_card(work, STATE)
    assert (folder / "README.md").read_bytes() == before
    (folder / "README.md").write_text("mine")
    restore_card(work, STATE)
    assert (folder / "README.md").read_text() == "mine"
