"""A model as files: size of its weights, their hash, saving a network in any precision, configurations, scheduler."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from common.errors import UserError
from common.files import read_json, write_json
from diffusion.lettering import LetteringModel
from diffusion.parts import LETTERING, Parts
from diffusion.placement import DTYPES

# Before every key of a text encoder's file, as in the hub's files of Stable Diffusion 1.x. transformers 5.6 dropped it
# from CLIPTextModel and from what save_pretrained writes, and reads both; older ones, and tools that read the file
# themselves, find no weights without it.
CLIP_PREFIX = "text_model."


def weights_nbytes(parts: Parts, names: Sequence[str], dtype: str = "fp32") -> int:
    """Bytes that the weights of the named networks take on disk in that precision; see placement.DTYPES."""
    tensors = [tensor for name in names for tensor in base_state_dict(getattr(parts, name)).values()]
    return sum(tensor.numel() for tensor in tensors) * DTYPES[dtype].itemsize


def base_state_dict(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """{name: tensor} of a network's own weights under their own names, without the adapters that PEFT put into it."""
    weights = network.state_dict()
    return {name.replace(".base_layer.", "."): tensor for name, tensor in weights.items() if ".lora_" not in name}


def weights_hash(parts: Parts) -> str:
    """The networks_hash of all networks, which every generated image depends on."""
    return networks_hash(*parts.networks.values())


def networks_hash(*networks: torch.nn.Module) -> str:
    """blake2b, 128 bits, hex, of names and bytes of all weights in their present precision, on the CPU."""
    digest = hashlib.blake2b(digest_size=16)
    for network in networks:
        update_digest(digest, network.state_dict())
    return digest.hexdigest()


def update_digest(digest: hashlib.blake2b, tensors: Mapping[str, torch.Tensor]) -> None:
    """Add names and bytes of tensors on the CPU to a hash, in the order of their names."""
    for key, tensor in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no number in the tensors is NaN or infinite. A tenth of the time of isfinite(), and no memory."""
    extremes = [torch.aminmax(tensor) for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return all(extreme.isfinite().item() for pair in extremes for extreme in pair)  # NaN is both minimum and maximum


def save_network(network: torch.nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Save a network as its library does, with weights of `dtype`; the network itself stays as and where it is.

    Adapters in it are left out. A text encoder's keys begin with CLIP_PREFIX. UserError if a weight is not finite in
    `dtype`.
    """
    from_transformers = isinstance(network, transformers.PreTrainedModel)
    with torch.device("meta"):  # a copy without memory, so that nothing is cast or copied on the GPU
        if from_transformers:
            copy = type(network)(network.config)
        else:
            copy = type(network).from_config({**network.config, "_name_or_path": ""})  # no path of this machine
    weights = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in base_state_dict(network).items()}
    if not all_finite(weights.values()):
        name = next(name for name, tensor in weights.items() if not all_finite([tensor]))
        raise UserError(
            f"{folder.name}: its weight {name} is not finite in {str(dtype).removeprefix('torch.')}, and not saved: "
            "lower the learning rate if training has diverged, else give --save_dtype fp32"
        )
    copy.load_state_dict(weights, assign=True)
    if isinstance(network, CLIPTextModel):
        weights = {CLIP_PREFIX + name: tensor for name, tensor in weights.items()}
        copy.save_pretrained(folder, state_dict=weights, save_original_format=False)  # these very names
    else:
        copy.save_pretrained(folder)
    if from_transformers:
        # diffusers loads any weights in fp32 by default, transformers in what config.json says: make both alike, so
        # that from_pretrained(folder) works without an argument for the precision
        path = folder / "config.json"
        write_json(path, read_json(path) | {"dtype": "float32"})


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose metadata stands in the order of its names: safetensors' own order is random, and
    the same tensors would not give the same bytes."""
    save_file(tensors, path, dict(metadata))
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # else it is written otherwise than here, and stays as it is
            file.seek(8)
            file.write(text.ljust(length))


def save_pipeline(parts: Parts, folder: Path, names: Sequence[str], dtype: torch.dtype) -> None:
    """Save a pipeline folder, with the weights of the named ones of parts.networks. UserError as from save_network."""
    parts.pipeline().save_config(folder)  # model_index.json
    parts.tokenizer.save_pretrained(folder / "tokenizer")
    save_scheduler(parts.scheduler, folder / "scheduler")
    for name in names:
        save_network(getattr(parts, name), folder / name, dtype)
    # transformers writes tokenizer.json alone; older tools read CLIP's own two files
    parts.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


def save_scheduler(scheduler: diffusers.SchedulerMixin, folder: Path) -> None:
    """Save a scheduler's configuration with the settings that the model came with, and no others.

    save_pretrained also writes the defaults of what the model's file left open. Another scheduler made from that
    configuration would take them for the model's own (timestep_spacing), instead of its own defaults, and draw other
    pictures from a version than from the model itself.
    """
    scheduler.save_pretrained(folder)
    path = folder / scheduler.config_name
    left_open = scheduler.config.get("_use_default_values", [])
    write_json(path, {name: value for name, value in read_json(path).items() if name not in left_open})


def network_config(network: Any) -> dict[str, Any]:
    """The configuration of a part (see parts.TRAINABLE), as JSON has it: all that empty_network needs."""
    from_transformers = isinstance(network, transformers.PreTrainedModel)
    value = json.loads(network.config.to_json_string() if from_transformers else network.to_json_string())
    return {key: each for key, each in value.items() if key != "_name_or_path"}  # no path of this machine


def empty_network(part: str, value: dict[str, Any]) -> torch.nn.Module:
    """The part (see parts.TRAINABLE) with that configuration, without weights: they are on torch's device "meta"."""
    with torch.device("meta"):
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig.from_dict(value))
        if part == LETTERING:
            return LetteringModel.from_config(value)
        return UNet2DConditionModel.from_config(value)
