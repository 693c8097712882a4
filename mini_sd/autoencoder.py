"""The first stage: the autoencoder, factor 4, 6 latent channels; it learns from posters and sheets of lettering."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F
from tqdm import tqdm

from mini_sd import learning, pictures

CHANNELS = (16, 32, 64)
LATENTS = 6
PEAK_LR = 1e-3  # of residual branches whose convolutions see 144 numbers; see rates
CROP = (96, 128)  # height, width of the pieces of pictures that all but the last steps see
BATCH = 4  # pieces; half as many whole pictures
WHOLE = 0.25  # share of the steps, the last ones, that see whole pictures
CONSTANTS = (6, 7, 14, 15, 30, 31, 62, 63)  # channels, see start_linear; at least two of them in every group
NOISE = 0.4  # in latents of unit deviation, while the decoder learns on alone
DEVIATION = 0.5  # of scaled latents, see denoiser.standardize
KL = 1e-4  # weight of the mean divergence of a latent from the standard normal, in nats


def build():
    """An AutoencoderKL that starts near the identity on mean colours; see start_linear."""
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
def start_linear(vae):
    """Weights from which learning goes fast: latents 0 to 2 are the mean red, green and blue of each 4 x 4 pixels.

    Left to itself the network stays for many minutes at grey pictures: group norm hides the mean colour, and nothing
    passes eight layers of random weights well. So on the straight way through (all but the residual branches) every
    layer passes each channel on, 0 to 2 alone, the others with a share of orthogonal random features; and a few
    channels of each group are constants, +3 and -3, so that group norm divides by much the same for every picture.
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


def batch_of(sources, number, step, whole):
    """float32 (B, 3, h, w) in [-1, 1]: random pieces of random pictures, or fewer whole ones.

    sources: list of uint8 (N, H, W, 3).
    """
    random = learning.rng(number, step)
    pieces = []
    for _ in range(BATCH // 2 if whole else BATCH):
        pixels = sources[random.integers(len(sources))]
        image = pixels[random.integers(len(pixels))]
        if not whole:
            top, left = (random.integers(full - part + 1) for full, part in zip(image.shape, CROP, strict=False))
            image = image[top : top + CROP[0], left : left + CROP[1]]
        pieces.append(image[:, ::-1] if random.random() < 0.25 else image)
    return pictures.to_tensor(np.stack(pieces))


def differences(x):
    return x.diff(dim=-1), x.diff(dim=-2)


def picture_loss(output, target):
    """L1, at full size and after means of 2, 4 and 8 squared pixels, and L1 of the differences between neighbours."""
    error = output - target
    loss = error.abs().mean()
    for size in (2, 4, 8):
        loss = loss + 0.5 / 3 * F.avg_pool2d(error, size).abs().mean()
    return loss + sum(d.abs().mean() for d in differences(error))


def rates(vae):
    """Parameter groups of what learns, with peak learning rates: less for wide layers, and for the straight way."""
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
    """What differs between the two times that parts of the autoencoder learn."""

    name: str  # of the files
    number: int  # of the random numbers
    whole: float  # share of the steps, the last ones, that see whole pictures
    share: float  # factor on the learning rates
    noise: float  # largest deviation of the noise that latents get beside their posterior's


ALL = Stage("autoencoder", 1, WHOLE, 1.0, 0.0)
DECODER = Stage("decoder", 3, 1.0, 0.5, NOISE)


def train(folder, sources, total, bf16=True, save_every=500):
    """The AutoencoderKL after `total` steps; goes on from the state that is saved in `folder`."""
    vae = build()
    learn(folder, ALL, vae, sources, total, bf16, save_every)
    return vae.eval().requires_grad_(False)


def train_decoder(folder, vae, sources, total, bf16=True, save_every=500):
    """The decoder learns on alone, as Stable Diffusion's did; latents, of unit deviation, stay what they are.

    Noise of many levels is added to them, because those that a small denoiser draws are not quite what they should be:
    left alone, the decoder makes a texture of what is wrong in them.
    """
    vae.decoder.requires_grad_(True)
    learn(folder, DECODER, vae.train(), sources, total, bf16, save_every)
    vae.eval().requires_grad_(False)


def learn(folder, stage, vae, sources, total, bf16, save_every):
    """Let what may learn of vae learn for `total` steps; it ends as its moving average."""
    optimizer = torch.optim.AdamW(rates(vae), betas=(0.9, 0.99), weight_decay=1e-4)
    average = learning.average_of([vae])
    path = folder / f"{stage.name}.pt"
    done = learning.load(path, [vae], average, optimizer)
    log = open(folder / f"{stage.name}.jsonl", "a", encoding="utf-8")  # noqa: SIM115
    with log, tqdm(total=total, initial=done, desc=stage.name, unit="step", mininterval=5) as bar:
        for step in range(done, total):
            began = time.process_time()
            for group in optimizer.param_groups:
                group["lr"] = stage.share * group["peak"] * learning.cosine(step, total)
            x = batch_of(sources, stage.number, step, step >= (1 - stage.whole) * total)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                posterior = vae.encode(x).latent_dist
                mean, std = posterior.mean.float(), posterior.std.float()
                noise = torch.from_numpy(learning.rng(stage.number, step, 1).standard_normal(mean.shape, np.float32))
                levels = stage.noise * learning.rng(stage.number, step, 2).random((len(x), 1, 1, 1), np.float32)
                deviation = (std.square() + torch.from_numpy(levels).square()).sqrt()
                output = vae.decode(mean + deviation * noise, return_dict=False)[0]
            loss = picture_loss(output.float(), x)
            divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
            (loss + KL * divergence).backward()
            norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0).item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.step(vae.parameters())
            if step % 50 == 0:
                mse = (output.detach().float() - x).square().mean().item()
                record = dict(step=step, loss=loss.item(), kl=divergence.item(), norm=norm, mse=mse)
                print(json.dumps(record | dict(cpu=time.process_time() - began)), file=log, flush=True)
                bar.set_postfix_str(f"loss {loss.item():.4f}, psnr {10 * np.log10(4 / mse):.1f}, kl {divergence:.2f}")
            bar.update()
            if (step + 1) % save_every == 0 or step + 1 == total:
                learning.save(path, [vae], average, optimizer, step + 1)
    average.copy_to(vae.parameters())
