"""A model's architecture: the configurations of its networks, without weights. That is enough to plan memory.

An architecture is JSON: {"unet": {...}, "vae": {...}, "text_encoder": {...}}.
"""

from __future__ import annotations

import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from common.errors import UserError
from config import ModelOptions
from diffusion import pipeline, sd15
from diffusion.parts import Parts


def of_source(source):
    """The architecture of what --pretrained_model names. No weights are read.

    Nothing is read, from disk or network, for the default model, which is SD 1.5. UserError if it can't be had.
    """
    pipeline.quiet_libraries()
    if source == "tiny":
        return of_networks(pipeline.build_tiny())
    if source in ("sd15-random", ModelOptions.pretrained_model):
        with torch.device("meta"):
            return of_networks(Parts(None, *sd15.build_networks(), None))

    where = pipeline.local_folder(source) or source
    try:
        configs = {
            "text_encoder": CLIPTextConfig.from_pretrained(where, subfolder="text_encoder").to_dict(),
            "vae": AutoencoderKL.load_config(where, subfolder="vae"),
            "unet": UNet2DConditionModel.load_config(where, subfolder="unet"),
        }
        with torch.device("meta"):
            parts = build(configs)
        pipeline.require_one_model(parts.unet.config, parts.vae.config, parts.text_encoder.config)
        return of_networks(parts)
    except pipeline.LIBRARY_ERRORS as problem:
        raise UserError(pipeline.cannot_load(source, problem)) from None


def of_networks(parts):
    """The architecture of networks that are there; `parts` has them as attributes. Every setting is written out."""
    return {name: settings(getattr(parts, name)) for name in ("text_encoder", "unet", "vae")}


def settings(network):
    """{name: value} of a network's settings, as JSON has them: less notes of the libraries, which are version, class,
    where it was read, precision on disk."""
    values = network.config.to_dict() if hasattr(network.config, "to_dict") else dict(network.config)
    notes = ("_", "transformers_version", "architectures", "dtype", "torch_dtype")
    values = {name: value for name, value in values.items() if not name.startswith(notes)}
    return json.loads(json.dumps(values, sort_keys=True))


def build(architecture):
    """models.Parts with just the networks, on torch's current device; under torch.device("meta") without memory."""

    return Parts(
        tokenizer=None,
        text_encoder=CLIPTextModel(CLIPTextConfig.from_dict(architecture["text_encoder"])),
        vae=AutoencoderKL.from_config(architecture["vae"]),
        unet=UNet2DConditionModel.from_config(architecture["unet"]),
        scheduler=None,
    )
