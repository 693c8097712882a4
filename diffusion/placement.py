"""Device and precision: what --mixed_precision comes to, and moving networks there."""

from __future__ import annotations

import contextlib

import torch

from common.errors import UserError
from diffusion.parts import PARTS

DTYPES = {"no": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(wish):
    """'no', 'bf16' or 'fp16' for --mixed_precision: auto is bf16 where the GPU computes in it, else fp16."""
    if wish != "auto":
        if wish == "fp16" and not torch.cuda.is_available():
            raise UserError("--mixed_precision fp16 needs a CUDA GPU: leave it out, or use bf16 or no")
        return wish
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def to_device(parts, device, precision, learning=(), weights_dtype="fp32"):
    """Move everything to the device; what does not learn goes to half precision if `precision` says so.

    weights_dtype: precision of the parts that learn.
    """
    for name in ("vae", *PARTS):
        getattr(parts, name).to(device, DTYPES[weights_dtype if name in learning else precision])
    return parts


@contextlib.contextmanager
def on_device(network, device):
    """Inside: the network is on the device; after: where it was."""
    home = network.device
    network.to(device)
    try:
        yield
    finally:
        network.to(home)
