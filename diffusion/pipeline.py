"""Load a Stable Diffusion 1.x model: from a hub id, a pipeline folder, the bundled miniature, or built by code.

A model is always the five parts that StableDiffusionPipeline holds. A saved version of a run is a pipeline folder, too;
`mini` is the one in mini_sd/, and BUILT_BY_CODE have the same classes with random weights.
"""

from __future__ import annotations

import pathlib
from typing import Any

import diffusers
import huggingface_hub
import torch
import transformers
from diffusers import StableDiffusionPipeline
from diffusers.configuration_utils import FrozenDict
from safetensors import SafetensorError
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from common.errors import UserError
from common.manifest import require_intact
from diffusion import sd15, tiny
from diffusion.parts import Parts

# What diffusers and transformers raise for a missing, damaged or different model
LIBRARY_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
BUILT_BY_CODE = ("tiny", "sd15-random")  # models that need no files; tiny.py, sd15.py
DAMAGED = "bring that file back, or use another version; resuming its run makes the latest version again"
MINI = pathlib.Path(__file__).parent.parent / "mini_sd"  # the bundled miniature, a pipeline folder


def load_parts(source: str, checked: bool = False) -> Parts:
    """The model `source`: 'mini', one of BUILT_BY_CODE, a pipeline folder or a hub id; in fp32, on the CPU, frozen.

    checked: whether its files were compared with their manifest already. UserError if it is not available, incomplete
    or damaged, with what was tried and what to do instead.
    """
    quiet_libraries()
    if source == "tiny":
        return build_tiny().freeze()
    if source == "sd15-random":
        return Parts(*sd15.build()).freeze()

    location = local_folder(source) or source
    if isinstance(location, pathlib.Path) and not checked:
        require_intact(location, DAMAGED)
    try:
        index = StableDiffusionPipeline.load_config(location)
        unet = load_network(diffusers.UNet2DConditionModel, location, "unet", dtype=torch.float32)
        vae = load_network(diffusers.AutoencoderKL, location, "vae", dtype=torch.float32)
        text_encoder = load_network(CLIPTextModel, location, "text_encoder", dtype=torch.float32)
        scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(location, subfolder="scheduler")
        require_one_model(unet.config, vae.config, text_encoder.config)
        if "beta_start" not in scheduler.config:
            raise ValueError("it is not a Stable Diffusion 1.x model")
    except (*LIBRARY_ERRORS, SafetensorError) as problem:
        raise UserError(load_error_message(source, problem)) from None
    return Parts(load_tokenizer(source), text_encoder, vae, unet, scheduler).freeze()


def require_one_model(unet: FrozenDict, vae: FrozenDict, text_encoder: CLIPTextConfig) -> None:
    """ValueError unless networks with these configs fit together as those of Stable Diffusion 1.x do."""
    channels = unet.in_channels, unet.out_channels, vae.latent_channels
    if unet.cross_attention_dim != text_encoder.hidden_size or len(set(channels)) > 1:
        raise ValueError("it is not a Stable Diffusion 1.x model")


def build_tiny() -> Parts:
    """The model `tiny`: the same weights every time."""
    return Parts(*tiny.build())


def load_network(cls: type[torch.nn.Module], location: pathlib.Path | str, name: str, **kwargs: Any) -> torch.nn.Module:
    """One network of a pipeline. ValueError if its file lacks weights: the libraries would make them up."""
    network, info = cls.from_pretrained(
        location, subfolder=name, use_safetensors=True, output_loading_info=True, **kwargs
    )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{name} lacks {len(missing)} weights, such as {missing[0]}")
    return network


def load_tokenizer(source: str) -> CLIPTokenizer:
    """The tokenizer of `source` alone, without the networks. UserError if it is not available."""
    quiet_libraries()
    if source in BUILT_BY_CODE:
        return tiny.build_tokenizer()

    location = local_folder(source) or source
    try:
        StableDiffusionPipeline.load_config(location)  # fails fast where the hub can't be reached
        return require_vocabulary(CLIPTokenizer.from_pretrained(location, subfolder="tokenizer"))
    except LIBRARY_ERRORS as problem:
        raise UserError(load_error_message(source, problem)) from None


def require_vocabulary(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """Returns the tokenizer. ValueError if its vocabulary is empty: transformers makes such a one of missing files."""
    if len(tokenizer) < 256:
        raise ValueError("there is no tokenizer/vocab.json or tokenizer.json")
    return tokenizer


def local_folder(source: str) -> pathlib.Path | None:
    """The folder that `source` names, or None if it is a hub id. UserError if it is neither."""
    if source == "mini":
        return MINI
    folder = pathlib.Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise UserError(
                f"{folder} is not a Stable Diffusion pipeline: it has no model_index.json; "
                "give the folder that holds unet/, vae/, text_encoder/ and tokenizer/"
            )
        return folder
    if folder.exists() or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"--pretrained_model {source}: no such folder, and not a hub id such as owner/name")
    return None


def load_error_message(source: str, problem: Exception) -> str:
    """One line for a model that did not load: the libraries' reason, and what to do about it."""
    reason = " ".join(str(problem).split())[:300]
    if local_folder(source):
        return f"can't load a Stable Diffusion 1.x pipeline with safetensors weights from {source}: {reason}"
    reason = reason.split(" To enable repo look-ups")[0]  # advice that is meant for programmers
    return (
        f"can't get '{source}': it is no folder here, not in the Hugging Face cache, and the hub said: {reason} -- "
        f"on a machine with internet run `hf download {source} --local-dir DIR`, bring DIR here and give "
        "--pretrained_model DIR; or try things out with --pretrained_model mini --resolution 128x192"
    )


def quiet_libraries() -> None:
    """Turn off progress bars and notes of diffusers, transformers and huggingface_hub: our scripts print their own."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
