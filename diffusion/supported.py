"""Which models can be trained and drawn here: Stable Diffusion 1.x, and 2.x, which has the same parts. A model's
configurations show it, before any weights are read."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import diffusers
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig

from common.errors import UserError
from diffusion.source import GIVE_ANOTHER, library_errors_as_one_line

Configs = dict[str, dict[str, Any]]  # {network: {setting: value}}

# Pipelines with the five parts of Stable Diffusion, and the classes of these
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionControlNetPipeline")
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
# Settings of a UNet that takes more than noisy latents, timestep and text -> what such a model is
OTHER_INPUTS = {
    "time_cond_proj_dim": "a latent consistency model (LCM), distilled to draw in a few steps",
    "class_embed_type": "a model that also takes the embedding of an image or a class, as unCLIP does",
    "num_class_embeds": "a model that also takes a class, as the upscalers of Stable Diffusion do",
    "encoder_hid_dim": "a model that projects its conditions, as Kandinsky and DeepFloyd IF do",
    "encoder_hid_dim_type": "a model that projects its conditions, as IP-Adapter, Kandinsky and DeepFloyd IF do",
}
MAX_TIMESTEPS = 100_000  # of a noise schedule; usually 1000
CHANNELS = {5: "a depth-to-image model", 7: "an upscaler", 8: "an InstructPix2Pix model", 9: "an inpainting model"}


def read_configs(source: str, location: pathlib.Path | str) -> tuple[dict[str, Any], Configs]:
    """(model_index.json, configurations of unet, vae and text_encoder) of the pipeline in `location`, a folder or hub
    id, that `source` names.

    UserError, saying what kind of model it is, unless it can be trained and drawn here.
    """
    index = read_index(source, location)
    configs = {}
    for name, cls in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL), ("text_encoder", CLIPTextConfig)):
        with library_errors_as_one_line(source, f"{name}/config.json"):
            require_file(location, f"{name}/config.json")
            read = cls.load_config if name != "text_encoder" else read_text_config
            configs[name] = require_object(read(location, subfolder=name))
    for what in (other_kind(configs), unusable_setting(configs)):
        if what:
            raise UserError(f"{source} can't be used here: {what}; {GIVE_ANOTHER}")
    return index, configs


def read_index(source: str, location: pathlib.Path | str) -> dict[str, Any]:
    """model_index.json. UserError unless it is that of a Stable Diffusion pipeline."""
    with library_errors_as_one_line(source, "model_index.json"):
        index = require_object(StableDiffusionPipeline.load_config(location))
        pipeline = index.get("_class_name", PIPELINES[0])
        parts = {name: class_in(index, name) for name in CLASSES}
    if pipeline not in PIPELINES or "text_encoder_2" in index:
        raise UserError(f"{source} can't be used here: it is a {pipeline}; {GIVE_ANOTHER}")
    for name, found in parts.items():
        if found not in CLASSES[name]:
            raise UserError(
                f"{source} can't be used here: its {name} is {found or 'missing'}, not a {CLASSES[name][0]}; "
                f"{GIVE_ANOTHER}"
            )
    return index


def class_in(index: dict[str, Any], name: str) -> str | None:
    """The class that model_index.json names for a part; None if there is no such part. ValueError for another shape."""
    entry = index.get(name, [None, None])
    if not (isinstance(entry, list | tuple) and len(entry) == 2 and all(isinstance(x, str | None) for x in entry)):
        raise ValueError(f"{name} is {entry!r}, not [library, class]")
    return entry[1]


def read_text_config(location: pathlib.Path | str, subfolder: str) -> dict[str, Any]:
    """Settings of a text encoder, with defaults; ValueError if it is not CLIP's."""
    plain = require_object(CLIPTextConfig.get_config_dict(location, subfolder=subfolder)[0])
    kind = plain.get("model_type", "clip_text_model")
    if not str(kind).startswith("clip"):
        raise ValueError(f"the text encoder is of the kind {kind}, not CLIP's")
    return CLIPTextConfig.from_pretrained(location, subfolder=subfolder).to_dict()


def require_file(location: pathlib.Path | str, file: str) -> None:
    """ValueError if a folder lacks the file; nothing for a hub id."""
    if isinstance(location, pathlib.Path) and not (location / file).is_file():
        raise ValueError("there is no such file: bring the whole model")


def require_object(value: Any) -> dict[str, Any]:
    """Returns the dict. ValueError if a JSON file holds anything else."""
    if not isinstance(value, dict):
        raise ValueError(f"it must hold one JSON object, not {str(value)[:50]}")
    return value


