"""The denoising loss that Stable Diffusion 1.x is trained with, as pure functions: no random numbers, no state.

Noise and timesteps are arguments; diffusion/noise.py draws them.
"""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr

from common.errors import UserError


def require_supported_prediction_type(noise_scheduler: DDPMScheduler) -> None:
    """UserError unless the model predicts noise (epsilon) or velocity (v_prediction)."""
    prediction_type = noise_scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(f"this model predicts '{prediction_type}', and only epsilon and v_prediction can be trained")


def target(
    noise_scheduler: DDPMScheduler, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the UNet should predict, shaped like latents: the noise (arXiv:2006.11239) or v (arXiv:2202.00512).

    UserError for a model that predicts anything else.
    """
    require_supported_prediction_type(noise_scheduler)
    if noise_scheduler.config.prediction_type == "epsilon":
        return noise
    return noise_scheduler.get_velocity(latents, noise, timesteps)


def min_snr_weights(noise_scheduler: DDPMScheduler, timesteps: torch.Tensor, snr_gamma: float | None) -> torch.Tensor:
    """float32 (B,): loss weights min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v; ones if snr_gamma is None.

    Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy, arXiv:2303.09556, section 3.4. Finite also
    at SNR 0, the last timestep of a schedule with zero terminal SNR (arXiv:2305.08891): 1 for epsilon, 0 for v.
    """
    if snr_gamma is None:
        return torch.ones_like(timesteps, dtype=torch.float32)
    snr = compute_snr(noise_scheduler, timesteps)
    if noise_scheduler.config.prediction_type == "v_prediction":
        return snr.clamp(max=snr_gamma) / (snr + 1)
    return (torch.full_like(snr, snr_gamma) / snr).clamp(max=1)  # min(SNR, gamma) / SNR without 0 / 0


def loss(
    unet: UNet2DConditionModel,
    noise_scheduler: DDPMScheduler,
    latents: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    snr_gamma: float | None = None,
) -> torch.Tensor:
    """The denoising loss of each sample, float32 (B,).

    latents, noise: float32 (B, 4, H/8, W/8), latents scaled; encoder_hidden_states: (B, 77, C); timesteps: int64 (B,),
    0 ... 999. Mean squared error between the UNet's prediction from
    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise and `target` (Ho et al., arXiv:2006.11239, eq. 14),
    weighted by `min_snr_weights`.
    """
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    dtype = next(unet.parameters()).dtype
    prediction = unet(noisy_latents.to(dtype), timesteps, encoder_hidden_states.to(dtype), return_dict=False)[0]
    error = prediction.float() - target(noise_scheduler, latents, noise, timesteps).float()
    return error.square().mean(dim=(1, 2, 3)) * min_snr_weights(noise_scheduler, timesteps, snr_gamma)
