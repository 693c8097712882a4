"""Load a Stable Diffusion 1.x model: from a hub id, a pipeline folder, a single file, the bundled miniature, or built
by code.

A model is always the five parts that StableDiffusionPipeline holds, and a folder may have lettering.py's network
beside them. A saved version of a run is a pipeline folder, too;
`mini` is the one in mini_sd/, and BUILT_BY_CODE have the same classes with random weights.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import diffusers
import huggingface_hub
import torch
import transformers
from transformers import CLIPTextModel, CLIPTokenizer

from common.errors import UserError
from common.manifest import require_intact
from diffusion import sd15, single_file, tiny
from diffusion.lettering import LetteringModel, require_fitting
from diffusion.lora_file import LORA_FILE, merge_lora
from diffusion.parts import LETTERING, Parts
from diffusion.source import find_variant, library_errors_as_one_line, local_folder, single_file_path
from diffusion.supported import (
    load_scheduler,
    read_configs,
    read_index,
    read_text_config,
    require_file,
    require_object,
)
from diffusion.weights import all_finite

BUILT_BY_CODE = ("tiny", "sd15-random")  # models that need no files; tiny.py, sd15.py
NETWORK_CLASSES = {
    "unet": diffusers.UNet2DConditionModel,
    "vae": diffusers.AutoencoderKL,
    "text_encoder": CLIPTextModel,
    LETTERING: LetteringModel,
}
DAMAGED = "bring that file back, or use another version; resuming its run makes the latest version again"


def load_parts(
    source: str, checked: bool = False, prediction_type: str = "auto", lora_scale: float | None = 1.0
) -> Parts:
    """The model `source`: 'mini', one of BUILT_BY_CODE, a pipeline folder, a single file or a hub id; in fp32, on the
    CPU, frozen.

    checked: whether its files were compared with their manifest already; prediction_type: what a single file predicts
    that does not say so itself; lora_scale: how much of the LoRA of a folder that has one is added to its weights,
    None: nothing, for a run that goes on with training it. UserError if it is not available, incomplete, damaged or of
    another kind, with what to do instead.
    """
    quiet_libraries()
    if source == "tiny":
        return build_tiny().freeze()
    if source == "sd15-random":
        return Parts(*sd15.build()).freeze()
    if path := single_file_path(source):
        return single_file.load(path, prediction_type).freeze()

    location = local_folder(source) or source
    if isinstance(location, pathlib.Path) and not checked:
        require_intact(location, DAMAGED)
    index, configs = read_configs(source, location)
    with library_errors_as_one_line(source, "scheduler"):
        scheduler = load_scheduler(location, index)
    with library_errors_as_one_line(source, "tokenizer"):
        tokenizer = read_tokenizer(location, configs["text_encoder"])
    networks = {}
    for name in configs:
        with library_errors_as_one_line(source, name):
            networks[name] = load_network(location, name)
    parts = Parts(tokenizer=tokenizer, scheduler=scheduler, **networks)
    parts.lettering = load_lettering(source, location, parts)
    parts.freeze()
    if isinstance(location, pathlib.Path) and (location / LORA_FILE).exists() and lora_scale is not None:
        merge_lora(parts, location / LORA_FILE, lora_scale)
    return parts


def build_tiny() -> Parts:
    """The model `tiny`: the same weights every time."""
    return Parts(*tiny.build())


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def load_network(location: pathlib.Path | str, name: str) -> torch.nn.Module:
    """One network of a pipeline, in fp32. ValueError if its weights are not all there and finite.

    From a folder in the variant that it has (find_variant), from the hub in the plain files, else in fp16.
    """
    if isinstance(location, pathlib.Path):
        return read_network(location, name, find_variant(location, name))
    try:
        return read_network(location, name, None)
    except OSError as problem:
        try:
            return read_network(location, name, "fp16")
        except OSError:
            raise problem from None


def read_network(location: pathlib.Path | str, name: str, variant: str | None) -> torch.nn.Module:
    """load_network of one variant."""
    cls, settings = NETWORK_CLASSES[name], dict(use_safetensors=True, variant=variant, output_loading_info=True)
    if name == "text_encoder":  # its library names the tensors on the screen, and in no error
        settings |= dict(ignore_mismatched_sizes=True, trust_remote_code=False)
    network, info = cls.from_pretrained(location, subfolder=name, dtype=torch.float32, **settings)
    if missing := sorted(info["missing_keys"]):  # the libraries would make them up
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    if other := sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]):
        raise ValueError(f"{len(other)} weights have not the shape that config.json gives them, such as {other[0]}")
    for key, tensor in network.state_dict().items():
        if not all_finite([tensor]):
            raise ValueError(f"{key} is not finite: the weights are damaged; bring the model again")
    return network


def load_lettering(source: str, location: pathlib.Path | str, parts: Parts) -> LetteringModel | None:
    """The lettering of the pipeline in `location` (folder or hub id) that `source` names, in fp32; None if it has none.
    UserError unless it is whole and fits the networks of `parts`."""
    if (settings := read_lettering_config(source, location)) is None:
        return None
    with library_errors_as_one_line(source, f"{LETTERING}/config.json"):
        require_fitting(settings, parts)
    with library_errors_as_one_line(source, LETTERING):
        return load_network(location, LETTERING)


def read_lettering_config(source: str, location: pathlib.Path | str) -> dict[str, Any] | None:
    """Settings of the lettering of a pipeline; None if it has none. See load_lettering."""
    file = f"{LETTERING}/config.json"
    if isinstance(location, pathlib.Path) and not (location / LETTERING).exists():
        return None
    with library_errors_as_one_line(source, file):
        require_file(location, file)
        try:
            return require_object(LetteringModel.load_config(location, subfolder=LETTERING))
        except OSError:
            if isinstance(location, pathlib.Path):
                raise
            return None  # the hub has no such file, as of nearly all models


def has_lora(source: str) -> bool:
    """Whether load_parts merges a LoRA: the model is a folder that has one beside its networks, as versions of LoRA
    runs do."""
    location = None if source in BUILT_BY_CODE else local_folder(source)
    return location is not None and (location / LORA_FILE).exists()


def has_lettering(source: str) -> bool:
    """Whether load_parts gives a model with lettering. UserError if that is damaged."""
    if source in BUILT_BY_CODE or single_file_path(source):
        return False
    quiet_libraries()
    return read_lettering_config(source, local_folder(source) or source) is not None


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizer


def load_tokenizer(source: str) -> CLIPTokenizer:
    """The tokenizer of `source` alone, without the networks; see read_tokenizer. UserError if it is not available."""
    quiet_libraries()
    if source in BUILT_BY_CODE:
        return tiny.build_tokenizer()
    if path := single_file_path(source):
        return single_file.build_tokenizer(single_file.inspect(path))

    location = local_folder(source) or source
    read_index(source, location)  # fails fast where the hub can't be reached
    with library_errors_as_one_line(source, "text_encoder/config.json"):
        text_encoder = read_text_config(location, "text_encoder")
    with library_errors_as_one_line(source, "tokenizer"):
        return read_tokenizer(location, text_encoder)


def read_tokenizer(location: pathlib.Path | str, text_encoder: Mapping[str, Any]) -> CLIPTokenizer:
    """A pipeline's tokenizer; its model_max_length is what both it and the text encoder with these settings can read.

    ValueError unless it is whole and fits the text encoder.
    """
    tokenizer = CLIPTokenizer.from_pretrained(location, subfolder="tokenizer", trust_remote_code=False)
    if len(tokenizer) < 256:  # transformers makes an empty one of missing files
        raise ValueError("there is no tokenizer/vocab.json or tokenizer.json")
    if tokenizer.pad_token is None:
        raise ValueError("it has no pad_token")
    largest = max(tokenizer.get_vocab().values())
    if largest >= text_encoder["vocab_size"]:
        raise ValueError(f"it has a token {largest}, and the text encoder knows {text_encoder['vocab_size']}")
    limit = tokenizer.model_max_length
    if not isinstance(limit, int | float) or limit < 3:  # start, a token, end
        raise ValueError(f"model_max_length is {limit!r}, not a number of tokens")
    tokenizer.model_max_length = int(min(limit, text_encoder["max_position_embeddings"]))
    return tokenizer


def load_schedule(source: str, prediction_type: str = "auto") -> Mapping[str, Any] | None:
    """The configuration of a model's scheduler alone; see load_parts. None if it can't be read: loading the model says
    why."""
    if source in BUILT_BY_CODE:
        return tiny.build_scheduler().config

    if path := single_file_path(source):
        with contextlib.suppress(UserError):
            return single_file.build_scheduler(single_file.inspect(path), prediction_type).config
        return None
    location = local_folder(source) or source
    with contextlib.suppress(Exception):  # whatever the libraries raise
        return load_scheduler(location, {}).config
    return None


def quiet_libraries() -> None:
    """Turn off progress bars and notes of diffusers, transformers and huggingface_hub: our scripts print their own."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity(logging.CRITICAL)  # what matters of it is raised, too
        library.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
