"""Drawing covers: the sampler by name, one generator for each row, grids of pictures.

A cover is a function of (model version, prompt, seed, row, steps, guidance_scale, scheduler, size): never of the batch
it was drawn in, of its place there, or of what was drawn before.
"""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont

import config
from common import files
from diffusion import objective, pipeline
from diffusion import pipeline as diffusion_pipeline


def make_sampler(config, name):
    """The diffusers scheduler called `name` on the noise schedule of `config`.

    dpm++: DPM-Solver++(2M), arXiv:2211.01095; ddim: arXiv:2010.02502 with eta 0; pndm: arXiv:2202.09778;
    euler: algorithm 2 of arXiv:2206.00364 without churn. Nothing but the noise schedule is taken from config: with
    from_config, a scheduler read from disk would keep settings (timestep_spacing) that one from the hub leaves open,
    and v0 would be drawn in another way than v1.
    """
    import diffusers

    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    schedule = {key: config[key] for key in keys}
    if name == "dpm++":
        return diffusers.DPMSolverMultistepScheduler(**schedule, algorithm_type="dpmsolver++")
    if name == "euler":
        return diffusers.EulerDiscreteScheduler(**schedule)
    # as Stable Diffusion 1.x has them
    spacing = dict(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
    if name == "ddim":
        return diffusers.DDIMScheduler(**schedule, **spacing, clip_sample=False)
    return diffusers.PNDMScheduler(**schedule, **spacing, skip_prk_steps=True)


def starting_latents(parts, seed, rows, size):
    """Fixed standard normal latents float32 (len(rows), 4, H/8, W/8): a function of (seed, row) alone."""
    return objective.normal(seed, objective.DRAWING, rows, pipeline.latent_shape(parts, size))


@torch.inference_mode()
def draw(parts, prompts, rows, options):
    """Draw one cover for each prompt: uint8 (B, H, W, 3) on the CPU. rows: which fixed latents each one starts from.

    options: any class with DrawingOptions' fields, seed and resolution.

    All of our samplers are deterministic, so the latents are the only random numbers there are. Matrix products round
    differently with the number of rows, so on a CPU, where batches gain little, each cover is computed by itself: the
    same bytes whatever is drawn beside it. On a GPU they go together, equal but for that rounding.
    """
    pipeline = parts.pipeline()
    pipeline.scheduler = make_sampler(parts.scheduler.config, options.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    width, height = size = config.size(options)
    at_once = 1 if parts.unet.device.type == "cpu" else len(prompts)
    images = []
    for first in range(0, len(prompts), at_once):
        chunk = slice(first, first + at_once)
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
        images.append(diffusion_pipeline.decode_latents(parts.vae, latents, options.vae_tiling))
    return torch.cat(images)


def save_png(path, image, hint="free some space or choose another --save_dir"):
    """Write a picture (uint8 (H, W, 3) or PIL image) as PNG, whole or not at all."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image.numpy())
    with files.publish(path, hint) as temporary:
        image.save(temporary, format="PNG")


def grid(images, columns, labels=()):
    """One PIL picture of many: uint8 images (N, H, W, 3) row by row, `columns` a row, each under its label.

    Pictures higher than 384 pixels are shrunk to that height; those of less than half are enlarged, pixel by pixel, to
    be seen at all. Labels may be fewer than images, or none.
    """
    height, width = images.shape[1:3]
    scale = min(1, 384 / height) if height >= 192 else -(-192 // height)
    width, height = round(width * scale), round(height * scale)
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    text, gap = (16 if any(labels) else 0), 6
    lines = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (width + gap) + gap, lines * (height + text + gap) + gap), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(11)
    for i, image in enumerate(images):
        x = gap + i % columns * (width + gap)
        y = gap + i // columns * (height + text + gap)
        if i < len(labels):
            pen.text((x, y), shorten(labels[i], width, font), fill="black", font=font)
        page.paste(Image.fromarray(image.numpy()).resize((width, height), resampling), (x, y + text))
    return page


def shorten(text, width, font):
    """As much of a label as fits into `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
