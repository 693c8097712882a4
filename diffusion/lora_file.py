"""A LoRA as a file: kohya's names, which diffusers, ComfyUI and the web interfaces read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from common.errors import UserError
from diffusion.parts import Parts

LORA_FILE = "pytorch_lora_weights.safetensors"  # in a version's folder; the name that diffusers looks for
PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}

Adapters = Mapping[str, Mapping[str, tuple[torch.Tensor, torch.Tensor]]]  # {part: {module name: (down, up)}}


def save_lora(path: Path, adapters: Adapters, alpha: float, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """Write a LoRA file. down (rank, in, ...), up (out, rank, ...)."""
    tensors = {}
    for part, modules in adapters.items():
        for name, (down, up) in modules.items():
            key = PREFIXES[part] + name.replace(".", "_")
            tensors[f"{key}.lora_down.weight"] = down.detach().to("cpu", dtype).contiguous()
            tensors[f"{key}.lora_up.weight"] = up.detach().to("cpu", dtype).contiguous()
            tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, path, metadata={"format": "pt", **metadata})


def merge_lora(parts: Parts, path: Path, scale: float = 1.0) -> None:
    """Add scale * alpha / rank * up @ down to the weights, in fp32. UserError for what does not fit."""
    tensors = load_file(path)
    for part, prefix in PREFIXES.items():
        for name, module in getattr(parts, part).named_modules():
            key = prefix + name.replace(".", "_")
            if (down := tensors.pop(f"{key}.lora_down.weight", None)) is None:
                continue
            up, alpha = tensors.pop(f"{key}.lora_up.weight").float(), tensors.pop(f"{key}.alpha").item()
            change = (up.flatten(1) @ down.float().flatten(1)).view(module.weight.shape)
            module.weight.data += scale * alpha / down.shape[0] * change
    if tensors:
        raise UserError(f"{path} does not fit this model: it has no layer for {next(iter(tensors))}")
