"""The first stage: trains the autoencoder (downsampling by 4, 6 latent channels) on posters and sheets of lettering."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F
from tqdm import tqdm

from mini_sd import learning, pictures

CHANNELS = (16, 32, 64)
LATENTS = 6
PEAK_LR = 1e-3  # of residual branches whose convolutions have a fan-in of 144; see parameter_groups
CROP = (96, 128)  # height, width of the random crops that all but the last steps are trained on
BATCH = 4  # crops; half as many whole images
WHOLE = 0.25  # share of the steps, the last ones, that are trained on whole images
CONSTANTS = (6, 7, 14, 15, 30, 31, 62, 63)  # channels, see start_linear; at least two of them in every group
NOISE = 0.4  # largest standard deviation of noise on latents while the decoder is trained alone
DEVIATION = 0.5  # standard deviation of scaled latents, see denoiser.standardize
KL = 1e-4  # weight of the mean divergence of a latent from the standard normal, in nats


def build() -> AutoencoderKL:
    """An untrained AutoencoderKL that starts near the identity on mean colours; see start_linear."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=LATENTS,
        mid_block_add_attention=False,
        sample_size=192,
        scaling_factor=DEVIATION,
    )
    start_linear(vae)
    return vae.to(memory_format=torch.channels_last)


@torch.no_grad()
def start_linear(vae: AutoencoderKL) -> None:
    """Initializes the weights near an identity: latents 0 to 2 are the mean red, green and blue of each 4 x 4 pixels.

    With the usual initialization the network stays at grey images for many minutes: group norm removes the mean colour,
    and little survives eight layers of random weights. So along the main path (all but the residual branches) every
    layer passes each channel on, 0 to 2 unmixed, the others with a share of orthogonal random features; and a few
    channels of each group are constants, +3 and -3, so that group norm divides by nearly the same for every image.
    """
    centre, soft = torch.zeros(3, 3), torch.tensor([1.0, 2.0, 1.0]) / 4
    mean, centre[1, 1] = torch.zeros(3, 3), 1
    mean[:2, :2] = 1 / 4
    for name, module in vae.named_modules():
        if not isinstance(module, torch.nn.Conv2d):
            continue
        weight, bias = module.weight, module.bias
        torch.nn.init.orthogonal_(weight)
        bias.zero_()
        if name.endswith("conv2"):  # the last of a residual branch
            weight *= 0.02
        elif name.endswith(("conv_in", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")):
            kernel = mean if "down" in name and "samplers" in name else centre
            kernel = torch.outer(soft, soft) if "upsamplers" in name else kernel[: weight.shape[2], : weight.shape[3]]
            kernel = torch.ones(1, 1) if weight.shape[2] == 1 else kernel
            weight *= 0.3
            weight[:3] = 0
            constants = [c for c in CONSTANTS if c < len(weight)]
            weight[constants] = 0
            for channel in range(min(weight.shape[:2])):
                weight[channel, channel] += kernel
            new = [c for c in constants if name.endswith("conv_in") or c >= weight.shape[1]]
            weight[new] = 0
            bias[new] = torch.tensor([3.0 if c % 2 else -3.0 for c in new])
    for part, gain in ((vae.encoder, 1.0), (vae.decoder, 1.3)):
        part.conv_norm_out.bias[:3] = 3  # where SiLU is nearly linear
        part.conv_out.weight[:3] = 0
        for channel in range(3):
            part.conv_out.weight[channel, channel, 1, 1] = gain
        part.conv_out.bias[:3] = -3 * gain
    vae.encoder.conv_out.weight[LATENTS:] *= 0.01  # log variance of the posterior: small, and nearly the same for all
    vae.encoder.conv_out.bias[LATENTS:] = -6
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])


