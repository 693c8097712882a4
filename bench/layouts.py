"""Effect of channels_last and torch.compile on a training step: forward and backward pass of the UNet.

    python -m bench.layouts                                                  # mini at 128x192: a few minutes
    python -m bench.layouts --pretrained_model sd15-random --resolution 256 --batch_size 1 --updates 1

All ways are timed in turn on the same UNet; the first step of each turn is not timed. The very first step, which
includes compilation, has a column of its own: a run pays for it once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

import config
from bench import positive, resolution
from cli import launch
from cli.parser import Parser
from diffusion import encoding, pipeline
from diffusion.trainable import set_trainable

WAYS = {  # way: (channels_last, compiled)
    "plain": (False, False),
    "channels_last": (True, False),
    "torch.compile": (False, True),
    "both": (True, True),
}


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = Parser(
        prog="python -m bench.layouts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretrained_model", default="mini", choices=("tiny", "mini", "sd15-random"))
    parser.add_argument("--resolution", type=resolution, default="128x192")
    parser.add_argument("--batch_size", type=positive, default=4)
    parser.add_argument("--bf16", action="store_true", help="compute in bf16, by autocast")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--updates", type=positive, default=5, help="timed steps of each way in each turn")
    parser.add_argument("--repeats", type=positive, default=5, help="turns of each way")
    args = parser.parse_args(argv)
    update, device = make_step(args)

    first, seconds = {}, {way: [] for way in args.ways}
    for _ in range(args.repeats):
        for way in args.ways:
            began = time.monotonic()
            update(*WAYS[way])
            first.setdefault(way, time.monotonic() - began)
            began = time.monotonic()
            for _ in range(args.updates):
                update(*WAYS[way])
            seconds[way].append((time.monotonic() - began) / args.updates)

    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    print(
        f"{args.pretrained_model}, {args.resolution}, batches of {args.batch_size}, "
        f"{'bf16' if args.bf16 else 'fp32'} on {device}, medians of {args.repeats} turns\n"
    )
    print(f"| way | seconds a step | as fast as {args.ways[0]} | first step, seconds |\n|---|---|---|---|")
    for way, taken in medians.items():
        print(f"| {way} | {taken:.3f} | {medians[args.ways[0]] / taken:.2f} x | {first[way]:.1f} |")
    return 0


def make_step(args: argparse.Namespace) -> tuple[Callable[[bool, bool], None], str]:
    """(update, device type): update(channels_last, compiled) does forward and backward pass on a fixed batch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = pipeline.load_parts(args.pretrained_model)
    unet = set_trainable(parts, ["unet"]).networks["unet"].to(device)
    latents = torch.randn(args.batch_size, *encoding.latent_shape(parts, config.parse_size(args.resolution)))
    noise = torch.randn_like(latents).to(device)
    text = torch.randn(args.batch_size, 77, unet.config.cross_attention_dim, device=device)
    timesteps = torch.full((args.batch_size,), 500, device=device)
    compiled_unet = torch.compile(unet)

    def update(channels_last: bool, compiled: bool) -> None:
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        unet.to(memory_format=memory_format)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            inputs = latents.to(device, memory_format=memory_format)
            prediction = (compiled_unet if compiled else unet)(inputs, timesteps, text, return_dict=False)[0]
        torch.nn.functional.mse_loss(prediction.float(), noise).backward()
        unet.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return update, device.type


if __name__ == "__main__":
    sys.exit(launch.run_script(main))
