"""LoRA files: writing ours under the names that all tools read, reading ours and others', merging them into a model.

A LoRA (arXiv:2106.09685) adds alpha / rank * up @ down to the weights of some modules. For a convolution, down has its
kernel size and up is a convolution of 1x1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from common.errors import UserError
from common.files import FREE_SPACE_HINT, atomic_write, read_json
from common.library_errors import short_reason
from diffusion import lora_names
from diffusion.parts import PARTS, Parts
from diffusion.source import PICKLES, is_pickle
from diffusion.weights import all_finite, save_tensors, update_digest

LORA_FILE = "pytorch_lora_weights.safetensors"  # in a version's folder; where diffusers looks by default
PEFT_CONFIG = "adapter_config.json"  # beside PEFT's own files: alpha, which their keys do not have
DIFFUSERS_SETTINGS = "lora_adapter_metadata"  # in the metadata of diffusers' files: likewise

Adapters = Mapping[str, Mapping[str, tuple[torch.Tensor, torch.Tensor]]]  # {part: {module: (down, up)}}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What is added to the weight of one module: factor * up @ down."""

    down: torch.Tensor  # (rank, columns) or (rank, channels, height, width), as in the file
    up: torch.Tensor  # (rows, rank) or (rows, rank, 1, 1)
    factor: float  # alpha / rank


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def save_lora(
    path: str | os.PathLike[str],
    adapters: Adapters,
    alpha: float,
    dtype: torch.dtype,
    metadata: Mapping[str, str] | None = None,
    hint: str = FREE_SPACE_HINT,
) -> None:
    """Write a LoRA file with kohya's names, atomically; the same adapters and metadata give the same bytes.

    adapters: {part: {name of a module: (down, up)}}, with the shapes that PEFT has them in: down (rank, columns) or
    (rank, channels, height, width), up (rows, rank) or (rows, rank, 1, 1). dtype: of the file's weights. metadata: is
    added to standard_metadata, and wins. UserError if a weight is not finite in `dtype`, or the file can't be written.
    """
    tensors = {}
    for part, modules in adapters.items():
        for module, (down, up) in modules.items():
            name = lora_names.kohya_name(part, module)
            for end, tensor in (("lora_down", down), ("lora_up", up)):
                tensors[f"{name}.{end}.weight"] = cast = tensor.detach().to("cpu", dtype).contiguous()
                if not all_finite([cast]):
                    raise UserError(
                        f"{pathlib.Path(path).name}: {end} of {module} is not finite in "
                        f"{str(dtype).removeprefix('torch.')}, and not saved: lower the learning rate if training has "
                        "diverged, else save in fp32"
                    )
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))  # fp32 always: exact
    texts = standard_metadata(adapters, alpha, pathlib.Path(path).stem) | dict(metadata or {})
    with atomic_write(path, hint) as temporary:
        save_tensors(tensors, temporary, {**texts, "format": "pt"})


