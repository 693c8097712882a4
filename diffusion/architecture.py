"""The architecture of a model without its weights: network configurations, read, compared and built again.

That is enough to plan memory. An architecture is ready for JSON: {"unet": {...}, "vae": {...}, "text_encoder": {...}},
and "lettering" of a model that has it.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from config import ModelOptions
from diffusion import sd15, single_file
from diffusion.lettering import LetteringModel
from diffusion.parts import LETTERING, Parts, turn_off_dropout
from diffusion.pipeline import build_tiny, quiet_libraries, read_lettering_config
from diffusion.source import library_errors_as_one_line, local_folder, single_file_path
from diffusion.supported import read_configs

Architecture = dict[str, dict[str, Any]]  # {network: {setting: value}}


def read_architecture(source: str) -> Architecture:
    """The architecture of the model that --pretrained_model names; no weights are read.

    The default model is SD 1.5, whose architecture is known: nothing is read for it, from disk or network. UserError
    if the model is not available or of another kind.
    """
    quiet_libraries()
    if source == "tiny":
        return architecture_of(build_tiny())
    if source in ("sd15-random", ModelOptions.pretrained_model):
        with torch.device("meta"):
            return architecture_of(Parts(None, *sd15.build_networks(), None))
    if path := single_file_path(source):
        networks = single_file.empty_networks(single_file.inspect(path).open_clip)
        return architecture_of(Parts(tokenizer=None, scheduler=None, **networks))

    location = local_folder(source) or source
    _, configs = read_configs(source, location)
    if settings := read_lettering_config(source, location):
        configs[LETTERING] = settings
    with library_errors_as_one_line(source), torch.device("meta"):
        return architecture_of(build_parts(configs))


def architecture_of(parts: Parts) -> Architecture:
    """The architecture of a model in memory, with every setting written out, defaults too."""
    return {name: network_settings(network) for name, network in sorted(parts.networks.items())}


def network_settings(network: torch.nn.Module) -> dict[str, Any]:
    """{setting: value} of a network's config, ready for JSON.

    Left out is what the libraries note beside: version, class, where it was loaded from, precision on disk.
    """
    values = network.config.to_dict() if hasattr(network.config, "to_dict") else dict(network.config)
    notes = ("_", "transformers_version", "architectures", "dtype", "torch_dtype")
    values = {name: value for name, value in values.items() if not name.startswith(notes)}
    return json.loads(json.dumps(values, sort_keys=True))


def build_parts(architecture: Architecture) -> Parts:
    """Parts with random weights, without tokenizer and scheduler, on torch's current device.

    Under torch.device("meta") they take no memory. Dropout is off, as in training.
    """
    parts = Parts(
        tokenizer=None,
        text_encoder=CLIPTextModel(CLIPTextConfig.from_dict(architecture["text_encoder"])),
        vae=AutoencoderKL.from_config(architecture["vae"]),
        unet=UNet2DConditionModel.from_config(architecture["unet"]),
        scheduler=None,
        lettering=LetteringModel.from_config(architecture[LETTERING]) if LETTERING in architecture else None,
    )
    turn_off_dropout(parts)
    return parts
