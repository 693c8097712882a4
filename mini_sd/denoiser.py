"""The second stage: trains text encoder and UNet on posters with captions, with the project's own objective."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from common import randomness
from common.files import atomic_write
from diffusion import encoding, objective
from diffusion.noise import normal, uniform_timesteps
from diffusion.parts import Parts
from mini_sd import learning, pictures

STAGE = 2
SEED = 0
TEXT_LR = 1e-4  # peak of the text encoder; with more, the encodings of different captions converge
BATCH = 16
CAPTION_DROPOUT = 0.1


def build(tokenizer: CLIPTokenizer, vae: AutoencoderKL) -> Parts:
    """The Parts of mini with an untrained text encoder and UNet."""
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # The initialization of transformers (0.02, 0.01) is so small that the layers' biases soon dominate: after 250
    # updates all captions had nearly the same encoding, from which no UNet can learn.
    for name, p in text_encoder.named_parameters():
        for kind, std in (("token", 0.5), ("position", 0.1)):
            if name.endswith(f"{kind}_embedding.weight"):
                torch.nn.init.normal_(p, std=std)
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=48,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        block_out_channels=(32, 64, 128, 144),  # few channels at 48 x 32, most of the work at 24 x 16 and below
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=2,  # few, or normalization removes the brightness of a uniform image
        time_embedding_dim=256,
        addition_embed_type="text",  # the caption also enters every block through the timestep embedding
        addition_embed_type_num_heads=4,
    )
    torch.nn.init.zeros_(unet.conv_out.weight)  # the first prediction is 0
    torch.nn.init.zeros_(unet.conv_out.bias)
    unet.to(memory_format=torch.channels_last)
    scheduler = PNDMScheduler(  # as Stable Diffusion 1.5, but with v-prediction, as 2.0
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
    )
    return Parts(tokenizer, text_encoder, vae, unet, scheduler)


def encode_all(
    path: pathlib.Path,
    vae: AutoencoderKL,
    pixels: np.ndarray,
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Posterior means of all images uint8 (N, H, W, 3): float16 (N, C, H/4, W/4), cached in the file `path`.

    prepare: applied to images (n, H, W, 3) before they are encoded.
    """
    if not path.exists():
        parts = []
        with torch.inference_mode():
            for first in tqdm(range(0, len(pixels), 20), desc="encoding posters", unit="x20"):
                some = prepare(pixels[first : first + 20]) if prepare else pixels[first : first + 20]
                parts.append(vae.encode(pictures.to_tensor(some)).latent_dist.mean.half().numpy())
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.concatenate(parts))
    return np.load(path)


