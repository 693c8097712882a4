"""What channels_last and torch.compile would do for a training step: forward, backward and AdamW of the UNet.

    python -m bench.layouts                                                  # mini at 128x192: some minutes
    python -m bench.layouts --pretrained_model sd15-random --resolution 256 --batch_size 1 --updates 1

The ways take turns in one process, each with a copy of the same UNet. Compiling is timed apart, for a run pays it once.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time

import command_line
import config

WAYS = {  # way: (channels_last, compiled)
    "plain": (False, False),
    "channels_last": (True, False),
    "torch.compile": (False, True),
    "both": (True, True),
}


def main(argv=None):
    """Print the table."""
    parser = command_line.Parser(
        prog="python -m bench.layouts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretrained_model", default="mini", choices=("tiny", "mini", "sd15-random"))
    parser.add_argument("--resolution", default="128x192")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--bf16", action="store_true", help="arithmetic in bf16, by autocast")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--updates", type=int, default=5, help="of each way in each turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    wishes = parser.parse_args(argv)

    import torch

    import models

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = models.load_parts(wishes.pretrained_model)
    size = config.size(config.TrainingOptions(resolution=wishes.resolution))
    latents = torch.randn(wishes.batch_size, *models.latent_shape(parts, size), device=device)
    text_shape = (wishes.batch_size, 77, parts.unet.config.cross_attention_dim)
    encoder_hidden_states, noise = torch.randn(text_shape, device=device), torch.randn_like(latents)
    timesteps = torch.full((wishes.batch_size,), 500, device=device)

    def make(channels_last, compiled):
        unet = copy.deepcopy(parts.unet).to(device).train()
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        unet.to(memory_format=memory_format)
        optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, fused=True)
        step = torch.compile(unet) if compiled else unet
        inputs = latents.to(memory_format=memory_format)

        def update():
            with torch.autocast(device.type, torch.bfloat16, enabled=wishes.bf16):
                prediction = step(inputs, timesteps, encoder_hidden_states, return_dict=False)[0]
            torch.nn.functional.mse_loss(prediction.float(), noise).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return update

    updates = {way: make(*WAYS[way]) for way in wishes.ways}
    first, seconds = {}, {way: [] for way in updates}
    for way, update in updates.items():
        began = time.monotonic()
        update()
        first[way] = time.monotonic() - began
        update()
    for _ in range(wishes.repeats):
        for way, update in updates.items():
            began = time.monotonic()
            for _ in range(wishes.updates):
                update()
            seconds[way].append((time.monotonic() - began) / wishes.updates)

    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    plain = medians[wishes.ways[0]]
    print(
        f"{wishes.pretrained_model}, {wishes.resolution}, batches of {wishes.batch_size}, "
        f"{'bf16' if wishes.bf16 else 'fp32'} on {device.type}, medians of {wishes.repeats} turns\n"
    )
    print(f"| way | seconds an update | as fast as {wishes.ways[0]} | first update, seconds |\n|---|---|---|---|")
    for way, taken in medians.items():
        print(f"| {way} | {taken:.3f} | {plain / taken:.2f} x | {first[way]:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run_script(main))
