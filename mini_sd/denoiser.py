"""The second stage: text encoder and UNet together, on posters with captions, by the project's own objective."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel

import diffusion
import models
from mini_sd import learning

STAGE = 2
SEED = 0
PEAK_LR = 6e-4
BATCH = 16
SNR_GAMMA = 5.0
CAPTION_DROPOUT = 0.1
DEVIATION = 0.25  # of scaled latents, see set_scaling_factor


def build(tokenizer, vae):
    """The models.Parts of mini, text encoder and UNet untrained."""
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
    unet = UNet2DConditionModel(
        sample_size=48,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    with torch.no_grad():
        unet.conv_out.weight.zero_()  # the first prediction is 0
        unet.conv_out.bias.zero_()
        for name, module in unet.named_modules():
            if name.endswith(("conv2", "proj_out")):  # the last of a residual branch
                module.weight *= 0.1
    unet.to(memory_format=torch.channels_last)
    scheduler = PNDMScheduler(  # as Stable Diffusion 1.5 has it
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return models.Parts(tokenizer, text_encoder, vae, unet, scheduler)


def encode_all(folder, vae, pixels):
    """Means of the posteriors of all pictures, float16 (N, C, H/4, W/4), kept in a file; their deviations are small."""
    path = folder / f"latents-{len(pixels)}.npy"
    if not path.exists():
        parts = []
        with torch.inference_mode():
            for first in tqdm(range(0, len(pixels), 20), desc="encoding posters", unit="x20"):
                x = torch.from_numpy(pixels[first : first + 20]).permute(0, 3, 1, 2).float() / 127.5 - 1
                parts.append(vae.encode(x).latent_dist.mean.half().numpy())
        unfinished = path.with_name("." + path.name)
        np.save(unfinished, np.concatenate(parts))
        os.replace(unfinished, path)
    return np.load(path)


def set_scaling_factor(vae, latents):
    """Scaled latents of posters get DEVIATION, not the unit deviation of latent diffusion (arXiv:2112.10752, D.1).

    In plain pictures all neighbours are alike. With unit deviation their mean colours would still show through the
    noise of the last timestep (signal to noise 0.005 a latent, but some 7 in the mean of 48 x 32 of them), and a UNet
    that learned so takes colours and places from the noise it starts with instead of from the prompt. Smaller latents
    shift the schedule towards noise: Chen, On the importance of noise scheduling for diffusion models,
    arXiv:2301.10972.
    """
    vae.register_to_config(scaling_factor=round(DEVIATION / float(latents.std(dtype=np.float64)), 4))


def train(folder, parts, latents, captions, total, save_every=250, bf16=True):
    """Train parts.text_encoder and parts.unet; goes on from <folder>/denoiser.pt. They end as their moving averages."""
    learning_parts = [parts.text_encoder.train(), parts.unet.train()]
    parameters = [p for module in learning_parts for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=0.01)
    average = learning.Average(learning_parts, 0.999)
    path = folder / "denoiser.pt"
    done = learning.load(path, learning_parts, average, optimizer)
    limit, schedule = parts.tokenizer.model_max_length, parts.noise_scheduler
    tokens = parts.tokenizer(["", *captions], padding="max_length", truncation=True, max_length=limit)
    input_ids = torch.tensor(tokens["input_ids"])  # (1 + N, 77), the empty caption first
    shape = latents.shape[1:]
    log = open(folder / "denoiser.jsonl", "a", encoding="utf-8")  # noqa: SIM115
    with log, tqdm(total=total, initial=done, desc="denoiser", unit="step", mininterval=5) as bar:
        for step in range(done, total):
            began = time.process_time()
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LR * learning.cosine(step, total)
            random, places = learning.rng(STAGE, step), range(step * BATCH, (step + 1) * BATCH)
            rows = random.integers(len(captions), size=BATCH)
            dropped = random.random(BATCH) < CAPTION_DROPOUT
            x = torch.from_numpy(latents[rows].astype(np.float32)) * parts.vae.config.scaling_factor
            noise = diffusion.normal(SEED, diffusion.NOISE, places, shape)
            timesteps = diffusion.uniform_timesteps(SEED, places, schedule.config.num_train_timesteps)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                text = models.encode_text(parts.text_encoder, input_ids[np.where(dropped, 0, rows + 1)])
                loss = diffusion.loss(parts.unet, schedule, x, text, noise, timesteps, SNR_GAMMA).mean()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0).item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update(step)
            if step % 25 == 0:
                record = dict(step=step, loss=loss.item(), norm=norm, cpu=time.process_time() - began)
                print(json.dumps(record), file=log, flush=True)
                bar.set_postfix_str(f"loss {loss.item():.4f}")
            bar.update()
            if (step + 1) % save_every == 0 or step + 1 == total:
                learning.save(path, learning_parts, average, optimizer, step + 1)
    average.store()
    return models.freeze(parts)
