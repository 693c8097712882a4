"""A Stable Diffusion 1.x model in memory: its five parts, and the lettering that it may have; eval mode, gradient
checkpointing."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

PARTS = ("unet", "text_encoder")  # networks that can be trained, as a whole or by adapters; the autoencoder never is
NETWORKS = ("vae", *PARTS)  # of every model, in the order in which they are hashed
LETTERING = "lettering"  # the part beside the UNet that lettering.py has, and its folder in a version
TRAINABLE = (*PARTS, LETTERING)  # all that can be trained


@dataclass
class Parts:
    """Tokenizer and networks of one Stable Diffusion 1.x model, with the schedule it was trained on."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel  # input_ids (B, 77) -> (B, 77, C)
    vae: AutoencoderKL  # images (B, 3, H, W) in [-1, 1] <-> latents (B, 4, H/8, W/8)
    unet: UNet2DConditionModel  # noisy latents, timesteps (B,), (B, 77, C) -> (B, 4, H/8, W/8)
    scheduler: Any  # the diffusers scheduler that the model came with; versions are saved with it
    lettering: Any = None  # LetteringModel: what glyph pages add to the UNet's conv_in and conv_out; or None

    @property
    def networks(self) -> dict[str, Any]:
        """{name: network} of those that this model has: NETWORKS, and lettering."""
        networks = {name: getattr(self, name) for name in NETWORKS}
        return networks | ({LETTERING: self.lettering} if self.lettering is not None else {})

    @property
    def factor(self) -> int:
        """Pixels that the side of a latent place stands for: 8 in Stable Diffusion 1.x."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def noise_scheduler(self) -> DDPMScheduler:
        """The forward process of the same schedule: alphas_cumprod (1000,), prediction_type."""
        return DDPMScheduler.from_config(self.scheduler.config)

    def pipeline(self) -> Any:
        """A StableDiffusionPipeline of these networks (they are not copied), without a safety checker.

        diffusers corrects old schedulers' settings, and says so at length: quietly, and in a copy.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return StableDiffusionPipeline(
                vae=self.vae,
                text_encoder=self.text_encoder,
                tokenizer=self.tokenizer,
                unet=self.unet,
                scheduler=copy.copy(self.scheduler),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )

    def freeze(self) -> Parts:
        """Make no network trainable and put all in eval mode; returns self."""
        for network in self.networks.values():
            network.requires_grad_(False).eval()
        return self


@contextlib.contextmanager
def eval_mode(parts: Parts) -> Iterator[None]:
    """Inside: no gradients, all that can be trained in eval mode; after: train mode again for what was in it."""
    modes = {name: network.training for name, network in parts.networks.items() if name in TRAINABLE}
    for name in modes:
        getattr(parts, name).eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for name, training in modes.items():
            getattr(parts, name).train(training)


def turn_off_dropout(parts: Parts) -> dict[str, float]:
    """Set dropout to 0 in all that can be trained; returns {network: its highest dropout before} where it was above 0.

    torch draws dropout from a global generator: a resumed run would compute other gradients than an uninterrupted one,
    and two processes others than one. The networks' configurations keep the value.
    """
    found = {}
    for name in PARTS:
        for module in getattr(parts, name).modules():
            setting = "p" if isinstance(module, torch.nn.Dropout) else "dropout"  # CLIP's attention has a number
            value = vars(module).get(setting)
            if isinstance(value, int | float) and value > 0:
                setattr(module, setting, 0.0)
                found[name] = max(float(value), found.get(name, 0.0))
    return found


def enable_checkpointing(parts: Parts, trained: Sequence[str]) -> None:
    """Turn on gradient checkpointing in every network that a backward pass goes through.

    trained: names of the trained parts. The UNet needs it even when frozen, since the gradients of text encoder and
    lettering come through it. diffusers checkpoints whenever gradients are on; transformers only in train mode, which
    a trained text encoder is in.
    """
    parts.unet.enable_gradient_checkpointing()
    if "text_encoder" in trained:
        parts.text_encoder.activation_checkpointing_enable({"use_reentrant": False})
