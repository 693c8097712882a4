"""Generate images from prompts: samplers by name, fixed starting latents.

An image is a function of (weights, prompt, negative prompt, seed, row, steps, guidance_scale, scheduler, size): never
of the batch it was drawn in, of its index there, or of what was drawn before.
"""

from __future__ import annotations

import dataclasses
import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffusers
import numpy as np
import torch

import config
from common import randomness
from common.errors import UserError
from diffusion import encoding
from diffusion.lettering import lettering_pages
from diffusion.noise import normal
from diffusion.parts import Parts


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler with our settings, which are deterministic, and what it can draw."""

    cls: type[diffusers.SchedulerMixin]
    settings: Mapping[str, Any]
    can_take: Callable[[int, int], bool]  # (number of steps, that of training timesteps)
    rule: str  # the same in words, N being the number of training timesteps
    zero_snr: Mapping[str, Any] | None  # more settings, for a schedule that ends without any signal; None: it can't


def in_whole_strides(steps: int, timesteps: int) -> bool:
    """Whether "leading" spacing works: timesteps 1, 1 + stride, 1 + 2 stride ..., with stride = timesteps // steps.

    One step would be at timestep 1, which is nearly a finished picture; as many steps as timesteps would begin beyond
    the last. What the strides leave out lies at the noisy end: 501 steps of 1000 begin at 501, where the UNet expects a
    picture and gets pure noise, which stays. A tenth may be left out (10 steps begin at 901, 30 at 958).
    """
    stride = timesteps // max(steps, 1)
    return steps > 1 and (steps - 1) * stride + 1 < timesteps and steps * stride >= 0.9 * timesteps


# As in Stable Diffusion 1.x; for zero SNR from the last timestep on, as in arXiv:2305.08891, section 3.3
LEADING = dict(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
TRAILING = dict(timestep_spacing="trailing", rescale_betas_zero_snr=True)
STRIDES = "at least 2, whose strides, a whole number of timesteps, cover nine tenths of N"

# dpm++: DPM-Solver++(2M), arXiv:2211.01095; euler: algorithm 2 of arXiv:2206.00364 without churn; ddim:
# arXiv:2010.02502 with eta 0; pndm: arXiv:2202.09778. The first two place their timesteps evenly from the last to 0:
# dpm++ rounds them, and stops one short of 0, so N steps would have one timestep twice; euler's single step would be 0.
# pndm divides by the signal, which a schedule with zero SNR ends without.
SAMPLERS = {
    "dpm++": Sampler(
        diffusers.DPMSolverMultistepScheduler,
        dict(algorithm_type="dpmsolver++"),
        lambda steps, timesteps: 1 <= steps < timesteps,
        "1 to N - 1",
        dict(rescale_betas_zero_snr=True),
    ),
    "euler": Sampler(
        diffusers.EulerDiscreteScheduler,
        {},
        lambda steps, timesteps: 2 <= steps <= timesteps,
        "2 to N",
        dict(rescale_betas_zero_snr=True),
    ),
    "ddim": Sampler(diffusers.DDIMScheduler, dict(**LEADING, clip_sample=False), in_whole_strides, STRIDES, TRAILING),
    "pndm": Sampler(diffusers.PNDMScheduler, dict(**LEADING, skip_prk_steps=True), in_whole_strides, STRIDES, None),
}


def make_sampler(schedule_config: Mapping[str, Any], name: str) -> diffusers.SchedulerMixin:
    """The sampler (a diffusers scheduler) called `name`, with the noise schedule of another scheduler's config.

    Nothing but the noise schedule is taken from the config: with from_config, a scheduler that was saved with all of
    its defaults (timestep_spacing) would be sampled differently from one that leaves them open.
    """
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    sampler = SAMPLERS[name]
    more = sampler.zero_snr or {} if schedule_config.get("rescale_betas_zero_snr") else {}
    return sampler.cls(**{key: schedule_config[key] for key in keys}, **{**sampler.settings, **more})


def require_drawable(schedule_config: Mapping[str, Any], scheduler: str, steps: int, otherwise: str = "") -> None:
    """UserError unless `scheduler` can draw with a model of this noise schedule in so many steps.

    otherwise: what else can be done, for the message.
    """
    sampler, timesteps = SAMPLERS[scheduler], schedule_config.get("num_train_timesteps", 1000)
    if not sampler.can_take(steps, timesteps):
        possible = [n for n in range(1, timesteps + 1) if sampler.can_take(n, timesteps)]
        nearest = min(possible, key=lambda n: abs(n - steps), default=None)
        give = f"give --steps {nearest}, or another --scheduler" if nearest else "give another --scheduler"
        raise UserError(
            f"--scheduler {scheduler} can't draw in {steps} steps; it takes {sampler.rule}, and this model has "
            f"N = {timesteps} training timesteps: {give}{otherwise}"
        )
    if schedule_config.get("rescale_betas_zero_snr"):  # arXiv:2305.08891: the last timestep is noise alone
        if schedule_config.get("prediction_type", "epsilon") == "epsilon":
            raise UserError(
                "this model can't be drawn: its scheduler says rescale_betas_zero_snr, so it begins with noise alone, "
                "and prediction_type epsilon, from which no picture follows there; such models predict v_prediction: "
                f"give --prediction_type v_prediction, or correct its scheduler/scheduler_config.json{otherwise}"
            )
        if sampler.zero_snr is None:
            raise UserError(
                f"--scheduler {scheduler} can't draw with this model, whose schedule ends at zero signal "
                f"(rescale_betas_zero_snr): give another --scheduler{otherwise}"
            )


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
    negative_prompt: str | None = None,
    pages: Sequence[np.ndarray] | None = None,
) -> torch.Tensor:
    """Generate one image for each prompt: uint8 (B, H, W, 3) on the CPU. rows: which fixed latents each starts from.

    negative_prompt: of all of them; None: the empty prompt. version: what draws, for messages. pages: of a model with
    lettering, the glyph page of each, uint8 (H, W); None: no letters. NotFinite (a UserError) if an image has values
    that are NaN or infinite.

    All of our samplers are deterministic, so the latents are the only random numbers. Matrix products round differently
    with the batch size, so on a CPU, where batches gain little, each image is computed by itself: the same bytes
    whatever else is drawn. On a GPU they are one batch, equal but for that rounding.
    """
    require_drawable(parts.scheduler.config, options.scheduler, options.steps)
    pipeline = parts.pipeline()
    pipeline.scheduler = make_sampler(parts.scheduler.config, options.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    width, height = size = config.size(options)
    batch_size = 1 if parts.unet.device.type == "cpu" else len(prompts)
    encode = functools.partial(
        encoding.encode_prompts,
        parts.tokenizer,
        parts.text_encoder,
        max_tokens=options.max_tokens,
        clip_skip=options.clip_skip,
    )
    images = []
    for first in range(0, len(prompts), batch_size):
        chunk = slice(first, first + batch_size)
        latents = starting_latents(parts, options.seed, rows[chunk], size).to(parts.unet.device, parts.unet.dtype)
        page = None if pages is None else torch.from_numpy(np.stack(pages[chunk]))[:, None]
        with lettering_pages(parts, page):
            latents = pipeline(
                prompt_embeds=encode(prompts[chunk]),
                negative_prompt_embeds=encode([negative_prompt or ""] * len(prompts[chunk]))
                if options.guidance_scale > 1
                else None,
                width=width,
                height=height,
                num_inference_steps=options.steps,
                guidance_scale=options.guidance_scale,
                latents=latents,
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
