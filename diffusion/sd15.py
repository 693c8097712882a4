"""sd15-random: the exact architecture of Stable Diffusion 1.5 with random weights, for memory plans and benchmarks.

It takes the memory and the time of the real model but is untrained. The configurations are those that the model was
published with (arXiv:2112.10752, appendix E; CLIP ViT-L/14, arXiv:2103.00020).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusion import tiny

UNET = dict(  # 859,520,964 parameters
    sample_size=64,
    in_channels=4,
    out_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=768,
    attention_head_dim=8,
    norm_num_groups=32,
)
VAE = dict(  # 83,653,863 parameters
    sample_size=512,
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    norm_num_groups=32,
    scaling_factor=0.18215,
)
TEXT_ENCODER = dict(  # 123,060,480 parameters
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
    projection_dim=768,
    hidden_act="quick_gelu",
    bos_token_id=0,
    eos_token_id=2,
    pad_token_id=1,
)
SCHEDULE = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    set_alpha_to_one=False,
)
# Stable Diffusion 2.x: the text encoder is OpenCLIP ViT-H/14 without its last layer, whose output it does not use
CHANGES_OF_SD2 = dict(
    unet=dict(
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
        upcast_attention=True,  # in fp16 the attention of 2.1 overflows
    ),
    text_encoder=dict(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        projection_dim=512,
        hidden_act="gelu",
    ),
)


def build() -> tuple[CLIPTokenizer, CLIPTextModel, AutoencoderKL, UNet2DConditionModel, PNDMScheduler]:
    """(tokenizer, text_encoder, vae, unet, scheduler), in the order of parts.Parts; the same weights every time.

    Takes 4 GiB. The tokenizer is tiny's: of the 49,408 token embeddings it uses a few hundred. torch's global
    generator is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder, vae, unet = build_networks()
    return tiny.build_tokenizer(), text_encoder, vae, unet, tiny.build_scheduler()


def build_networks(
    text_encoder: Mapping[str, Any] = MappingProxyType({}), unet: Mapping[str, Any] = MappingProxyType({})
) -> tuple[CLIPTextModel, AutoencoderKL, UNet2DConditionModel]:
    """(text_encoder, vae, unet) on torch's current device: under torch.device("meta") they take no memory.

    text_encoder, unet: settings that are other than those of 1.5.
    """
    return (
        CLIPTextModel(CLIPTextConfig(**(TEXT_ENCODER | dict(text_encoder)))),
        AutoencoderKL(**VAE),
        UNet2DConditionModel(**(UNET | dict(unet))),
    )
