"""wandb's names and its offline runs. test_trackers.py talks to a server's stand-in."""

import pytest

import config
from tracking.base import STATES, VERSIONS, TrackerError
from tracking.wandb_tracker import Wandb, base_url


@pytest.fixture
def offline(monkeypatch):
    """A tracker that is offline, of the run "one" of the entity "me"."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = config.RunsOptions(tracker="wandb", wandb_project="covers", wandb_entity="me")
    return Wandb(options, "one", "wandb")


def test_the_server_is_the_public_one_unless_the_environment_names_another(monkeypatch):
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert base_url() == "https://api.wandb.ai"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:8080")
    assert base_url() == "http://127.0.0.1:8080"


def test_artifacts_are_named_by_entity_and_project(offline):
    assert offline.path("one") == "me/covers/one"
    offline.options = config.RunsOptions(wandb_project="covers")
    assert offline.path("one") == "covers/one"


def test_offline_nothing_can_be_asked_and_no_score_be_sent(offline):
    for action in (
        lambda: offline.find(VERSIONS, "one-v1"),
        lambda: offline.list_artifacts(STATES),
        lambda: offline.log_scores(3, {"FD": 1.0}),
    ):
        with pytest.raises(TrackerError, match=r"^wandb is offline \(WANDB_MODE=offline\); unset WANDB_MODE$"):
            action()


def test_a_new_offline_run_replaces_earlier_ones_unless_one_was_synced(offline, tmp_path):
    ours, others = tmp_path / "wandb" / "offline-run-1-one", tmp_path / "wandb" / "offline-run-1-two"
    for folder in (ours, others):
        folder.mkdir(parents=True)
    (ours / "run-one.wandb.synced").touch()
    assert offline.replace_offline_runs(tmp_path, 5) == 5 and ours.exists()
    (ours / "run-one.wandb.synced").unlink()
    assert offline.replace_offline_runs(tmp_path, 5) == -1
    assert not ours.exists() and others.exists()
