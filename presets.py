"""Flags that fit a card: --preset 6gb, 8gb, 12gb, 24gb. Only the standard library is imported here.

A preset stands between the defaults and what was given: it sets those of its flags that were not given, and is then
forgotten. A run's config.json has what it set. UNet and text encoder may both learn, at 512x768. Those of 6 and 8 GB
need a GPU that computes in bf16.
"""

from __future__ import annotations

SMALL = dict(  # weights in half the bytes, gradients one at a time, and what need not be on the card leaves it
    fused_backward=True, weights_dtype="bf16", grad_ckpt=True, cache_latents=True, ema_device="cpu", vae_tiling=True
)
PRESETS = {
    "6gb": dict(batch_size=1, optimizer="paged_adamw8bit", **SMALL),
    "8gb": dict(batch_size=4, optimizer="adamw8bit", **SMALL),
    "12gb": dict(batch_size=4, optimizer="adamw8bit", grad_ckpt=True, cache_latents=True, ema_device="cpu"),
    "24gb": dict(batch_size=8, optimizer="adamw", grad_ckpt=True, cache_latents=True),
}


def card(preset):
    """GB of the card that a preset is for."""
    return float(preset.removesuffix("gb"))


def flags(preset, given, known):
    """{flag: value}: what a preset sets of the flags that are `known`, beside those that were `given`."""
    return {name: value for name, value in PRESETS[preset].items() if name in known and name not in given}
