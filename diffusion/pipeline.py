"""Where the parts of Stable Diffusion come from, which of them learn, and the way between images and latents.

A model is always the five parts that StableDiffusionPipeline holds. `load_parts` takes them from a hub id, a local
folder (a saved version of a run is one), takes the bundled `mini` (mini_sd/) or builds one of MADE_BY_CODE: the same
classes with random weights.

Shapes in docstrings are Stable Diffusion 1.x's: latents (B, 4, H/8, W/8), 77 tokens. `mini` has (B, 6, H/4, W/4), 40.
"""

from __future__ import annotations

import pathlib

import diffusers
import huggingface_hub
import torch
import transformers
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer

from common.errors import UserError
from diffusion import sd15, tiny
from diffusion.parts import Parts

LIBRARY_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)  # of a source that is bad
MADE_BY_CODE = ("tiny", "sd15-random")  # models that need no files; tiny.py, sd15.py
MINI = pathlib.Path(__file__).parent.parent / "mini_sd"  # the bundled miniature, a pipeline folder


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def load_parts(source):
    """The parts of `source`: 'mini', one of MADE_BY_CODE, a pipeline folder or a hub id; in fp32, on the CPU, frozen.

    UserError if it can't be had or is incomplete, with what was tried and what to do instead.
    """

    quiet_libraries()
    if source == "tiny":
        return build_tiny().freeze()
    if source == "sd15-random":
        return Parts(*sd15.build()).freeze()

    where = local_folder(source) or source
    try:
        index = diffusers.StableDiffusionPipeline.load_config(where)
        unet = load_network(diffusers.UNet2DConditionModel, where, "unet", dtype=torch.float32)
        vae = load_network(diffusers.AutoencoderKL, where, "vae", dtype=torch.float32)
        text_encoder = load_network(CLIPTextModel, where, "text_encoder", dtype=torch.float32)
        scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(where, subfolder="scheduler")
        require_one_model(unet.config, vae.config, text_encoder.config)
        if "beta_start" not in scheduler.config:
            raise ValueError("it is not a Stable Diffusion 1.x model")
    except (*LIBRARY_ERRORS, SafetensorError) as problem:
        raise UserError(cannot_load(source, problem)) from None
    return Parts(load_tokenizer(source), text_encoder, vae, unet, scheduler).freeze()


def require_one_model(unet, vae, text_encoder):
    """ValueError unless networks with these configs go together as those of Stable Diffusion 1.x do."""
    channels = unet.in_channels, unet.out_channels, vae.latent_channels
    if unet.cross_attention_dim != text_encoder.hidden_size or len(set(channels)) > 1:
        raise ValueError("it is not a Stable Diffusion 1.x model")


def build_tiny():
    """The Parts of `tiny`, the same weights every time."""

    return Parts(*tiny.build())


def load_network(cls, where, name, **kwargs):
    """One network of a pipeline. ValueError if its file lacks weights, which the libraries would make up."""
    network, info = cls.from_pretrained(where, subfolder=name, use_safetensors=True, output_loading_info=True, **kwargs)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{name} lacks {len(missing)} weights, such as {missing[0]}")
    return network


def load_tokenizer(source):
    """The CLIPTokenizer of `source` alone, without the networks. UserError if it can't be had."""

    quiet_libraries()
    if source in MADE_BY_CODE:
        return tiny.build_tokenizer()

    where = local_folder(source) or source
    try:
        StableDiffusionPipeline.load_config(where)  # fails at once where the hub can't be reached
        return require_vocabulary(CLIPTokenizer.from_pretrained(where, subfolder="tokenizer"))
    except LIBRARY_ERRORS as problem:
        raise UserError(cannot_load(source, problem)) from None


def require_vocabulary(tokenizer):
    """The tokenizer, if it has one; transformers makes an empty one where there are no files. ValueError."""
    if len(tokenizer) < 256:
        raise ValueError("there is no tokenizer/vocab.json or tokenizer.json")
    return tokenizer


def local_folder(source):
    """The folder that `source` names, or None if it is a hub id. UserError if it is a folder but not a pipeline."""
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


def cannot_load(source, problem):
    reason = " ".join(str(problem).split())[:300]
    if local_folder(source):
        return f"can't load a Stable Diffusion 1.x pipeline with safetensors weights from {source}: {reason}"
    reason = reason.split(" To enable repo look-ups")[0]  # advice to programmers
    return (
        f"can't get '{source}': it is no folder here, not in the Hugging Face cache, and the hub said: {reason} -- "
        f"on a machine with internet run `hf download {source} --local-dir DIR`, bring DIR here and give "
        "--pretrained_model DIR; or try things out with --pretrained_model mini --resolution 128x192"
    )


def quiet_libraries():
    """The libraries' own progress bars and notes off: our scripts say what is going on."""

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
