"""What the tests of trackers share: trackio in a folder of theirs, and the options of a run that is published there."""

import pytest
from support.tracker_runs import own_trackio

from config import TrainingOptions


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The folder where trackio keeps everything."""
    return own_trackio(tmp_path_factory)


@pytest.fixture
def options(tmp_path, store):
    """Those of a run that trains; the project is one of this test alone."""
    return TrainingOptions(
        output_dir=str(tmp_path / "runs"), pretrained_model="tiny", tracker="trackio", wandb_project=tmp_path.name
    )
