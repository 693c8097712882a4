"""Generate images from prompts: samplers by name, fixed starting latents.

An image is a function of (weights, prompt, seed, row, steps, guidance_scale, scheduler, size): never of the batch it
was drawn in, of its index there, or of what was drawn before.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch

import config
from common import randomness
from diffusion import encoding
from diffusion.noise import normal
from diffusion.parts import Parts


def make_sampler(schedule_config: Mapping[str, Any], name: str) -> diffusers.SchedulerMixin:
    """The sampler (a diffusers scheduler) called `name`, with the noise schedule of another scheduler's config.

    dpm++: DPM-Solver++(2M), arXiv:2211.01095; ddim: arXiv:2010.02502 with eta 0; pndm: arXiv:2202.09778;
    euler: algorithm 2 of arXiv:2206.00364 without churn. Nothing but the noise schedule is taken from the config:
    with from_config, a scheduler read from disk would keep settings (timestep_spacing) that one from the hub leaves
    open, and v0 would be sampled differently from v1.
    """
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    schedule = {key: schedule_config[key] for key in keys}
    if name == "dpm++":
        return diffusers.DPMSolverMultistepScheduler(**schedule, algorithm_type="dpmsolver++")
    if name == "euler":
        return diffusers.EulerDiscreteScheduler(**schedule)
    # as in Stable Diffusion 1.x
    spacing = dict(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
    if name == "ddim":
        return diffusers.DDIMScheduler(**schedule, **spacing, clip_sample=False)
    if name == "pndm":
        return diffusers.PNDMScheduler(**schedule, **spacing, skip_prk_steps=True)
    raise ValueError(f"no sampler {name!r}")


def starting_latents(parts: Parts, seed: int, rows: Sequence[int], size: tuple[int, int]) -> torch.Tensor:
    """Fixed standard normal latents float32 (len(rows), 4, H/8, W/8), on the CPU: a function of (seed, row) alone.

    size: (width, height) in pixels.
    """
    return normal(seed, randomness.DRAWING, rows, encoding.latent_shape(parts, size))


@torch.inference_mode()
def draw_images(
    parts: Parts,
    prompts: Sequence[str],
    rows: Sequence[int],
    options: config.TrainingOptions | config.InferenceOptions | config.ReportOptions,
    version: str = "the model",
) -> torch.Tensor:
    """Generate one image for each prompt: uint8 (B, H, W, 3) on the CPU. rows: which fixed latents each starts from.

    version: what draws, for messages. NotFinite (a UserError) if an image has values that are NaN or infinite.

    All of our samplers are deterministic, so the latents are the only random numbers. Matrix products round differently
    with the batch size, so on a CPU, where batches gain little, each image is computed by itself: the same bytes
    whatever else is drawn. On a GPU they are one batch, equal but for that rounding.
    """
    pipeline = parts.pipeline()
    pipeline.scheduler = make_sampler(parts.scheduler.config, options.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    width, height = size = config.size(options)
    batch_size = 1 if parts.unet.device.type == "cpu" else len(prompts)
    images = []
    for first in range(0, len(prompts), batch_size):
        chunk = slice(first, first + batch_size)
        latents = pipeline(
            list(prompts[chunk]),
            width=width,
            height=height,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
            latents=starting_latents(parts, options.seed, rows[chunk], size).to(parts.unet.device, parts.unet.dtype),
            output_type="latent",
            return_dict=False,
        )[0]
        try:
            images.append(encoding.decode_latents(parts.vae, latents, options.vae_tiling))
        except encoding.NotFinite as problem:
            i = first + problem.index
            prompt = textwrap.shorten(prompts[i], 100, placeholder=" ...")
            raise encoding.NotFinite(
                f"{version}, row {rows[i]}, prompt {prompt!r}: {problem}, so there is no picture: "
                f"{not_finite_remedy(parts)}",
                i,
            ) from None
    return torch.cat(images)


def not_finite_remedy(parts: Parts) -> str:
    """What to do if these networks draw a picture with values that are not finite."""
    dtype = parts.vae.dtype  # the autoencoder is never trained, so its precision is that of drawing
    if dtype == torch.float32:
        return "these weights are damaged, or their training diverged: take another version"
    cause = "fp16 overflows easily" if dtype == torch.float16 else "half precision may be the cause"
    return f"{cause}, try --mixed_precision no; if that changes nothing, the weights are damaged: take another version"
