"""Device and precision: resolve --mixed_precision on this machine, move networks there and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from common.errors import UserError
from diffusion.parts import Parts

DTYPES = {"no": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(mixed_precision: str) -> str:
    """'no', 'bf16' or 'fp16' for --mixed_precision: auto is bf16 where the GPU computes in it, else fp16; on a CPU no.

    UserError for fp16 without a GPU.
    """
    if mixed_precision != "auto":
        if mixed_precision == "fp16" and not torch.cuda.is_available():
            raise UserError("--mixed_precision fp16 needs a CUDA GPU: leave it out, or use bf16 or no")
        return mixed_precision
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def to_device(
    parts: Parts,
    device: str | torch.device,
    precision: str,
    trained: Sequence[str] = (),
    weights_dtype: str = "fp32",
) -> Parts:
    """Move all networks to the device; frozen ones get the dtype of `precision`, trained ones that of weights_dtype.

    trained: names of the parts of which every weight is trained. What requires a gradient in another part is an
    adapter, and stays in fp32.
    """
    for name, network in parts.networks.items():
        adapters = [] if name in trained else [(p, p.data) for p in network.parameters() if p.requires_grad]
        network.to(device, DTYPES[weights_dtype if name in trained else precision])
        for p, weights in adapters:
            p.data = weights.to(device)
    return parts


@contextlib.contextmanager
def on_device(network: torch.nn.Module, device: str | torch.device) -> Iterator[None]:
    """Inside: the network is on the device; after: where it was."""
    home = network.device
    network.to(device)
    try:
        yield
    finally:
        network.to(home)
