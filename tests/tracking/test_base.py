"""What all trackers share: one kind of error, without the key; and the calls of the one that does nothing."""

import pytest

from common.errors import UserError
from tracking.base import STATES, VERSIONS, Tracker, TrackerError, tracker_errors


def test_an_error_of_a_library_is_one_line_without_secrets(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://me:secret@host")
    with pytest.raises(TrackerError) as caught, tracker_errors("wandb"):
        raise OSError(f"refused:\n{'k' * 40} at http://me:secret@host.")
    assert str(caught.value) == "wandb: refused: *** at ***"


def test_an_error_of_this_project_passes_unchanged():
    problem = UserError("a full disk")
    with pytest.raises(UserError) as caught, tracker_errors("wandb"):
        raise problem
    assert caught.value is problem


def test_no_tracker_has_nothing_and_deletes_nothing(tmp_path):
    tracker = Tracker()
    tracker.start(tmp_path, {}, 3)
    tracker.log(4, {"loss": 1.0}, {})
    tracker.finish()
    assert tracker.last_step() == -1 and not tracker.stores_files
    assert tracker.find(VERSIONS, "one-v1") is None and list(tracker.list_artifacts(STATES)) == []
    with pytest.raises(NotImplementedError):
        tracker.delete(None)
    assert list(tmp_path.iterdir()) == []
