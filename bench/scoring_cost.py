"""Cost of scoring: seconds and memory of each metric for a number of covers. Nothing is drawn by a model.

    python -m bench.scoring_cost --covers 2000

Demo covers of one half of the books take the place of drawn ones, against the other half. Features and OCR readings are
computed by the first metric that needs them and cached: only the first run of this command counts.
"""

from __future__ import annotations

import dataclasses
import pathlib
import resource
import sys
import time

import torch

import config
from bench import positive, resolution
from cli import launch
from cli.parser import Parser, parse
from common.png import save_png
from data.folder import open_data
from data.images import read_cover
from demo_data.folder import ensure_demo_data
from evaluation import distances, evaluate, feature_cache, features
from evaluation.inputs import EvaluationInputs
from evaluation.reference import Stats


def main(argv: list[str] | None = None) -> int:
    """Print a line for each metric, as it is done."""
    parser = Parser(prog="python -m bench.scoring_cost", description=__doc__.split("\n")[0])
    parser.add_argument("--covers", type=positive, default=2000, help="drawn covers, and about as many real ones")
    parser.add_argument("--resolution", type=resolution, default="128x192")
    parser.add_argument(
        "--out", type=pathlib.Path, default="scoring_cost", help="folder for covers, features, readings"
    )
    args = parser.parse_args(argv)

    # Covers to score: those of training, under the names of as many held-out books
    root = ensure_demo_data(args.out, round(args.covers * 2.15), workers=2)
    words = ["--data_root", root, "--cache_dir", args.out / "cache", "--resolution", args.resolution]
    words += ["--test_fraction", 0.5, "--fid_features", "efficientnet", "--num_imgs", args.covers]
    options, _ = parse(config.InferenceOptions, list(map(str, words)))
    data = open_data(options)
    pairs = list(zip(data.books("test"), data.books("train"), strict=False))[: args.covers]
    folder = args.out / "drawn"
    folder.mkdir(exist_ok=True)
    for book, shown in pairs:
        if not (folder / f"{book.row}.png").exists():
            pixels = torch.from_numpy(read_cover(shown.image, config.size(options)).copy())
            save_png(folder / f"{book.row}.png", pixels)
    books = [book for book, _ in pairs]

    # One metric after the other
    real, threads = len(data.books("test")), torch.get_num_threads()
    print(f"{len(books)} covers of {args.resolution}, {real} real ones, {threads} threads")
    print("| metric | seconds | most memory so far, GiB |\n|---|---|---|")
    extractor = features.load_extractor(options, torch.device("cpu"))
    began, moments = time.monotonic(), distances.Moments(extractor.dims)
    for block in feature_cache.real_features(data.books("test"), options, extractor, "statistics"):
        moments.update(block)
    print_line("statistics of the real covers", began)
    reference = Stats(moments.n, moments.mu, moments.sigma, {})
    inputs = EvaluationInputs(options, folder, None, data, books, [], extractor, reference, None)
    for metric in config.METRICS:
        if metric != "clip":
            began = time.monotonic()
            evaluate.measure(dataclasses.replace(inputs, options=dataclasses.replace(options, metrics=metric)))
            print_line(metric, began)
    return 0


def print_line(name: str, began: float) -> None:
    """Prints the seconds since `began` and the process's peak memory so far."""
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes, on Linux
    print(f"| {name} | {time.monotonic() - began:.1f} | {gib:.2f} |", flush=True)


if __name__ == "__main__":
    sys.exit(launch.run_script(main))
