"""What scoring costs: seconds and memory of each metric, for as many covers as are asked for. No model draws.

    python -m bench.scoring_cost --covers 2000

Demo covers of one half of the books stand in for drawn ones, against the other half. Features and readings are computed
in the metric that first asks for them, and kept: so the first run of this command is the one that counts.
"""

from __future__ import annotations

import dataclasses
import pathlib
import resource
import sys
import time

import config
from bench import positive, resolution
from cli import launch
from cli.parser import Parser, parse
from common.png import save_png
from data.folder import open_data
from data.images import read_cover
from demo_data.folder import ensure_demo_data
from evaluation import evaluate, feature_cache, features
from evaluation.inputs import EvaluationInputs


def main(argv=None):
    """Print a line for each metric, as it is done."""
    from evaluation import distances
    from evaluation import reference as evaluation_reference

    parser = Parser(prog="python -m bench.scoring_cost", description=__doc__.split("\n")[0])
    parser.add_argument("--covers", type=positive, default=2000, help="drawn covers, and about as many real ones")
    parser.add_argument("--resolution", type=resolution, default="128x192")
    parser.add_argument(
        "--out", type=pathlib.Path, default="scoring_cost", help="folder for covers, features, readings"
    )
    wishes = parser.parse_args(argv)

    import torch

    # Covers to score: those of training, under the names of as many held-out books
    root = ensure_demo_data(wishes.out, round(wishes.covers * 2.15), workers=2)
    words = ["--data_root", root, "--cache_dir", wishes.out / "cache", "--resolution", wishes.resolution]
    words += ["--test_fraction", 0.5, "--fid_features", "efficientnet", "--num_imgs", wishes.covers]
    options, _ = parse(config.InferenceOptions, list(map(str, words)))
    data = open_data(options)
    pairs = list(zip(data.books("test"), data.books("train"), strict=False))[: wishes.covers]
    folder = wishes.out / "drawn"
    folder.mkdir(exist_ok=True)
    for book, shown in pairs:
        if not (folder / f"{book.row}.png").exists():
            pixels = torch.from_numpy(read_cover(shown.image, config.size(options)).copy())
            save_png(folder / f"{book.row}.png", pixels)
    books = [book for book, _ in pairs]

    # One metric after the other
    real, threads = len(data.books("test")), torch.get_num_threads()
    print(f"{len(books)} covers of {wishes.resolution}, {real} real ones, {threads} threads")
    print("| metric | seconds | most memory so far, GiB |\n|---|---|---|")
    extractor = features.load_extractor(options, torch.device("cpu"))
    began, moments = time.monotonic(), distances.Moments(extractor.dims)
    for block in feature_cache.real_features(data.books("test"), options, extractor, "statistics"):
        moments.update(block)
    tell("statistics of the real covers", began)
    reference = evaluation_reference.Stats(moments.n, moments.mu, moments.sigma, {})
    inputs = EvaluationInputs(options, folder, None, data, books, [], extractor, reference, None)
    for metric in config.METRICS:
        if metric != "clip":
            began = time.monotonic()
            evaluate.measure(dataclasses.replace(inputs, options=dataclasses.replace(options, metrics=metric)))
            tell(metric, began)
    return 0


def tell(name, began):
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes, on Linux
    print(f"| {name} | {time.monotonic() - began:.1f} | {gib:.2f} |", flush=True)


if __name__ == "__main__":
    sys.exit(launch.run_script(main))
