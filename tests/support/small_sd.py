"""A model of the structure of Stable Diffusion 1.x, with every kind of block and few channels."""

import torch
from diffusers import PNDMScheduler

from diffusion import clip_tokenizer, sd15, single_file
from diffusion.parts import Parts

CHANNELS = {
    "UNET": dict(block_out_channels=(32, 32, 64, 64), cross_attention_dim=32),
    "VAE": dict(block_out_channels=(32, 32, 32, 64)),
    "TEXT_ENCODER": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2),
}
OPEN_CLIP = dict(  # of 2.x
    unet=dict(cross_attention_dim=64, attention_head_dim=(1, 1, 2, 2), use_linear_projection=True),
    text_encoder=dict(hidden_size=64, intermediate_size=128, num_attention_heads=4, hidden_act="gelu"),
)


def shrink(monkeypatch):
    """Makes the known architectures small: what sd15 builds, and so what a single file is expected to have."""
    for name, changes in CHANNELS.items():
        monkeypatch.setattr(sd15, name, getattr(sd15, name) | changes)
    monkeypatch.setattr(sd15, "CHANGES_OF_SD2", OPEN_CLIP)


def build(**schedule):
    """Parts with random weights, after shrink(). schedule: settings of the scheduler that 1.5's has not."""
    torch.manual_seed(0)
    scheduler = PNDMScheduler(**(sd15.SCHEDULE | dict(skip_prk_steps=True) | schedule))
    return Parts(clip_tokenizer.build(), *sd15.build_networks(), scheduler)


def write(parts, path, dtype=torch.float32, **metadata):
    single_file.write(parts, path, dtype, metadata)
    return path
