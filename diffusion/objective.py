"""The denoising loss that Stable Diffusion 1.x is trained with, as pure functions: no random numbers, no state.

Noise and timesteps are arguments; diffusion/noise.py draws them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr

from common.errors import UserError
from diffusion.lettering import near_letters


@dataclass(frozen=True)
class LossSettings:
    """How a prediction's error becomes a loss. By default the mean squared error, every timestep weighing alike."""

    snr_gamma: float | None = None  # min_snr_weights
    debiased: bool = False  # debiased_weights
    huber_c: float | None = None  # pseudo_huber in place of the square
    letter_weight: float = 1  # letter_weights


PLAIN = LossSettings()


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


def debiased_weights(noise_scheduler: DDPMScheduler, timesteps: torch.Tensor) -> torch.Tensor:
    """float32 (B,): loss weights 1 / sqrt(SNR) for epsilon, sqrt(SNR) / (SNR + 1) for v.

    Yu et al., Debias the Training of Diffusion Models, arXiv:2310.08442: the picture that follows from a predicted
    noise has the error of that noise divided by SNR, so steps with much noise are underrated. The paper is about
    epsilon; its weight is sqrt(SNR) on the squared error of the picture, and that of v is (SNR + 1) times the
    picture's, which gives the second form (as in min_snr_weights). Finite also at SNR 0: there v has weight 0, and
    epsilon, which can be read off the input and says nothing of the picture, too.
    """
    snr = compute_snr(noise_scheduler, timesteps)
    if noise_scheduler.config.prediction_type == "v_prediction":
        return snr.sqrt() / (snr + 1)
    return torch.where(snr > 0, snr.rsqrt(), 0)


def pseudo_huber(error: torch.Tensor, c: float) -> torch.Tensor:
    """2 c (sqrt(error^2 + c^2) - c), elementwise: error^2 where it is small against c, 2 c |error| where it is large.

    Khrapov et al., Improving Diffusion Models's Data-Corruption Resistance using Scheduled Pseudo-Huber Loss,
    arXiv:2403.16728, with a constant c; the scale is that of diffusers' examples, so for large c it is error^2. Written
    without the difference, which float32 would lose for large c.
    """
    return 2 * error.square() / (1 + (1 + (error / c).square()).sqrt())


def letter_weights(pages: torch.Tensor, factor: int, weight: float) -> torch.Tensor:
    """float32 (B, 1, H / factor, W / factor): loss weights of latent places, `weight` within one place of a letter, 1
    elsewhere.

    pages: uint8 (B, 1, H, W), 0 = nothing; factor: pixels of a latent place's side. A letter's pixels also change the
    latents next to its own, hence the places around it, diagonal ones included.
    """
    return 1 + (weight - 1) * near_letters((pages > 0).float(), factor, reach=1)


def loss(
    unet: UNet2DConditionModel,
    noise_scheduler: DDPMScheduler,
    latents: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    settings: LossSettings = PLAIN,
    place_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The denoising loss of each sample, float32 (B,).

    latents, noise: float32 (B, 4, H/8, W/8), latents scaled; encoder_hidden_states: (B, 77, C); timesteps: int64 (B,),
    0 ... 999. Mean squared error (or pseudo-Huber loss) between the UNet's prediction from
    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise and `target` (Ho et al., arXiv:2006.11239, eq. 14),
    weighted by `min_snr_weights` or `debiased_weights`. place_weights: of latent places, float32 (B, 1, H/8, W/8).
    """
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    dtype = next(unet.parameters()).dtype
    prediction = unet(noisy_latents.to(dtype), timesteps, encoder_hidden_states.to(dtype), return_dict=False)[0]
    error = prediction.float() - target(noise_scheduler, latents, noise, timesteps).float()
    values = error.square() if settings.huber_c is None else pseudo_huber(error, settings.huber_c)
    if settings.debiased:
        weights = debiased_weights(noise_scheduler, timesteps)
    else:
        weights = min_snr_weights(noise_scheduler, timesteps, settings.snr_gamma)
    if place_weights is not None:
        values = values * place_weights
    return values.mean(dim=(1, 2, 3)) * weights
