"""The training objective as pure functions, and the random numbers it takes.

Every random number is a function of (seed, what it is for, position): numpy's default_rng over that list of integers
(SeedSequence hashes it). No global generator is ever used, so a resumed run draws what the unbroken one would have.
Positions count training samples from the first of epoch 0; they do not depend on batch size or number of GPUs.
"""

from __future__ import annotations

import torch
from diffusers.training_utils import compute_snr

from common.errors import UserError


def require_trainable(noise_scheduler):
    """UserError unless the model predicts what `target` knows."""
    prediction_type = noise_scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(f"this model predicts '{prediction_type}', and only epsilon and v_prediction can be trained")


def target(noise_scheduler, latents, noise, timesteps):
    """What the UNet should predict, shaped like latents: the noise (arXiv:2006.11239) or v (arXiv:2202.00512)."""
    require_trainable(noise_scheduler)
    if noise_scheduler.config.prediction_type == "epsilon":
        return noise
    return noise_scheduler.get_velocity(latents, noise, timesteps)


def min_snr_weights(noise_scheduler, timesteps, snr_gamma):
    """float32 (B,): loss weights min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v; ones if snr_gamma is None.

    Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy, arXiv:2303.09556, section 3.4.
    """
    if snr_gamma is None:
        return torch.ones_like(timesteps, dtype=torch.float32)
    snr = compute_snr(noise_scheduler, timesteps)
    divisor = snr + 1 if noise_scheduler.config.prediction_type == "v_prediction" else snr
    return snr.clamp(max=snr_gamma) / divisor


def loss(unet, noise_scheduler, latents, encoder_hidden_states, noise, timesteps, snr_gamma=None):
    """The denoising loss of each sample, float32 (B,).

    latents, noise (B, 4, H/8, W/8); encoder_hidden_states (B, 77, C); timesteps int64 (B,). Mean squared error between
    the UNet's prediction from x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise and `target` (Ho et al.,
    arXiv:2006.11239, eq. 14), weighted by `min_snr_weights`.
    """
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    dtype = next(unet.parameters()).dtype
    prediction = unet(noisy_latents.to(dtype), timesteps, encoder_hidden_states.to(dtype), return_dict=False)[0]
    error = prediction.float() - target(noise_scheduler, latents, noise, timesteps).float()
    return error.square().mean(dim=(1, 2, 3)) * min_snr_weights(noise_scheduler, timesteps, snr_gamma)
