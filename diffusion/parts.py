"""The five parts of a Stable Diffusion 1.x model, and which of them are trained."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

PARTS = ("unet", "text_encoder")  # what can learn; the autoencoder and the tokenizer always stay as they are


@dataclass
class Parts:
    """Tokenizer and networks of one Stable Diffusion 1.x model, with the schedule it was trained on."""

    tokenizer: object  # transformers.CLIPTokenizer
    text_encoder: torch.nn.Module  # CLIPTextModel: input_ids (B, 77) -> (B, 77, C)
    vae: torch.nn.Module  # AutoencoderKL: images (B, 3, H, W) in [-1, 1] <-> latents (B, 4, H/8, W/8)
    unet: torch.nn.Module  # UNet2DConditionModel
    scheduler: object  # the sampler that the model came with; versions are saved with it

    @property
    def noise_scheduler(self):
        """The forward process of the same schedule, a DDPMScheduler: alphas_cumprod (1000,), prediction_type."""

        return DDPMScheduler.from_config(self.scheduler.config)

    def pipeline(self):
        """A StableDiffusionPipeline around these very parts (nothing is copied); no safety checker."""

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def set_trainable(parts, learning=()):
    """Let just the named parts learn (see PARTS): they get requires_grad and train mode, all others neither."""
    for name in ("vae", *PARTS):
        learns = name in learning
        getattr(parts, name).requires_grad_(learns).train(learns)
    return parts


@contextlib.contextmanager
def eval_mode(parts):
    """Inside: no gradients, and every part in eval mode; after: train mode again for those that learn."""
    modes = {name: getattr(parts, name).training for name in PARTS}
    for name in modes:
        getattr(parts, name).eval()
    with torch.no_grad():
        yield
    for name, training in modes.items():
        getattr(parts, name).train(training)


def enable_checkpointing(parts, learning):
    """Gradient checkpointing wherever a backward pass goes through.

    The UNet needs it even when it is frozen, since the text encoder's gradient comes through it. diffusers checkpoints
    whenever gradients are on; transformers only in train mode, which a learning text encoder is in (see freeze).
    """
    parts.unet.enable_gradient_checkpointing()
    if "text_encoder" in learning:
        parts.text_encoder.activation_checkpointing_enable({"use_reentrant": False})
