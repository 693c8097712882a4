"""tensorboard: event files in the run folder, written anew at each start. test_trackers.py reads what is logged."""

import pytest

from tracking.base import TrackerError
from tracking.tensorboard_tracker import TensorBoard


def test_a_start_replaces_the_files_of_an_earlier_one(tmp_path):
    folder = tmp_path / "one" / "tensorboard"
    folder.mkdir(parents=True)
    (folder / "events.out.of.a.killed.run").write_bytes(b"half a record")
    tracker = TensorBoard()
    tracker.start(folder.parent, {}, 0)
    tracker.log(0, {"loss": 1.0}, {})
    tracker.finish()
    (written,) = folder.iterdir()
    assert "tfevents" in written.name and written.stat().st_size > 0
    assert tracker.how_to_view == f"tensorboard --logdir {tmp_path}"


def test_a_picture_that_is_missing_is_the_trackers_error(tmp_path):
    tracker = TensorBoard()
    tracker.start(tmp_path, {}, 0)
    with pytest.raises(TrackerError, match=r"tensorboard: .*none\.png"):
        tracker.log(0, {}, {"sample": tmp_path / "none.png"})
    tracker.finish()