def standard_metadata(adapters: Adapters, alpha: float, title: str) -> dict[str, str]:
    """The metadata by which other tools tell what a file is (kohya's ss_*, and modelspec.* of modelspec 1.0.1)."""
    downs = [down for modules in adapters.values() for down, _ in modules.values()]
    ranks = {len(down) for down in downs}
    widths = [
        lora_names.text_width(part, module, down.shape[1])
        for part, modules in adapters.items()
        for module, (down, _) in modules.items()
    ]
    second = 1024 in widths  # as wide as the text encoder of Stable Diffusion 2.x
    convolutions = any(down.dim() == 4 and down.shape[2:].numel() > 1 for down in downs)
    rank, alpha_text = str(max(ranks, default=0)), f"{alpha:g}"
    return {
        "ss_v2": str(second),
        "ss_base_model_version": "sd_v2" if second else "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": alpha_text,
        "ss_network_args": json.dumps({"conv_dim": rank, "conv_alpha": alpha_text} if convolutions else {}),
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"stable-diffusion-v{'2-512' if second else '1'}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Merging


@torch.no_grad()
def merge_lora(parts: Parts, path: str | os.PathLike[str], scale: float = 1.0) -> None:
    """Add scale * alpha / rank * up @ down of a LoRA file to the weights of `parts`, which are on the CPU, in fp32.

    UserError, and the weights stay as they were, if the file is damaged, not finite, no LoRA, or not for this model.

    Computed in float64 and rounded once: products of halves are exact in it, so that every machine, with any number of
    threads, gets the same bytes, and a version the same hash.
    """
    adapters = read_lora(path, parts)
    for part, modules in adapters.items():
        for name, adapter in modules.items():
            weight = getattr(parts, part).get_submodule(name).weight
            change = adapter.up.flatten(1).double() @ adapter.down.flatten(1).double()
            change *= scale * adapter.factor  # in place: of a large convolution it takes a quarter of a gigabyte
            weight.copy_(change.reshape(weight.shape).add_(weight))


def read_lora(path: str | os.PathLike[str], parts: Parts) -> dict[str, dict[str, Adapter]]:
    """{part: {module: Adapter}} of a LoRA file that fits `parts`. Every key of the file is in it.

    Where the file does not say alpha, it is the rank, as diffusers and others take it. UserError as merge_lora.
    """
    path = pathlib.Path(path).expanduser()
    tensors, metadata = read_tensors(path)
    require_lora(path, tensors)
    modules = lora_names.adaptable(parts)
    names = lora_names.known_names(modules)
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, kind = lora_names.split_key(key) or ("", "")
        if name not in names:
            other = lora_names.other_architecture(tensors, metadata) or "a model of another architecture or size"
            raise unusable(path, f"it was made for {other}: this model has nothing for its {name or key}")
        if kind in found.setdefault(names[name], {}):
            raise unusable(path, f"it has {key} twice, under two names")
        found[names[name]][kind] = tensor

    settings = read_settings(path, tensors, metadata)
    adapters: dict[str, dict[str, Adapter]] = {part: {} for part in modules}
    for (part, name), each in found.items():
        if missing := {"down", "up"} - each.keys():
            raise unusable(path, f"{part}.{name} has no {missing.pop()} matrix: the file is incomplete")
        require_fit(path, part, name, modules[part][name].weight, each["down"], each["up"])
        rank = len(each["down"])
        factor = alpha_of(path, name, each.get("alpha"), rank, settings.get(part, {}))
        adapters[part][name] = Adapter(each["down"], each["up"], factor)
    return {part: named for part, named in adapters.items() if named}


def require_fit(
    path: pathlib.Path, part: str, name: str, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor
) -> None:
    """UserError unless up @ down has the shape of the weight; a 1x1 convolution may be written as a linear layer."""
    where = f"{part}.{name}"
    if down.dim() not in (2, 4) or up.dim() not in (2, 4) or not 0 < len(down) == up.flatten(1).shape[1]:
        raise unusable(path, f"the rank of {where} is {len(down)} in down, and its up is {tuple(up.shape)}: damaged")
    kernel = (down.shape[2:] or (1, 1), weight.shape[2:] or (1, 1))
    if (len(up), down.shape[1]) != tuple(weight.shape[:2]) or kernel[0] != kernel[1]:
        width, ours = (lora_names.text_width(part, name, each.shape[1]) for each in (down, weight))
        other = lora_names.TEXT_WIDTHS.get(width or 0) if width != ours else None
        raise unusable(
            path,
            f"it was made for {other or 'another model'}: {where} is {(len(up), *down.shape[1:])} there, and "
            f"{tuple(weight.shape)} here",
        )


def alpha_of(
    path: pathlib.Path, name: str, alpha: torch.Tensor | None, rank: int, settings: Mapping[str, Any]
) -> float:
    """alpha / rank of a module. settings: of PEFT's LoraConfig, which are in the file's metadata or beside it."""
    if alpha is not None:
        if alpha.numel() != 1:
            raise unusable(path, f"alpha of {name} has {alpha.numel()} numbers: damaged")
        return alpha.item() / rank
    value = settings.get("lora_alpha", rank)
    try:
        for pattern, other in (settings.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", name):
                value = other
        return float(value) / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    except (AttributeError, TypeError, ValueError, re.error) as problem:
        raise unusable(path, f"its settings of alpha are damaged ({short_reason(problem)})") from None


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read_tensors(path: pathlib.Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file. UserError if it is missing, damaged, a pickle, or not finite."""
    if os.path.isdir(path):
        inner = next((name for name in (LORA_FILE, "adapter_model.safetensors") if (path / name).is_file()), None)
        raise unusable(path, f"it is a folder: give {path / inner if inner else 'the file in it'}")
    if not os.path.isfile(path):
        raise unusable(path, "there is no such file")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError) as problem:
        raise unusable(path, describe_unreadable(path, problem)) from None
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() and not key.endswith(".alpha"):
            raise unusable(path, f"{key} is {str(tensor.dtype).removeprefix('torch.')}, not a floating-point number")
        if not all_finite([tensor.float()]):
            raise unusable(path, f"{key} is not finite: the file is damaged")
    return tensors, metadata


def describe_unreadable(path: pathlib.Path, problem: Exception) -> str:
    """What a file is that safetensors can't read, and what to do."""
    start = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(40)
    if is_pickle(start) or path.suffix.lower() in PICKLES:
        return "it is a pickle, which can run code hidden in it, so nothing here reads it: give a .safetensors file"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS in place of the file: run `git lfs pull` there"
    return f"it is damaged or cut short ({short_reason(problem)}): bring it again"


def require_lora(path: pathlib.Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """UserError unless the keys are those of a LoRA: says what the file is else."""
    if any(key.startswith(("model.diffusion_model.", "first_stage_model.")) for key in tensors):
        raise unusable(path, "it is a whole model, not a LoRA: use it as --pretrained_model")
    if other := lora_names.other_adapter(tensors):
        raise unusable(path, f"{other}, and only plain LoRA is read here")
    unknown = [key for key in tensors if lora_names.split_key(key) is None]
    if len(unknown) == len(tensors):
        raise unusable(path, f"it is no LoRA: it has {f'weights such as {unknown[0]}' if unknown else 'no weights'}")
    if unknown:
        raise unusable(path, f"it has {unknown[0]}, which belongs to no plain LoRA")


def read_settings(
    path: pathlib.Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> dict[str, Mapping[str, Any]]:
    """{part: settings of PEFT's LoraConfig}: diffusers writes them into a file's metadata, PEFT beside its files."""
    if any(key.startswith(lora_names.PEFT_PREFIX) for key in tensors):
        beside = path.with_name(PEFT_CONFIG)
        if not beside.is_file():
            raise unusable(path, f"PEFT wrote it, and its {PEFT_CONFIG}, which has alpha, is not beside it: bring both")
        settings = read_json(beside)
        return dict.fromkeys(PARTS, settings)
    try:
        settings = dict(json.loads(metadata.get(DIFFUSERS_SETTINGS, "{}")))
    except (TypeError, ValueError, RecursionError):
        raise unusable(path, f"its metadata are damaged ({DIFFUSERS_SETTINGS})") from None
    return {
        part: {key.removeprefix(f"{part}."): value for key, value in settings.items() if key.startswith(f"{part}.")}
        for part in PARTS
    }


def lora_hash(path: str | os.PathLike[str]) -> str:
    """blake2b, 128 bits, hex, of names and bytes of all weights in a LoRA file. UserError as read_lora."""
    tensors, _ = read_tensors(pathlib.Path(path).expanduser())
    digest = hashlib.blake2b(digest_size=16)
    update_digest(digest, tensors)
    return digest.hexdigest()


def require_lora_file(path: str | os.PathLike[str]) -> None:
    """UserError unless the file is a whole LoRA, for whatever model."""
    path = pathlib.Path(path).expanduser()
    tensors, _ = read_tensors(path)
    require_lora(path, tensors)


def unusable(path: pathlib.Path, reason: str) -> UserError:
    """The UserError for a LoRA file that can't be used."""
    return UserError(f"can't use the LoRA {path}: {reason}")