def random_batch(sources: Sequence[np.ndarray], number: int, step: int, whole: bool) -> torch.Tensor:
    """float32 (B, 3, h, w) in [-1, 1]: random crops of random images, or half as many whole images.

    sources: image sets uint8 (N, H, W, 3); number: of the stage, for the random generator.
    """
    random = learning.rng(number, step)
    images = []
    for _ in range(BATCH // 2 if whole else BATCH):
        pixels = sources[random.integers(len(sources))]
        image = pixels[random.integers(len(pixels))]
        if not whole:
            top, left = (random.integers(full - part + 1) for full, part in zip(image.shape, CROP, strict=False))
            image = image[top : top + CROP[0], left : left + CROP[1]]
        images.append(image[:, ::-1] if random.random() < 0.25 else image)
    return pictures.to_tensor(np.stack(images))


def differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of horizontal and of vertical neighbours."""
    return x.diff(dim=-1), x.diff(dim=-2)


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 at full resolution and average-pooled by 2, 4 and 8, plus L1 of the differences between neighbours."""
    error = output - target
    loss = error.abs().mean()
    for size in (2, 4, 8):
        loss = loss + 0.5 / 3 * F.avg_pool2d(error, size).abs().mean()
    return loss + sum(d.abs().mean() for d in differences(error))


def parameter_groups(vae: AutoencoderKL) -> list[dict]:
    """Optimizer groups of the trainable parameters with peak learning rates: lower for wide layers and main path."""
    groups = []
    for name, p in vae.named_parameters():
        if not p.requires_grad:
            continue
        branch = ".resnets." in name and "shortcut" not in name
        fan_in = p[0].numel() if p.ndim == 4 else 144
        peak = PEAK_LR * (144 / fan_in) ** 0.5 if branch else 0.3 * PEAK_LR
        groups.append(dict(params=[p], lr=peak, peak=peak))
    return groups


class Stage(NamedTuple):
    """Settings of one of the two training stages of the autoencoder."""

    name: str  # of the files
    number: int  # part of the key of the random generators
    whole: float  # share of the steps, the last ones, that are trained on whole images
    share: float  # factor on the learning rates
    noise: float  # largest standard deviation of the noise added to latents beside their posterior's


ALL = Stage("autoencoder", 1, WHOLE, 1.0, 0.0)
DECODER = Stage("decoder", 3, 1.0, 0.5, NOISE)


def train(
    folder: pathlib.Path, sources: Sequence[np.ndarray], total: int, bf16: bool = True, save_every: int = 500
) -> AutoencoderKL:
    """The AutoencoderKL after `total` steps; resumes from the state that is saved in `folder`."""
    vae = build()
    run_stage(folder, ALL, vae, sources, total, bf16, save_every)
    return vae.eval().requires_grad_(False)


def train_decoder(
    folder: pathlib.Path,
    vae: AutoencoderKL,
    sources: Sequence[np.ndarray],
    total: int,
    bf16: bool = True,
    save_every: int = 500,
) -> None:
    """Trains the decoder further, alone, as Stable Diffusion's was; latents, of unit variance, do not change.

    Noise of varying level is added to them, because latents from a small denoiser are imperfect: a decoder trained
    without noise turns their errors into texture.
    """
    vae.decoder.requires_grad_(True)
    run_stage(folder, DECODER, vae.train(), sources, total, bf16, save_every)
    vae.eval().requires_grad_(False)


def run_stage(
    folder: pathlib.Path,
    stage: Stage,
    vae: AutoencoderKL,
    sources: Sequence[np.ndarray],
    total: int,
    bf16: bool,
    save_every: int,
) -> None:
    """Trains the trainable parameters of vae for `total` steps; they end as their exponential moving average."""
    optimizer = torch.optim.AdamW(parameter_groups(vae), betas=(0.9, 0.99), weight_decay=1e-4)
    ema = learning.make_ema([vae])
    path = folder / f"{stage.name}.pt"
    done = learning.load(path, [vae], ema, optimizer)
    log = open(folder / f"{stage.name}.jsonl", "a", encoding="utf-8")  # noqa: SIM115
    with log, tqdm(total=total, initial=done, desc=stage.name, unit="step", mininterval=5) as bar:
        for step in range(done, total):
            began = time.process_time()
            for group in optimizer.param_groups:
                group["lr"] = stage.share * group["peak"] * learning.cosine(step, total)
            x = random_batch(sources, stage.number, step, step >= (1 - stage.whole) * total)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                posterior = vae.encode(x).latent_dist
                mean, std = posterior.mean.float(), posterior.std.float()
                noise = torch.from_numpy(learning.rng(stage.number, step, 1).standard_normal(mean.shape, np.float32))
                levels = stage.noise * learning.rng(stage.number, step, 2).random((len(x), 1, 1, 1), np.float32)
                deviation = (std.square() + torch.from_numpy(levels).square()).sqrt()
                output = vae.decode(mean + deviation * noise, return_dict=False)[0]
            loss = reconstruction_loss(output.float(), x)
            divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
            (loss + KL * divergence).backward()
            norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0).item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            ema.step(vae.parameters())
            if step % 50 == 0:
                mse = (output.detach().float() - x).square().mean().item()
                record = dict(step=step, loss=loss.item(), kl=divergence.item(), norm=norm, mse=mse)
                print(json.dumps(record | dict(cpu=time.process_time() - began)), file=log, flush=True)
                bar.set_postfix_str(f"loss {loss.item():.4f}, psnr {10 * np.log10(4 / mse):.1f}, kl {divergence:.2f}")
            bar.update()
            if (step + 1) % save_every == 0 or step + 1 == total:
                learning.save(path, [vae], ema, optimizer, step + 1)
    ema.copy_to(vae.parameters())
