"""Does fine-tuning move mini's pictures towards book covers? Text encoder, UNet and both, from the same start.

    python -m mini_sd.compare --out DIR

Runs the project's own scripts: statistics of held-out covers, v0 scored, then for every seed and regime a training run
and its score; all on the demo data. Writes DIR/table.md and DIR/covers.png. What is done is not done again: after
Ctrl-C or a crash the same command goes on, a training run from its last version.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

REGIMES = {
    "text encoder": (False, True),
    "UNet": (True, False),
    "both": (True, True),
}  # (train_unet, train_text_encoder)
HERE = pathlib.Path(__file__).resolve().parent.parent
LEARN = (
    *("--batch_size", 16, "--lr_scheduler", "cosine", "--warmup_steps", 20, "--optimizer", "adamw"),
    *("--grad_ckpt", False, "--sample_every", 0, "--keep_versions", 0, "--validation_rows", 256),
)
DRAW = ("--steps", 10, "--guidance_scale", 3, "--scheduler", "dpm++")
FEATURES = ("--fid_features", "efficientnet")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for runs, covers, table and picture")
    parser.add_argument("--model", default="mini", help="what all runs start from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max_steps", type=int, default=450, help="updates of each training run")
    parser.add_argument("--num_imgs", type=int, default=1000, help="covers that are scored")
    parser.add_argument("--lr", type=float, default=5e-4, help="learning rate of the UNet")
    parser.add_argument("--lr_text_encoder", type=float, default=1e-3)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)

    results = []
    plan = [("v0", None), *((regime, seed) for seed in options.seeds for regime in REGIMES)]
    floors = measure_floors(options)
    for done, (regime, seed) in enumerate(plan):
        print(f"== {done + 1} of {len(plan)}: {regime}" + ("" if seed is None else f", seed {seed}"), flush=True)
        results.append(measure_v0(options) if seed is None else measure_run(options, regime, seed))
        write_table(options, floors, results)
        draw_picture(options, results)
    print((options.out / "table.md").read_text(encoding="utf-8"))
    print(f"table and picture: {options.out / 'table.md'}, {options.out / 'covers.png'}")
    return 0


def data_options():
    return "--data_root", "demo", "--resolution", "128x192", "--test_fraction", 0.5


def data_set(*words):
    """config.StatsOptions of the data that all runs share."""
    import command_line
    import config

    return config.StatsOptions(
        **command_line.read_command_line(config.StatsOptions, list(map(str, data_options() + words)))
    )


def run_script(script, *words, processes=1):
    """Run one of the project's scripts with its output on ours; its exit status, if that is not 0, becomes ours.

    processes > 1: as many of one thread each, which share the work. Covers are drawn one by one, and so small a network
    gains little from a second thread.
    """
    command, environment = [sys.executable, "-m", script], dict(os.environ)
    if processes > 1:
        launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", str(processes))
        command = [sys.executable, "-m", *launcher, f"{script}.py"]
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    status = subprocess.run([*command, *map(str, words)], cwd=HERE, env=environment).returncode
    if status:
        sys.exit(status)


def once(path, measure):
    """The dict in the JSON file at `path`; measured and written there if it is not there yet."""
    if not path.exists():
        import files

        files.write_json(path, measure())
    return json.loads(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def measure_floors(options):
    """Distances to the held-out covers that can't be beaten: of real covers, and of the autoencoder's copies."""
    stats_path = (options.out / "fid_stats.npz").resolve()
    if not stats_path.exists():
        run_script("precalc_fid_stats", *data_options(), *FEATURES, "--fid_stats_path", stats_path)
    return once(options.out / "floors.json", lambda: floors(options, stats_path))


def floors(options, stats_path):
    import torch

    import config
    import covers
    import dataset
    import features
    import metrics
    import models

    stats_options = data_set(*FEATURES, "--fid_stats_path", stats_path)
    data = dataset.open_data(stats_options)
    extractor = features.load_extractor(stats_options, torch.device("cpu"))
    reference = metrics.load_reference(stats_options, extractor, data)
    size = config.size(stats_options)
    vae = models.load_parts(options.model).vae

    def copy(book):
        pixels = dataset.load_image(book.image, size)[None]
        with torch.inference_mode():
            latents = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
            return models.decode_latents(vae, latents)[0].numpy()

    def distance(images, count, what):
        moments = metrics.moments(images, extractor, count, what)
        return metrics.frechet_distance(reference.mu, reference.sigma, moments.mu, moments.sigma)

    train, held_out = (data.books(split)[: options.num_imgs] for split in ("train", "test"))
    real = features.read_ahead(lambda book: covers.read(book.image, size), train, 2)
    return {
        "real": distance(real, len(train), "real covers"),
        "autoencoder": distance(map(copy, held_out), len(held_out), "autoencoder's copies"),
        "n": len(held_out),
        "n_reference": reference.n,
        "score": extractor.score_name,
    }


def score(options, name, *words):
    """Draw and score with sd_inference into <out>/covers/<name>: its metrics.json, and the folder of the covers."""
    folder = (options.out / "covers" / name).resolve()
    found = list(folder.glob("v*/metrics.json"))
    if not found:
        import torch

        stats_path = (options.out / "fid_stats.npz").resolve()
        run_script(
            *("sd_inference", *words, *data_options(), *DRAW, *FEATURES, "--fid_stats_path", stats_path),
            *("--calc_fid", True, "--num_imgs", options.num_imgs, "--save_dir", folder),
            processes=os.cpu_count() if not torch.cuda.is_available() else 1,
        )
        found = list(folder.glob("v*/metrics.json"))
    return json.loads(found[0].read_text(encoding="utf-8")) | {"covers": str(found[0].parent)}


def measure_v0(options):
    result = score(
        options, "v0", "--version", "v0", "--pretrained_model", options.model, "--output_dir", options.out / "no runs"
    )
    return {"regime": "v0", "seed": None, "distance": result["distance"], "covers": result["covers"]}


def measure_run(options, regime, seed):
    """Train (or go on), score, and gather what the table tells of one run."""
    name, runs = f"{regime.replace(' ', '-')}-{seed}", (options.out / "runs").resolve()
    run, clock = runs / name, options.out / f"{name}.json"

    def train():
        words = ("--output_dir", runs, "--run_id", name)
        if not (run / "config.json").exists():
            unet, text_encoder = REGIMES[regime]
            words = (
                *("--output_dir", runs, "--run_name", name, "--pretrained_model", options.model, "--seed", seed),
                *("--train_unet", unet, "--train_text_encoder", text_encoder, "--max_steps", options.max_steps),
                *("--lr", options.lr, "--lr_text_encoder", options.lr_text_encoder, *data_options(), *LEARN, *DRAW),
                *("--save_every", max(1, options.max_steps // 3), "--validate_every", max(1, options.max_steps // 3)),
            )
        began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        run_script("training", *words)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        return {"seconds": time.monotonic() - began, "cpu_seconds": cpu}  # of the last start, if it was stopped

    took = once(clock, train)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    result = score(options, name, "--output_dir", runs, "--run_id", name, "--version", "latest")
    gathered = {"distance": result["distance"], "covers": result["covers"], "first": losses[0], "last": losses[-1]}
    return {"regime": regime, "seed": seed, **gathered, **took}


# ---------------------------------------------------------------------------------------------------------------------
# Telling


def spread(values):
    """'mean ± standard deviation' of several values, or the one there is."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def write_table(options, floors, results):
    import files

    n = floors["n"]
    lines = [
        f"{floors['score']} of {n} covers to {floors['n_reference']} held-out ones, lower is better; "
        f"{options.max_steps} updates of 16 covers each, seeds {', '.join(map(str, options.seeds))}.",
        "",
        "| trained | distance | each seed | validation loss before | after | minutes | CPU minutes |",
        "|---|---|---|---|---|---|---|",
        f"| (real covers to train on) | {floors['real']:.1f} | | | | | |",
        f"| (autoencoder's copies of held-out covers) | {floors['autoencoder']:.1f} | | | | | |",
    ]
    for regime in ("v0", *REGIMES):
        some = [result for result in results if result["regime"] == regime]
        if not some:
            continue
        distances = [result["distance"] for result in some]
        line = f"| {regime} | {spread(distances)} | {', '.join(f'{d:.1f}' for d in distances)} |"
        if regime == "v0":
            lines.append(line + " | | | |")
            continue
        before, after = (statistics.mean(result[key] for result in some) for key in ("first", "last"))
        minutes, cpu = (statistics.mean(result[key] for result in some) / 60 for key in ("seconds", "cpu_seconds"))
        lines.append(line + f" {before:.4f} | {after:.4f} | {minutes:.1f} | {cpu:.1f} |")
    files.write_text(options.out / "table.md", "\n".join([*lines, ""]))


def draw_picture(options, results, columns=10):
    """One picture, books x versions: real held-out covers, then v0's and each regime's of the first seed."""
    import numpy as np
    import torch

    import covers
    import dataset
    import features
    import sampling

    options_of_data = data_set()
    books = dataset.open_data(options_of_data).books("test")[: min(columns, options.num_imgs)]
    rows = [("real covers, held out", [covers.read(book.image, (128, 192)) for book in books])]
    for result in results:
        if result["seed"] in (None, options.seeds[0]):
            folder = pathlib.Path(result["covers"])
            rows.append((result["regime"], [features.read_png(folder / f"{book.row}.png") for book in books]))
    images = [image for _, some in rows for image in some]
    labels = [label for name, some in rows for label in [name, *(book.title for book in books[1:])][: len(some)]]
    page = sampling.grid(torch.from_numpy(np.stack(images)), len(books), labels)
    sampling.save_png(options.out / "covers.png", page)


if __name__ == "__main__":
    sys.exit(main())
