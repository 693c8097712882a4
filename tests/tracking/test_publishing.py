"""--publish and --prune refuse what they can't do before they touch anything."""

import pytest

from common.errors import UserError
from config import RunsOptions
from tracking import publishing


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("tracker", ["none", "tensorboard"])
def test_publishing_needs_a_tracker_that_stores_files(tmp_path, tracker):
    options = RunsOptions(output_dir=str(tmp_path), run_id="one", tracker=tracker)
    with pytest.raises(UserError, match="--publish: to which tracker"):
        publishing.publish(options)


def test_a_run_that_does_not_exist_can_not_be_published(tmp_path):
    with pytest.raises(UserError, match="one"):
        publishing.publish(RunsOptions(output_dir=str(tmp_path), run_id="one", tracker="trackio"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tracker", ["none", "tensorboard", "trackio"])
def test_only_wandb_is_pruned(tmp_path, tracker):
    with pytest.raises(UserError, match="--prune works with wandb alone"):
        publishing.prune(RunsOptions(output_dir=str(tmp_path), run_id="one", tracker=tracker))


def test_offline_wandb_is_not_pruned(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "one"
    run.mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(UserError, match="--prune needs wandb online: unset WANDB_MODE"):
        publishing.prune(RunsOptions(output_dir=str(tmp_path), run_id="one", tracker="wandb"))
