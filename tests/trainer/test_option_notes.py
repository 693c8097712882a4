"""Lines on options that have less effect than they say."""

import pytest

from common.errors import UserError
from config import TrainingOptions
from trainer.option_notes import option_notes, require_covers_for_batch


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        ({}, []),  # the defaults are for larger runs, and fit any
        (dict(max_steps=4, lr_scheduler="linear", warmup_steps=3), []),
        (
            dict(lr_scheduler="linear", warmup_steps=1000),
            ["note: --warmup_steps 1000, and the run has 4 updates: the learning rate gets to 0.3% of --lr"],
        ),
        (dict(num_examples=12), []),
        (dict(num_examples=500), ["note: --num_examples 500: there are 12 covers to train on"]),
        (dict(validation_rows=3), ["note: --validation_rows 3: there are 2 held-out covers to use"]),
        (dict(num_samples=9), ["note: --num_samples 9: there are 2 held-out covers to use"]),
        (dict(num_samples=9, sample_every=0), []),
        (dict(save_every=4), []),
        (dict(save_every=5), ["note: --save_every 5, and the run has 4 updates: it saves at its end alone"]),
        (
            dict(validate_every=5),
            ["note: --validate_every 5, and the run has 4 updates: it validates at its end alone"],
        ),
        (dict(sample_every=5), ["note: --sample_every 5, and the run has 4 updates: it draws at its end alone"]),
    ],
)
def test_what_has_less_effect_is_said(options, notes):
    assert option_notes(TrainingOptions(**options), total=4, covers=12, held_out=2) == notes


def test_a_batch_is_no_larger_than_all_covers():
    require_covers_for_batch(TrainingOptions(batch_size=12), 12)
    require_covers_for_batch(TrainingOptions(), 3)  # the default
    with pytest.raises(UserError, match="--batch_size 13: there are 12 covers to train on; give 12 at most"):
        require_covers_for_batch(TrainingOptions(batch_size=13), 12)
