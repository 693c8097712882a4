"""A batch -> the loss of each sample: encoding, noise, and the denoising objective. Training, validation and the memory
forecast compute it here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler

import config
from common import randomness
from diffusion import encoding, objective
from diffusion.lettering import lettering_pages
from diffusion.lora_dropout import KeyedDropout
from diffusion.noise import normal, training_noise, uniform_timesteps
from diffusion.objective import PLAIN, LossSettings
from diffusion.parts import Parts

# pixel_values float32 (B, 3, H, W) in [-1, 1], or with cached latents moments float16 (B, 2, 4, H/8, W/8); input_ids
# int64 (B, 77), or (B, N, 77) for prompts of N chunks, or with cached text hidden_states (B, N * 77, C). For a model
# with lettering also page: uint8 (B, 1, H, W)
Batch = dict[str, torch.Tensor]


def loss_settings(options: config.TrainingOptions) -> LossSettings:
    """The settings of the loss that these options ask for, in training."""
    huber_c = options.huber_c if options.loss == "huber" else None
    return LossSettings(options.snr_gamma, options.debiased_loss, huber_c, options.letter_loss_weight)


@dataclass
class Objective:
    """The denoising loss of a model. Shapes are Stable Diffusion 1.x's; see diffusion/encoding.py."""

    parts: Parts
    noise_scheduler: DDPMScheduler  # the forward process
    device: torch.device
    autocast: Callable[[], AbstractContextManager[None]]  # mixed precision
    seed: int
    settings: LossSettings = PLAIN  # of the loss in training; validation's is always plain
    noise_offset: float = 0  # in training alone
    adapter_dropout: KeyedDropout | None = None  # its masks belong to samples, as the noise does
    clip_skip: int = 1  # see encoding.encode_text

    def losses(
        self,
        batch: Batch,
        posterior_noise: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        settings: LossSettings = PLAIN,
    ) -> torch.Tensor:
        """float32 (B,): the loss of each sample; see objective.loss.

        posterior_noise, noise: standard normal float32 (B, 4, H/8, W/8); timesteps: int64 (B,).
        """
        vae = self.parts.vae
        send = functools.partial(torch.Tensor.to, device=self.device, non_blocking=True)  # no wait for it
        with self.autocast():
            if "moments" in batch:
                mean, std = send(batch["moments"]).float().unbind(1)
            else:
                mean, std = encoding.posterior(vae, send(batch["pixel_values"]))
            latents = encoding.draw_latents(vae, mean, std, send(posterior_noise))
            if "hidden_states" in batch:
                encoder_hidden_states = send(batch["hidden_states"])
            else:
                input_ids = send(batch["input_ids"])
                encoder_hidden_states = encoding.encode_text(self.parts.text_encoder, input_ids, self.clip_skip)
            page = send(batch["page"]) if "page" in batch else None
            place_weights = None
            if page is not None and settings.letter_weight != 1:
                place_weights = objective.letter_weights(page, self.parts.factor, settings.letter_weight)
            with lettering_pages(self.parts, page):
                return objective.loss(
                    self.parts.unet,
                    self.noise_scheduler,
                    latents,
                    encoder_hidden_states,
                    send(noise),
                    send(timesteps),
                    settings,
                    place_weights,
                )

    def training_losses(self, batch: Batch, sample_indexes: Sequence[int]) -> torch.Tensor:
        """float32 (B,): losses with the noise and the timesteps that belong to these sample indexes, weighted."""
        shape = self.latent_shape(batch)
        if self.adapter_dropout:
            self.adapter_dropout.samples = sample_indexes
        return self.losses(
            batch,
            normal(self.seed, randomness.POSTERIOR, sample_indexes, shape),
            training_noise(self.seed, sample_indexes, shape, self.noise_offset),
            uniform_timesteps(self.seed, sample_indexes, self.noise_scheduler.config.num_train_timesteps),
            self.settings,
        )

    def latent_shape(self, batch: Batch) -> tuple[int, ...]:
        """(4, H/8, W/8) of the latents of a batch."""
        if "moments" in batch:
            return tuple(batch["moments"].shape[2:])
        height, width = batch["pixel_values"].shape[2:]
        return encoding.latent_shape(self.parts, (width, height))


def make_objective(
    parts: Parts, options: config.TrainingOptions, accelerator: Any, dropout: KeyedDropout | None
) -> Objective:
    """The Objective that these options ask for. accelerator: has device and autocast; dropout: of adapters."""
    return Objective(
        parts,
        parts.noise_scheduler,
        accelerator.device,
        accelerator.autocast,
        options.seed,
        loss_settings(options),
        options.noise_offset,
        dropout,
        options.clip_skip,
    )
