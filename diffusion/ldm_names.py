"""The names that weights have in a single file, the layout of latent diffusion (LDM), which A1111 and ComfyUI read.

Each name follows from the diffusers name and the place of its block; so one rule serves for writing and reading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP = "cond_stage_model.transformer.text_model."  # text encoder of Stable Diffusion 1.x
OPEN_CLIP = "cond_stage_model.model."  # of 2.x

# diffusers -> LDM, of modules with a fixed place
UNET_TOP = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
UNET_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
VAE_ATTENTION = {"group_norm.": "norm.", "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out."}
OPEN_CLIP_TOP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.": "ln_final.",
}
OPEN_CLIP_LAYER = {
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
    "self_attn.out_proj.": "attn.out_proj.",
}


@dataclass(frozen=True)
class Stored:
    """Where a single file has a weight."""

    name: str
    third: int | None = None  # 0, 1, 2: it is that third of the tensor's rows, since OpenCLIP joins query, key, value


def stored(part: str, key: str, config: Mapping[str, Any], open_clip: bool = False) -> Stored:
    """Where a single file has the weight that diffusers calls `key`.

    part: unet, vae, or text_encoder; config: its settings; open_clip: the text encoder is that of 2.x. KeyError if the
    layout has no such weight.
    """
    if part == "unet":
        return Stored(UNET + unet_name(key, config["layers_per_block"], config["up_block_types"]))
    if part == "vae":
        return Stored(VAE + vae_name(key, len(config["block_out_channels"])))
    return open_clip_name(key) if open_clip else Stored(CLIP + key)


def unet_name(key: str, layers: int, up_block_types: tuple[str, ...]) -> str:
    """LDM counts all residual blocks of one direction, with those that change the size: layers + 1 to a resolution."""
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", key)
    if found is None:
        return replace_start(key, UNET_TOP, inner=UNET_RESNET if ".resnets." in key else {})
    direction, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    first = block * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":  # after what else is in the last block of its resolution
        return f"output_blocks.{first + layers}.{2 if up_block_types[block].startswith('CrossAttn') else 1}.{rest}"
    place = f"input_blocks.{first + 1 + layer}" if direction == "down" else f"output_blocks.{first + layer}"
    if kind == "attentions":
        return f"{place}.1.{rest}"
    return f"{place}.0.{replace_start(rest, UNET_RESNET)}"


def vae_name(key: str, blocks: int) -> str:
    """blocks: number of resolutions. LDM counts those of the decoder from the image's size, too."""
    if key.startswith(("quant_conv.", "post_quant_conv.")):
        return key
    half, _, key = key.partition(".")
    if found := re.fullmatch(r"(?:down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(?:down|up)samplers\.0)\.(.+)", key):
        direction, block = ("down", int(found[1])) if half == "encoder" else ("up", blocks - 1 - int(found[1]))
        rest = found[3].replace("conv_shortcut.", "nin_shortcut.")
        return f"{half}.{direction}.{block}." + (
            f"block.{found[2]}.{rest}" if found[2] else f"{direction}sample.{rest}"
        )
    if found := re.fullmatch(r"mid_block\.resnets\.(\d+)\.(.+)", key):
        return f"{half}.mid.block_{int(found[1]) + 1}.{found[2]}"
    if key.startswith("mid_block.attentions.0."):
        return f"{half}.mid.attn_1." + replace_start(key.removeprefix("mid_block.attentions.0."), VAE_ATTENTION)
    same = {name: name for name in ("conv_in.", "conv_out.")}
    return f"{half}." + replace_start(key, {"conv_norm_out.": "norm_out.", **same})


def open_clip_name(key: str) -> Stored:
    """Of a text encoder of Stable Diffusion 2.x."""
    if not (found := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", key)):
        return Stored(OPEN_CLIP + replace_start(key, OPEN_CLIP_TOP))
    layer = f"{OPEN_CLIP}transformer.resblocks.{found[1]}."
    if projection := re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", found[2]):
        return Stored(f"{layer}attn.in_proj_{projection[2]}", "qkv".index(projection[1]))
    return Stored(layer + replace_start(found[2], OPEN_CLIP_LAYER))


def replace_start(key: str, names: Mapping[str, str], inner: Mapping[str, str] | None = None) -> str:
    """`key` with another beginning, and what follows it likewise by `inner`. KeyError if no name fits."""
    for old, new in names.items():
        if key.startswith(old):
            rest = key[len(old) :]
            return new + (replace_start(rest, inner) if inner else rest)
    raise KeyError(key)
