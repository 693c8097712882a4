"""trackio elsewhere than on this machine: what it can't do there. test_trackers.py uses it here."""

import pytest

import config
from tracking.base import VERSIONS, TrackerError
from tracking.trackio_tracker import Trackio


@pytest.mark.parametrize("name", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_what_a_server_has_can_not_be_listed(monkeypatch, name):
    for other in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "somewhere")
    tracker = Trackio(config.RunsOptions(tracker="trackio"), "one", "somewhere")
    assert tracker.store is None and tracker.stores_files
    with pytest.raises(TrackerError, match="trackio: what a server or a Space has can't be listed"):
        tracker.list_artifacts(VERSIONS)
