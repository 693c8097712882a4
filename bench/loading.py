"""Cost of reading covers: training images/s with image files, with cached latents, and without any reading.

    python -m bench.loading                     # about a minute on a laptop: tiny, demo covers

Each way is a real training session (trainer.session) with the same updates on the same covers; the ways are timed in
turn, and the table has medians. "one batch, over and over" reads nothing: the difference to it is the cost of reading,
and with image files also of encoding them.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import statistics
import sys
import tempfile
import time

import torch

import config
from bench import positive, resolution
from cli import launch
from cli.parser import Parser
from demo_data.folder import ensure_demo_data
from trainer.batches import make_loader
from trainer.session import prepare, start
from trainer.workers import running_batches

WAYS = {  # options of training
    "pictures, read by the training process": dict(cache_latents=False, num_workers=0),
    "pictures, read by two workers": dict(cache_latents=False, num_workers=2),
    "cached latents, read by the training process": dict(cache_latents=True, num_workers=0),
    "cached latents, read by one worker": dict(cache_latents=True, num_workers=1),
    "cached latents, read by two workers": dict(cache_latents=True, num_workers=2),
}
BARE = "one batch, over and over"


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = Parser(
        prog="python -m bench.loading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--covers", type=positive, default=100, help="demo covers")
    parser.add_argument("--resolution", type=resolution, default="128x192")
    parser.add_argument("--batch_size", type=positive, default=4)
    parser.add_argument("--updates", type=positive, default=8, help="timed updates of each way in each turn")
    parser.add_argument("--repeats", type=positive, default=5, help="turns of each way")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        speeds = measure(pathlib.Path(folder), args)
    print_table(speeds, args)
    return 0


def measure(folder: pathlib.Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """{way: [images/s in each turn]}."""
    root = ensure_demo_data(folder, args.covers, workers=2)
    sessions = {}
    for number, (way, changes) in enumerate(WAYS.items()):
        options = config.TrainingOptions(
            data_root=str(root),
            cache_dir=str(folder / "cache"),
            output_dir=str(folder / "runs"),
            run_name=str(number),
            pretrained_model="tiny",
            resolution=args.resolution,
            batch_size=args.batch_size,
            train_unet=True,
            max_steps=10**6,
            **changes,
        )
        sessions[way] = start(prepare(options, None))

    speeds = {way: [] for way in (*WAYS, BARE)}
    for _ in range(1 + args.repeats):  # the first turn warms up
        for way, session in sessions.items():
            samples = (session.schedule.pieces(step)[0] for step in itertools.count())
            with running_batches(endless_loader(session), "close other programs") as read:
                batches = zip(read, samples, strict=False)
                first = next(batches)
                speeds[way].append(images_per_s(session, batches, args.updates))
        speeds[BARE].append(images_per_s(session, itertools.repeat(first), args.updates))
    return {way: values[1:] for way, values in speeds.items()}


def endless_loader(session):
    """The loader that training has, over as many updates as are asked for."""
    return make_loader(session.train_set, session.schedule, itertools.count(), session.options, session.accelerator)


def images_per_s(session, batches, updates):
    """Images/s of some updates, done as in training. batches: (batch, its sample indexes), ..."""
    images, began = 0, time.monotonic()
    for batch, samples in itertools.islice(batches, updates):
        losses = session.objective.training_losses(batch, samples)
        session.accelerator.backward(losses.mean())
        session.optimizer.clip()
        session.optimizer.step()
        images += len(losses)
    return images / (time.monotonic() - began)


def print_table(speeds: dict[str, list[float]], args: argparse.Namespace) -> None:
    """Prints the table of medians over the turns."""
    medians = {way: statistics.median(values) for way, values in speeds.items()}
    print(
        f"tiny, UNet and text encoder trained, {args.covers} demo covers at {args.resolution}, batches of "
        f"{args.batch_size}, {torch.get_num_threads()} threads; medians of {args.repeats} turns of "
        f"{args.updates} updates each"
    )
    print("| covers come as | images/s | least ... most | against the first | of no reading |\n|---|---|---|---|---|")
    for way, values in speeds.items():
        against = medians[way] / medians[next(iter(speeds))]
        print(
            f"| {way} | {medians[way]:.1f} | {min(values):.1f} ... {max(values):.1f} | {against:.2f} x "
            f"| {medians[way] / medians[BARE]:.0%} |"
        )


if __name__ == "__main__":
    sys.exit(launch.run_script(main))
