"""What `runs` says of a run."""

import json

import pytest

from checkpoints.run_folder import RunFolder
from tracking import listing


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"train_unet": True, "train_text_encoder": True}, "unet and text_encoder from tiny, "),
        ({"train_unet": True, "train_lettering": True}, "unet and lettering from tiny, "),
        ({"train_unet": True, "lora_rank": 4}, "LoRA of rank 4 in unet from tiny, "),
        (
            {"train_unet": True, "train_lettering": True, "lora_rank": 4},
            "LoRA of rank 4 in unet, lettering as a whole from tiny, ",
        ),
    ],
)
def test_what_is_trained(options, line, tmp_path):
    run = RunFolder(tmp_path)
    run.config.write_text(json.dumps(options | {"pretrained_model": "tiny"}))
    assert listing.describe(run).startswith(line)
