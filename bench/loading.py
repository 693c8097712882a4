"""What reading the covers costs: training images/s with pictures, with cached latents, and with no reading at all.

    python -m bench.loading                     # about a minute on a laptop: tiny, demo covers

Each way is a real session (session.set_up) that makes the same updates from the same covers; the ways take turns, and
the table has medians. "one batch, over and over" reads nothing: what is missing to it is the price of reading, and with
pictures of encoding them, too.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import statistics
import sys
import tempfile
import time

import config
from bench import positive, resolution
from cli import launch
from cli.parser import Parser
from demo_data.folder import ensure_demo_data
from trainer.batches import make_loader

WAYS = {  # options of training
    "pictures, read by the training process": dict(cache_latents=False, num_workers=0),
    "pictures, read by two workers": dict(cache_latents=False, num_workers=2),
    "cached latents, read by the training process": dict(cache_latents=True, num_workers=0),
    "cached latents, read by one worker": dict(cache_latents=True, num_workers=1),
    "cached latents, read by two workers": dict(cache_latents=True, num_workers=2),
}
BARE = "one batch, over and over"


def main(argv=None):
    """Print the table."""
    parser = Parser(
        prog="python -m bench.loading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--covers", type=positive, default=100, help="demo covers")
    parser.add_argument("--resolution", type=resolution, default="128x192")
    parser.add_argument("--batch_size", type=positive, default=4)
    parser.add_argument("--updates", type=positive, default=8, help="of each way in each turn")
    parser.add_argument("--repeats", type=positive, default=5, help="turns of each way")
    wishes = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        speeds = measure(pathlib.Path(folder), wishes)
    tell(speeds, wishes)
    return 0


def measure(folder, wishes):
    """{way: [images/s in each turn]}."""
    from trainer.session import prepare, start

    root = ensure_demo_data(folder, wishes.covers, workers=2)
    sessions = {}
    for number, (way, changes) in enumerate(WAYS.items()):
        options = config.TrainingOptions(
            data_root=str(root),
            cache_dir=str(folder / "cache"),
            output_dir=str(folder / "runs"),
            run_name=str(number),
            pretrained_model="tiny",
            resolution=wishes.resolution,
            batch_size=wishes.batch_size,
            train_unet=True,
            max_steps=10**6,
            **changes,
        )
        sessions[way] = start(prepare(options, None))

    speeds = {way: [] for way in (*WAYS, BARE)}
    for _ in range(1 + wishes.repeats):  # the first turn warms up
        for way, session in sessions.items():
            samples = (session.schedule.pieces(step)[0] for step in itertools.count())
            batches = zip(endless_loader(session), samples, strict=False)
            first = next(batches)
            speeds[way].append(images_per_s(session, batches, wishes.updates))
        speeds[BARE].append(images_per_s(session, itertools.repeat(first), wishes.updates))
    return {way: values[1:] for way, values in speeds.items()}


def endless_loader(session):
    """The loader that training has, over as many updates as are asked for."""
    return make_loader(session.train_set, session.schedule, itertools.count(), session.options, session.accelerator)


def images_per_s(session, batches, updates):
    """Images a second over some updates, as training makes them. batches: (batch, its sample indexes)."""

    images, began = 0, time.monotonic()
    for batch, samples in itertools.islice(batches, updates):
        losses = session.objective.training_losses(batch, samples)
        session.accelerator.backward(losses.mean())
        session.optimizer.clip()
        session.optimizer.step()
        images += len(losses)
    return images / (time.monotonic() - began)


def tell(speeds, wishes):
    import torch

    medians = {way: statistics.median(values) for way, values in speeds.items()}
    print(
        f"tiny, UNet and text encoder learning, {wishes.covers} demo covers at {wishes.resolution}, batches of "
        f"{wishes.batch_size}, {torch.get_num_threads()} threads; medians of {wishes.repeats} turns of "
        f"{wishes.updates} updates each"
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