def other_kind(configs: Configs) -> str | None:
    """What the model is, if it is of another kind than Stable Diffusion 1.x and 2.x; None if it is one of those."""
    unet, vae, text_encoder = (configs[name] for name in ("unet", "vae", "text_encoder"))
    embedding, latents = unet.get("addition_embed_type"), vae.get("latent_channels", 4)
    channels, width = unet.get("in_channels", 4), unet.get("cross_attention_dim", 1280)
    kind = unet.get("_class_name", "UNet2DConditionModel")
    if kind != "UNet2DConditionModel":
        return f"its denoising network is a {kind}"
    if embedding == "text_time":
        return "it is Stable Diffusion XL or its refiner, whose UNet also takes the image's size"
    if embedding not in (None, "text"):  # text: nothing but the prompt, as in `mini`
        return f"its UNet takes more than the prompt (addition_embed_type {embedding}), as Kandinsky's does"
    if unet.get("attention_type", "default") != "default":
        return "it is GLIGEN, whose UNet also takes boxes"
    for setting, what in OTHER_INPUTS.items():
        if unet.get(setting) is not None:
            return f"it is {what} ({setting} in unet/config.json)"
    if channels != latents or unet.get("out_channels", 4) != latents:
        what = CHANNELS.get(channels, "another kind of model") if latents == 4 else "another kind of model"
        return (
            f"it is {what}: its UNet takes {channels} channels and returns {unet.get('out_channels', 4)}, and its "
            f"autoencoder makes {latents}"
        )
    if width != text_encoder["hidden_size"]:
        return (
            f"its UNet expects text embeddings of width {width}, and its text encoder makes "
            f"{text_encoder['hidden_size']}: they are not of one model"
        )
    return None


def unusable_setting(configs: Configs) -> str | None:
    """What else in the configurations of a Stable Diffusion model makes it unusable; None if nothing does."""
    vae = configs["vae"]
    factor = vae.get("scaling_factor", 0.18215)
    if not isinstance(factor, int | float) or not 1e-9 < factor < 1e9:  # latents are multiplied and divided by it
        return f"scaling_factor in vae/config.json is {repr(factor)[:20]}, not a positive number of about 0.2"
    if vae.get("shift_factor") or vae.get("latents_mean") or vae.get("latents_std"):
        return "its autoencoder shifts the latents (shift_factor, latents_mean or latents_std in vae/config.json)"
    if (vae.get("in_channels", 3), vae.get("out_channels", 3)) != (3, 3):
        return "its autoencoder is not one of RGB images (in_channels, out_channels in vae/config.json)"
    for name, settings in configs.items():
        try:
            json.dumps(settings, allow_nan=False, default=str)
        except ValueError:
            return f"a number in {name}/config.json is not finite"
        if settings.get("quantization_config"):
            return f"the weights of its {name} are quantized: they can't be trained"
    return None


# ---------------------------------------------------------------------------------------------------------------------
# The noise schedule


def load_scheduler(location: pathlib.Path | str, index: dict[str, Any]) -> diffusers.SchedulerMixin:
    """The scheduler that a model comes with; ValueError if its noise schedule is not that of a diffusion model.

    Nothing here draws with it, but everything takes the noise schedule from its config. So if its class is unknown, or
    needs a package that is not here, it is a DDIMScheduler with the same settings.
    """
    require_file(location, "scheduler/scheduler_config.json")
    settings = require_object(DDIMScheduler.load_config(location, subfolder="scheduler"))
    count = settings.get("num_train_timesteps", 1000)
    if type(count) is not int or not 1 <= count <= MAX_TIMESTEPS:
        raise ValueError(f"num_train_timesteps is {repr(count)[:20]}, not a whole number from 1 to {MAX_TIMESTEPS}")
    name = class_in(index, "scheduler") or settings.get("_class_name")
    cls = getattr(diffusers, str(name), None)
    known = isinstance(cls, type) and issubclass(cls, diffusers.SchedulerMixin)
    scheduler = (cls if known else DDIMScheduler).from_config(settings)
    read = scheduler.config if known else settings  # a known class also has defaults
    if read.get("beta_start") is None and read.get("trained_betas") is None:
        raise ValueError(f"{name} has no beta_start: it is not the noise schedule of Stable Diffusion")
    require_noise_schedule(DDPMScheduler.from_config(scheduler.config))
    return scheduler


def require_noise_schedule(noise_scheduler: DDPMScheduler) -> None:
    """ValueError unless a schedule has num_train_timesteps betas in [0, 1], which add noise and leave some signal, and
    predicts what diffusers knows."""
    betas, count = noise_scheduler.betas, noise_scheduler.config.num_train_timesteps
    if len(betas) != count:
        raise ValueError(f"trained_betas has {len(betas)} values, and num_train_timesteps is {count}")
    if not ((betas >= 0) & (betas <= 1)).all():
        raise ValueError("its betas are not all between 0 and 1")
    signal = noise_scheduler.alphas_cumprod[-1].item()  # what is left of a picture's variance at the last timestep
    if signal == 1:
        raise ValueError("its betas are so small that they add no noise")
    if signal == 0 and not noise_scheduler.config.rescale_betas_zero_snr:  # no sampler could begin there
        raise ValueError("its betas leave no signal at the last timestep, and it does not say rescale_betas_zero_snr")
    prediction_type = noise_scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"prediction_type is {prediction_type!r}, not epsilon or v_prediction")