def halve(pixels: np.ndarray) -> np.ndarray:
    """Images uint8 (N, H, W, 3) at half the resolution: uint8 (N, H/2, W/2, 3), means of 2 x 2 pixels."""
    n, height, width, channels = pixels.shape
    squares = pixels.reshape(n, height // 2, 2, width // 2, 2, channels)
    return squares.mean((2, 4), dtype=np.float32).round().astype(np.uint8)


@torch.no_grad()
def standardize(vae: AutoencoderKL, latents: np.ndarray) -> None:
    """Changes vae and latents (N, C, h, w) in place so that each channel has mean 0 and variance 1, before scaling.

    Mean colours fill three channels with a standard deviation of 1.4, edges of objects and letters the others with 0.4.
    With one factor for all channels (arXiv:2112.10752, D.1), noise that leaves colours visible would hide all edges. So
    quant_conv and post_quant_conv, which are linear, absorb an affine map of each channel and its inverse: decoded
    images do not change.

    The scaling factor, autoencoder.DEVIATION, is below 1 because neighbouring latents of uniform images are equal. With
    unit variance their mean colour is visible through the noise of the last timestep (signal-to-noise ratio 0.005 for
    one latent, about 7 for the mean of 48 x 32), and a UNet takes colours from the initial noise, not from the prompt.
    Smaller latents shift the schedule towards noise: Chen, On the importance of noise scheduling for diffusion models,
    arXiv:2301.10972.
    """
    mean = torch.from_numpy(latents.mean((0, 2, 3), dtype=np.float64)).float()
    deviation = torch.from_numpy(latents.std((0, 2, 3), dtype=np.float64)).float()
    into, out, count = vae.quant_conv, vae.post_quant_conv, len(mean)
    into.weight[:count] /= deviation[:, None, None, None]
    into.bias[:count] = (into.bias[:count] - mean) / deviation
    into.bias[count:] -= 2 * deviation.log()  # log variances
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[None, :, None, None]
    latents -= mean[:, None, None].numpy().astype(latents.dtype)
    latents /= deviation[:, None, None].numpy().astype(latents.dtype)


def train(
    folder: pathlib.Path,
    parts: Parts,
    stages: Sequence[tuple[np.ndarray, int, float]],
    captions: Sequence[str],
    save_every: int = 250,
    bf16: bool = True,
) -> Parts:
    """Trains text encoder and UNet, which end as their exponential moving averages; resumes from <folder>/denoiser.pt.

    stages: [(latents float16 (N, C, h, w), steps, the UNet's peak learning rate), ...]. On images of half the
    resolution a step takes half the time, and the meaning of words is learned just as well.
    """
    total, last = sum(steps for _, steps, _ in stages), np.cumsum([steps for _, steps, _ in stages])
    trained = [parts.text_encoder.train(), parts.unet.train()]
    parameters = learning.parameters_of(trained)
    groups = [dict(params=list(module.parameters())) for module in trained]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = learning.make_ema(trained)
    path = folder / "denoiser.pt"
    done = learning.load(path, trained, ema, optimizer)
    limit, schedule = parts.tokenizer.model_max_length, parts.noise_scheduler
    tokens = parts.tokenizer(["", *captions], padding="max_length", truncation=True, max_length=limit)
    input_ids = torch.tensor(tokens["input_ids"])  # (1 + N, 40), the empty caption first
    log = open(folder / "denoiser.jsonl", "a", encoding="utf-8")  # noqa: SIM115
    with log, tqdm(total=total, initial=done, desc="denoiser", unit="step", mininterval=5) as bar:
        for step in range(done, total):
            began = time.process_time()
            latents, _, peak = stages[np.searchsorted(last, step, side="right")]
            for group, rate in zip(optimizer.param_groups, (TEXT_LR, peak), strict=True):
                group["lr"] = rate * learning.cosine(step, total)
            random, sample_indexes = learning.rng(STAGE, step), range(step * BATCH, (step + 1) * BATCH)
            rows = random.integers(len(captions), size=BATCH)
            dropped = random.random(BATCH) < CAPTION_DROPOUT
            x = torch.from_numpy(latents[rows].astype(np.float32)) * parts.vae.config.scaling_factor
            noise = normal(SEED, randomness.NOISE, sample_indexes, latents.shape[1:])
            timesteps = uniform_timesteps(SEED, sample_indexes, schedule.config.num_train_timesteps)
            # Unfused attention: with such small maps its backward pass is faster than the fused one
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16), sdpa_kernel(SDPBackend.MATH):
                text = encoding.encode_text(parts.text_encoder, input_ids[np.where(dropped, 0, rows + 1)])
                loss = objective.loss(parts.unet, schedule, x, text, noise, timesteps).mean()
                loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0).item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            ema.step(parameters)
            if step % 25 == 0:
                record = dict(step=step, loss=loss.item(), norm=norm, cpu=time.process_time() - began)
                print(json.dumps(record), file=log, flush=True)
                bar.set_postfix_str(f"loss {loss.item():.4f}")
            bar.update()
            if (step + 1) % save_every == 0 or step + 1 == total:
                learning.save(path, trained, ema, optimizer, step + 1)
    ema.copy_to(parameters)
    return parts.freeze()
