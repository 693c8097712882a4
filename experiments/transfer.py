"""Does fine-tuning move mini's images towards book covers, and can their titles be read? Text encoder, UNet, both, and
the UNet with lettering, from the same start.

    python -m experiments.transfer --out DIR                                     # three seeds; hours on a laptop
    python -m experiments.transfer --out DIR --seeds 0 --max_steps 60 --num_imgs 100   # a quick look
    python -m experiments.transfer --out DIR --regimes UNet "UNet, LoRA"               # full fine-tuning against LoRA
    python -m experiments.transfer --out DIR --regimes UNet "UNet, lettering"          # with letters and without

Runs the project's own scripts: statistics of held-out covers, then for every seed and regime a training run and its
score, and the score of v0 with the first. With lettering, OCR reads the covers, too. Writes DIR/table.md and
DIR/covers.png (books x versions, from the same latents). Finished steps are not repeated: after Ctrl-C or a crash the
same command resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import config
import dataset
from checkpoints import catalog
from checkpoints.run_folder import RunFolder
from cli import launch, saved_options
from cli.parser import Parser, read_command_line
from common.errors import UserError
from common.files import write_json, write_text
from common.png import read_png, save_png
from data.book import Book
from data.folder import open_data
from data.images import read_cover
from diffusion import encoding, pipeline
from evaluation import distances, evaluate, feature_cache, features
from evaluation.reference import load_reference
from experiments.regimes import run_script
from generation import grid

# What learns, as options of training. LoRA's learning rate is LORA_LR times that of full fine-tuning, lettering's that
# of the UNet
REGIMES: dict[str, dict[str, Any]] = {
    "text encoder": dict(train_unet=False, train_text_encoder=True),
    "UNet": dict(train_unet=True, train_text_encoder=False),
    "both": dict(train_unet=True, train_text_encoder=True),
    "UNet, lettering": dict(train_unet=True, train_text_encoder=False, train_lettering=True),
    "UNet, LoRA": dict(train_unet=True, train_text_encoder=False, lora_rank=16, lora_targets="all"),
    "both, LoRA": dict(train_unet=True, train_text_encoder=True, lora_rank=16, lora_targets="all"),
}
LORA_LR = 10
DEFAULT_REGIMES = ("text encoder", "UNet", "both")
BATCH_SIZE = 16
TRAIN = (
    *("--batch_size", BATCH_SIZE, "--lr_scheduler", "cosine", "--warmup_steps", 20, "--optimizer", "adamw"),
    *("--grad_ckpt", False, "--sample_every", 0, "--keep_versions", 0, "--tracker", "none"),
    *("--mixed_precision", "bf16", "--save_dtype", "fp32"),
)
DRAW = ("--steps", 10, "--guidance_scale", 3, "--scheduler", "dpm++")


def main(argv: list[str] | None = None) -> int:
    """Train and score each seed and regime, and write table and image after each."""
    parser = Parser(
        prog="python -m experiments.transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for runs, covers, table and image")
    parser.add_argument("--pretrained_model", default="mini", help="model that all runs start from")
    parser.add_argument("--data_root", default="demo", help="data folder, or demo")
    parser.add_argument("--test_fraction", type=float, default=0.5, help="share of the books that are held out")
    parser.add_argument(
        "--regimes", nargs="+", choices=tuple(REGIMES), default=DEFAULT_REGIMES, metavar="NAME", help=", ".join(REGIMES)
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the training runs")
    parser.add_argument("--max_steps", type=int, default=400, help="updates of each training run, of 16 covers each")
    parser.add_argument(
        "--lettering_steps", type=int, help="updates of the runs with lettering (default: as many as the others)"
    )
    parser.add_argument("--num_examples", type=int, help="covers to train on (default: all that are not held out)")
    parser.add_argument("--validation_rows", type=int, default=256, help="held-out covers of the validation loss")
    parser.add_argument("--num_imgs", type=int, default=1000, help="number of covers to draw and score")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of the UNet")
    parser.add_argument("--lr_text_encoder", type=float, default=4e-4, help="learning rate of the text encoder")
    options = parser.parse_args(argv)
    options.out, options.seeds = options.out.resolve(), list(dict.fromkeys(options.seeds))
    options.regimes = list(dict.fromkeys(options.regimes))
    if options.data_root != "demo":
        options.data_root = str(pathlib.Path(options.data_root).expanduser().resolve())
    data = ("--data_root", options.data_root, "--test_fraction", options.test_fraction, "--resolution", "128x192")
    features = ("--fid_features", "efficientnet", "--fid_stats_path", options.out / "fid_stats.npz")
    options.lettering_steps = options.lettering_steps or options.max_steps
    num_train = check(options, data)
    lettered = [name for name in options.regimes if "train_lettering" in REGIMES[name]]
    metrics = ("fid", "legibility") if lettered else ("fid",)

    # So small a network gains little from a second thread: on a CPU, draw with one process for each core
    drawing = 1 if torch.cuda.is_available() else min(len(os.sched_getaffinity(0)), 8, options.num_imgs)
    plan = [(seed, regime) for seed in options.seeds for regime in options.regimes]
    results = []
    print(f"== statistics of the held-out covers; {len(plan)} runs follow", flush=True)
    run_script("precalc_fid_stats", *data, *features)
    baseline = autoencoder_baseline(options, data + features)
    for number, (seed, regime) in enumerate(plan):
        # Train, or resume
        name, learning = f"{regime.replace(', ', '-').replace(' ', '-')}-{seed}", REGIMES[regime]
        factor = LORA_LR if "lora_rank" in learning else 1
        print(f"== run {number + 1} of {len(plan)}: {regime}, seed {seed}", flush=True)
        run = RunFolder(options.out / "runs" / name)
        updates = options.lettering_steps if regime in lettered else options.max_steps
        third = max(1, updates // 3)
        # Encoding every cover once pays from the third time on that it is seen
        cached = updates * BATCH_SIZE > 2 * num_train
        words = (
            *("--output_dir", run.path.parent, "--run_id" if run.config.exists() else "--run_name", name),
            *("--pretrained_model", options.pretrained_model, "--seed", seed, *data, *TRAIN, *DRAW),
            *(word for option, value in learning.items() for word in (f"--{option}", value)),
            *("--lr", factor * options.lr, "--lr_text_encoder", factor * options.lr_text_encoder),
            *(("--lr_lettering", options.lr) if regime in lettered else ()),
            *("--max_steps", updates, "--cache_latents", cached, "--validation_rows", options.validation_rows),
            *(("--num_examples", options.num_examples) if options.num_examples else ()),
            *("--save_every", third, "--validate_every", third),
        )
        run_script("training", *words)

        # Draw and score; v0 is the same for all
        for version in ("v0", "latest") if number == 0 else ("latest",):
            if not read_score(run, version, options.num_imgs, metrics):
                start = ("--output_dir", run.path.parent, "--run_id", name, "--version", version)
                scoring = ("--calc_fid", True, "--metrics", ",".join(metrics), "--num_imgs", options.num_imgs)
                run_script("sd_inference", *start, *data, *DRAW, *features, *scoring, processes=drawing)
            result = read_result(run, version, options.num_imgs, metrics, num_train)
            results.append(dict(name=regime if version == "latest" else "v0", seed=seed) | result)
        write_text(options.out / "table.md", table(options, baseline, results))
        make_image(options, data, results)
    print((options.out / "table.md").read_text(encoding="utf-8"))
    print(f"table and image: {options.out / 'table.md'}, {options.out / 'covers.png'}")
    return 0


def check(options: argparse.Namespace, data: tuple) -> int:
    """Number of training covers. data: the options of the data folder.

    UserError if fewer covers are held out than are to be scored, or if --out has the results of other options.
    """
    opened = open_data(stats_options(data))
    held_out = len(opened.books("test"))
    if not 2 <= options.num_imgs <= held_out:
        raise UserError(f"--num_imgs {options.num_imgs}: expected 2 to {held_out}, the covers that are held out")
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "seeds", "regimes")}
    saved_options.require_same_options(options.out / "asked.json", settings)
    return len(opened.books("train")[: options.num_examples])


# ---------------------------------------------------------------------------------------------------------------------
# Results of the scripts


def read_score(
    run: RunFolder, version: str, count: int, metrics: Sequence[str] = ("fid",)
) -> tuple[pathlib.Path, dict] | None:
    """(folder of the covers, content of its metrics.json), or None if `count` covers are not scored yet by these."""
    found = run.covers / catalog.read_version_index(run).aliases.get(version, version) / "metrics.json"
    score = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {}
    values = [{"legibility": "titles_read"}.get(metric, metric) for metric in metrics]
    complete = score.get("n") == count and all(value in score["values"] for value in values)
    return (found.parent, score) if complete else None


def read_result(run: RunFolder, version: str, count: int, metrics: Sequence[str], num_train: int) -> dict[str, Any]:
    """The results of one version: its distance, with legibility the share of titles read, the run's validation losses,
    training seconds and bytes of a version.

    count: covers scored; num_train: covers in an epoch, whose last update may have fewer than the others.
    """
    covers, score = read_score(run, version, count, metrics)
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    batch_size = json.loads(run.config.read_text(encoding="utf-8"))["batch_size"]
    seconds = 0
    for line in lines:
        if "images_per_s" in line:
            before = (line["step"] - 1) % -(-num_train // batch_size) * batch_size  # covers of this epoch
            seconds += min(batch_size, num_train - before) / line["images_per_s"]
    fid, titles = (score["values"].get(key, {}) for key in ("fid", "titles_read"))
    latest = run.version(catalog.read_version_index(run).aliases["latest"])
    learned = [path for path in latest.rglob("*.safetensors") if not (run.frozen / path.relative_to(latest)).exists()]
    result = dict(covers=covers, score=score, distance=fid["value"], real=fid["real"])
    result |= dict(
        titles=titles.get("value"), real_titles=titles.get("real"), nbytes=sum(path.stat().st_size for path in learned)
    )
    return result | dict(first=losses[0], last=losses[-1], seconds=seconds)


def stats_options(words: Sequence) -> config.StatsOptions:
    """The options that these words of a command line give to precalc_fid_stats."""
    return config.StatsOptions(**read_command_line(config.StatsOptions, list(map(str, words))))


def autoencoder_baseline(options: argparse.Namespace, words: Sequence) -> float:
    """Distance of training covers that were encoded and decoded by the autoencoder: the cost of its blur alone."""
    path = options.out / "autoencoder.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["distance"]

    chosen = stats_options(words)
    data = open_data(chosen)
    extractor = features.load_extractor(chosen, torch.device("cpu"))
    reference = load_reference(chosen, extractor, data)
    vae, size = pipeline.load_parts(options.pretrained_model).vae, config.size(chosen)
    books = data.books("train")[: options.num_imgs]

    def reconstruct(book: Book) -> np.ndarray:
        pixels = dataset.load_image(book.image, size)[None]
        with torch.inference_mode():
            latents = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
            try:
                return encoding.decode_latents(vae, latents)[0].numpy()
            except encoding.NotFinite as problem:
                raise UserError(f"{options.pretrained_model}'s copy of row {book.row}: {problem}") from None

    with tqdm(total=len(books), desc="autoencoder's copies", unit="image") as bar:
        copies = evaluate.moments_of(feature_cache.compute_features(extractor, map(reconstruct, books), bar))
    distance = distances.frechet_distance(reference.mu, reference.sigma, copies.mu, copies.sigma)
    write_json(path, {"distance": distance, "n": len(books)})
    return distance


# ---------------------------------------------------------------------------------------------------------------------
# Table and image


def spread(values: Sequence[float], digits: int = 1) -> str:
    """'mean ± standard deviation' of several values, or the only value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(options: argparse.Namespace, baseline: float, results: list[dict[str, Any]]) -> str:
    """Markdown table: the baselines, v0 and each regime over the seeds."""
    score = results[0]["score"]
    seeds = list(dict.fromkeys(result["seed"] for result in results))
    which = f"seeds {', '.join(map(str, seeds))}; ± is the deviation between them" if seeds[1:] else f"seed {seeds[0]}"
    longer = f" ({options.lettering_steps} with lettering)" if options.lettering_steps != options.max_steps else ""
    read = " titles read |" if results[0]["titles"] is not None else ""  # a column that only lettering's tables have

    def cell(titles: str) -> str:
        return f" {titles} |" if read else ""

    columns = (
        f"trained | distance | each seed |{read} validation loss before | after | seconds of training | MB of weights"
    )
    lines = [
        f"{score['score']} of {score['n']} covers to {score['n_reference']} held-out ones, lower is better; "
        f"{options.max_steps} updates of {BATCH_SIZE} covers{longer}, {which}. v0 is drawn "
        f"from the latents of the first. Seconds are those of the updates, without reading, validating and saving.",
        "",
        f"| {columns} |",
        "|---|---|---|---|---|---|---|" + ("---|" if read else ""),
        f"| (real covers to learn from) | {results[0]['real']:.1f} | |"
        + cell(f"{results[0]['real_titles'] or 0:.2f}")
        + " | | | |",
        f"| (the autoencoder's copies of such covers) | {baseline:.1f} | |" + cell("") + " | | | |",
    ]
    for name in ("v0", *REGIMES):
        some = [result for result in results if result["name"] == name]
        if not some:
            continue
        distances = [result["distance"] for result in some]
        line = f"| {name} | {spread(distances)} | {', '.join(f'{d:.1f}' for d in distances)} |"
        line += cell(spread([result["titles"] or 0 for result in some], 2))
        if name == "v0":
            lines.append(line + " | | | |")
            continue
        before, after, seconds, nbytes = (
            statistics.mean(result[key] for result in some) for key in ("first", "last", "seconds", "nbytes")
        )
        lines.append(line + f" {before:.4f} | {after:.4f} | {seconds:.0f} | {nbytes / 1e6:.1f} |")
    return "\n".join([*lines, ""])


def make_image(options: argparse.Namespace, data: tuple, results: list[dict[str, Any]], columns: int = 10) -> None:
    """Writes covers.png: real held-out covers, then those of v0 and of the first seed's regimes; a book a column."""
    data_options = stats_options(data)
    books = open_data(data_options).books("test")[: min(columns, options.num_imgs)]
    rows = [("real covers, held out", [read_cover(book.image, config.size(data_options)) for book in books])]
    for result in results:
        if result["seed"] == options.seeds[0]:
            rows.append((result["name"], [read_png(result["covers"] / f"{book.row}.png") for book in books]))
    images = [image for _, some in rows for image in some]
    labels = [label for name, some in rows for label in [name, *(book.title for book in books[1:])][: len(some)]]
    page = grid.image_grid(torch.from_numpy(np.stack(images)), len(books), labels)
    save_png(options.out / "covers.png", page)


if __name__ == "__main__":
    launch.run_script(main)
