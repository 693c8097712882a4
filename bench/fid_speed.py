"""Speed and accuracy of FID statistics and distance against pytorch-fid, and memory of the moments.

    python -m bench.fid_speed                 # about ten minutes: 200 demo covers, five rounds

Both use the same images and the same network with random weights, which cost the same as the official ones: the
distances themselves are meaningless. `legacy` resizes as pytorch-fid does; `clean`, antialiased, is the default. Both
use channels_last; pytorch-fid does not.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import pathlib
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from PIL import Image

import config
from bench import positive, resolution
from cli import launch
from cli.parser import Parser
from common.png import read_png
from common.prefetch import read_ahead
from data.folder import open_data
from data.images import read_cover
from demo_data.folder import ensure_demo_data
from evaluation import distances, features


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    parser = Parser(
        prog="python -m bench.fid_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--covers", type=positive, default=200, help="demo covers")
    parser.add_argument("--resolution", type=resolution, default="128x192")
    parser.add_argument("--batch_size", type=positive, default=50)
    parser.add_argument("--repeats", type=positive, default=5, help="rounds, in each of which every way is timed once")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        compare_statistics(pathlib.Path(folder), args)
    compare_distances(args)
    watch_memory()
    return 0


def compare_statistics(folder: pathlib.Path, args: argparse.Namespace) -> None:
    """Prints images/s from PNG files to mean and covariance."""
    from pytorch_fid import fid_score, inception

    # The same network, with random weights, and the same files for all
    torch.manual_seed(0)
    with (
        mock.patch.object(torch.nn.Module, "load_state_dict"),
        mock.patch.object(inception, "load_state_dict_from_url"),
    ):
        torch.save(inception.fid_inception_v3().state_dict(), folder / "weights.pt")
    weights = torch.load(folder / "weights.pt", weights_only=True)
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: weights):
        theirs = inception.InceptionV3().eval()
    root = ensure_demo_data(folder, args.covers, workers=2)
    options = config.StatsOptions(
        data_root=str(root), resolution=args.resolution, cache_dir=str(folder / "cache"), test_fraction=0.5
    )
    paths = []
    for book in open_data(options).kept:
        paths.append(folder / f"{book.row}.png")
        Image.fromarray(read_cover(book.image, config.size(options))).save(paths[-1])

    def peer():
        names = list(map(str, paths))
        return fid_score.calculate_activation_statistics(names, theirs, args.batch_size, 2048, "cpu", num_workers=2)

    def ours(resize: str) -> Callable:
        settings = dict(fid_weights=str(folder / "weights.pt"), fid_resize=resize, fid_batch_size=args.batch_size)
        extractor = features.load_extractor(config.StatsOptions(**settings), torch.device("cpu"))

        def run():
            moments = distances.Moments(extractor.dims)
            images = read_ahead(read_png, paths, 2)
            while batch := list(itertools.islice(images, args.batch_size)):
                moments.update(extractor(batch))
            return moments.mu, moments.sigma

        return run

    ways = {"pytorch-fid": peer, "ours, --fid_resize legacy": ours("legacy"), "ours, --fid_resize clean": ours("clean")}
    seconds, results = take_turns(ways, args.repeats)
    print(f"statistics of {len(paths)} PNG files of {args.resolution}, Inception, medians of {args.repeats} turns\n")
    print("| way | images/s | of pytorch-fid's | difference of means, of covariances (relative) |\n|---|---|---|---|")
    for way, taken in seconds.items():
        pairs = zip(results[way], results["pytorch-fid"], strict=True)
        mean, covariance = (np.abs(ours - theirs).max() / np.abs(theirs).max() for ours, theirs in pairs)
        ratio = seconds["pytorch-fid"] / taken
        print(f"| {way} | {len(paths) / taken:.1f} | {ratio:.2f} x | {mean:.1e}, {covariance:.1e} |", flush=True)


def take_turns(ways: dict[str, Callable], repeats: int) -> tuple[dict[str, float], dict]:
    """({way: median seconds}, {way: its last result}) of functions that are called in turn."""
    seconds, results = {way: [] for way in ways}, {}
    for _ in range(repeats):
        for way, run in ways.items():
            began = time.monotonic()
            results[way] = run()
            seconds[way].append(time.monotonic() - began)
    return {way: statistics.median(values) for way, values in seconds.items()}, results


def compare_distances(args: argparse.Namespace, dims: int = 2048) -> None:
    """Prints the seconds of one distance between covariances of full rank."""
    from pytorch_fid import fid_score

    random = np.random.default_rng(0)
    moments = []
    for shift in (0.0, 0.1):
        x = random.standard_normal((2 * dims, dims)) + shift
        moments += [x.mean(0), np.cov(x, rowvar=False)]
    ways = {"pytorch-fid": fid_score.calculate_frechet_distance, "ours": distances.frechet_distance}
    ways = {way: functools.partial(distance, *moments) for way, distance in ways.items()}
    seconds, values = take_turns(ways, args.repeats)
    print(f"\none distance of {dims} dimensions, medians of {args.repeats} turns\n")
    print("| way | seconds | times as fast | distance |\n|---|---|---|---|")
    for way, taken in seconds.items():
        print(f"| {way} | {taken:.2f} | {seconds['pytorch-fid'] / taken:.1f} x | {values[way]:.10f} |", flush=True)


def watch_memory(dims: int = 2048, batch: int = 50) -> None:
    """Prints the peak memory of the moments of 500, 2,000 and 8,000 features."""
    print("\n| features | most memory of their moments, MiB |\n|---|---|")
    random = np.random.default_rng(0)
    for count in (500, 2000, 8000):
        tracemalloc.start()
        moments = distances.Moments(dims)
        for _ in range(count // batch):
            moments.update(random.standard_normal((batch, dims)))
        print(f"| {count} | {tracemalloc.get_traced_memory()[1] / 2**20:.0f} |", flush=True)
        tracemalloc.stop()


if __name__ == "__main__":
    sys.exit(launch.run_script(main))
