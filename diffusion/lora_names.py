"""Names in LoRA files: those that we write, all others that we read, and what tells a LoRA of another architecture."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import torch

from diffusion.parts import PARTS, Parts
from diffusion.weights import CLIP_PREFIX

# Ends of keys -> which tensor of a module it is. Those of kohya's tools, of PEFT, and of diffusers' releases
ENDS = {
    **{".lora_down.weight": "down", ".lora_up.weight": "up", ".alpha": "alpha"},
    **{".lora_A.weight": "down", ".lora_B.weight": "up"},
    **{".lora_A.default.weight": "down", ".lora_B.default.weight": "up"},
    **{".lora.down.weight": "down", ".lora.up.weight": "up"},
    **{"_lora.down.weight": "down", "_lora.up.weight": "up"},
    **{".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up"},
}
PEFT_PREFIX = "base_model.model."  # of keys in PEFT's adapter_model.safetensors, which do not name the network

# What is in keys of adapters that are more than a product of two matrices -> what they are
OTHER_ADAPTERS = {
    **{r"\.dora_scale$|lora_magnitude_vector": "a DoRA", r"\.hada_": "a LoHa", r"\.lokr_": "a LoKr"},
    **{
        r"\.lora_mid\.": "a LoCon in Tucker decomposition",
        r"\.b?oft_": "an OFT adapter",
        r"^bundle_emb": "one with embeddings",
    },
    **{r"\.diff(_b)?$": "one with changes of whole weights", r"\.[wb]_norm$": "one with changes of norms"},
    **{r"\.lora_[AB]\.(default\.)?bias$": "one with biases", r"lora_embedding_": "one with changes of embeddings"},
}
# What is in keys of a LoRA for another architecture -> that architecture; the first that is found
OTHER_ARCHITECTURES = {
    r"double_blocks|single_blocks|single_transformer_blocks": "Flux",
    r"joint_blocks|lora_te3_|^text_encoder_3\.|^(lora_)?transformer[._]": "Stable Diffusion 3 or another transformer",
    r"lora_te2_|^text_encoder_2\.|(input|output)_blocks|transformer_blocks[._][1-9]|label_emb|add_embedding": (
        "Stable Diffusion XL"
    ),
}
TEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


def kohya_name(part: str, module: str) -> str:
    """The name that kohya's tools give a module, which A1111, ComfyUI, InvokeAI and diffusers read.

    'lora_unet_mid_block_attentions_0_proj_in' for the UNet's mid_block.attentions.0.proj_in. The text encoder's names
    go on with text_model, which transformers 5.6 dropped from its own.
    """
    if part == "text_encoder":
        return "lora_te_" + (CLIP_PREFIX + module.removeprefix(CLIP_PREFIX)).replace(".", "_")
    return f"lora_{part}_" + module.replace(".", "_")


def other_names(part: str, module: str) -> Iterator[str]:
    """All other names of a module in LoRA files, without ENDS: kohya's for SDXL's first text encoder, PEFT's, and
    diffusers', the older ones too."""
    if part == "text_encoder":
        plain = module.removeprefix(CLIP_PREFIX)
        yield "lora_te1_" + (CLIP_PREFIX + plain).replace(".", "_")
        old = re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", plain)
        spellings = {plain, CLIP_PREFIX + plain, old, CLIP_PREFIX + old}
    else:
        old = re.sub(r"\.(to_[qkv]|to_out)(\.0)?$", r".processor.\1", module)
        spellings = {module, old}
        yield from spellings  # files of the first releases with LoRA had the UNet alone
    for spelling in spellings:
        yield f"{part}.{spelling}"
        yield PEFT_PREFIX + spelling


def adaptable(parts: Parts) -> dict[str, dict[str, torch.nn.Module]]:
    """{part: {name: module}} of all that a LoRA can change: linear layers and convolutions."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {
        part: {name: module for name, module in getattr(parts, part).named_modules() if isinstance(module, kinds)}
        for part in PARTS
    }


def known_names(modules: dict[str, dict[str, torch.nn.Module]]) -> dict[str, tuple[str, str]]:
    """{name in a file: (part, module)} for everything in adaptable(parts)."""
    return {
        name: (part, module)
        for part, named in modules.items()
        for module in named
        for name in (kohya_name(part, module), *other_names(part, module))
    }


def split_key(key: str) -> tuple[str, str] | None:
    """(name of the module, 'down', 'up' or 'alpha') of a key; None if it has none of ENDS."""
    return next(((key.removesuffix(end), kind) for end, kind in ENDS.items() if key.endswith(end)), None)


def other_adapter(keys: Collection[str]) -> str | None:
    """What an adapter is that is no plain LoRA, and the key that tells; None if no key does."""
    for key in keys:
        for pattern, what in OTHER_ADAPTERS.items():
            if re.search(pattern, key):
                return f"it is {what} ({key})"
    return None


def other_architecture(keys: Collection[str], metadata: Mapping[str, str]) -> str | None:
    """The architecture that the keys tell, else the metadata; None if that could be Stable Diffusion 1.x."""
    for pattern, name in OTHER_ARCHITECTURES.items():
        if any(re.search(pattern, key) for key in keys):
            return name
    told = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or ""
    return None if told.startswith(("stable-diffusion-v1", "sd_v1")) else " ".join(told.split())[:60] or None


def text_width(part: str, module: str, columns: int) -> int | None:
    """The width of the text embeddings that an adapter of this module takes in; None if it takes in something else."""
    reads_text = module.endswith((".attn2.to_k", ".attn2.to_v")) or (part == "text_encoder" and ".self_attn." in module)
    return columns if reads_text else None
