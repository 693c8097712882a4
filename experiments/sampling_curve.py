"""How few sampling steps suffice: FID of each scheduler at several numbers of steps, with one version.

    python -m experiments.sampling_curve --out DIR --output_dir RUNS --run_id ID --data_root demo \\
        --resolution 128x192 --test_fraction 0.5 --fid_features efficientnet --guidance_scale 3 --num_imgs 200

Options of sd_inference are passed on to it. Scored combinations are not repeated: the same command resumes. Each
combination has a folder in --out; an unfinished one is deleted and started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Sequence

import torch

import config
from bench import positive
from cli import checks, launch, saved_options
from cli.parser import Parser, read_command_line
from common.errors import UserError
from common.files import read_json, write_json, write_text
from diffusion import sampling
from experiments.regimes import run_script
from generation.version import choose_version, require_drawable


def main(argv: list[str] | None = None) -> int:
    """Draw and score each combination, and print the table after each."""
    parser = Parser(
        prog="python -m experiments.sampling_curve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the covers and the table")
    parser.add_argument(
        "--schedulers",
        nargs="+",
        choices=sampling.SAMPLERS,
        default=["dpm++", "ddim", "pndm", "euler"],
        help="schedulers",
    )
    parser.add_argument("--numbers", type=positive, nargs="+", default=[5, 10, 15, 25, 50], help="numbers of steps")
    options, passed_on = parser.parse_known_args(argv)
    given = read_command_line(config.InferenceOptions, passed_on)
    if {"steps", "scheduler", "save_dir"} & set(given):
        raise UserError("steps, scheduler and folder are what this varies: see --numbers, --schedulers, --out")
    chosen, version = choose_version(checks.check(config.InferenceOptions(**given)), given)
    for scheduler in options.schedulers:
        for steps in options.numbers:
            require_drawable(dataclasses.replace(chosen, scheduler=scheduler, steps=steps), version)
    options.out.mkdir(parents=True, exist_ok=True)
    secret = config.option_names(config.InferenceOptions, "secret", True)
    asked = {name: value for name, value in vars(config.InferenceOptions(**given)).items() if name not in secret}
    # The newest run and its latest version may be others when this goes on
    asked |= {"run_id": version.run.name if version.run else None, "version": version.name}
    saved_options.require_same_options(options.out / "asked.json", asked)

    drawing = 1 if torch.cuda.is_available() else os.cpu_count()
    found = {}  # (scheduler, steps) -> (content of metrics.json, seconds of drawing and scoring)
    for scheduler in options.schedulers:
        for steps in options.numbers:
            folder = options.out.resolve() / f"{scheduler.replace('+', 'p')}-{steps}"
            words = ("--scheduler", scheduler, "--steps", steps, "--save_dir", folder, "--calc_fid", True)
            if not (folder / "seconds.json").exists():
                shutil.rmtree(folder, ignore_errors=True)  # a partial drawing could not be timed
                began = time.monotonic()
                run_script("sd_inference", *passed_on, *words, "--metrics", "fid", processes=drawing)
                write_json(folder / "seconds.json", {"seconds": time.monotonic() - began})
            (metrics,) = folder.glob("*/metrics.json")
            found[scheduler, steps] = read_json(metrics), read_json(folder / "seconds.json")["seconds"]
            write_text(options.out / "table.md", table(found, options.numbers))
            print(table(found, options.numbers), flush=True)
    return 0


def table(found: dict[tuple[str, int], tuple[dict, float]], numbers: Sequence[int]) -> str:
    """Markdown table, a row for each scheduler, a column for each number of steps: FID ± error, seconds a cover."""
    score, _ = next(iter(found.values()))
    lines = [
        f"{score['score']} of {score['n']} covers (± one standard error), and seconds a cover with start and scoring",
        "",
        "| scheduler | " + " | ".join(f"{steps} steps" for steps in numbers) + " |",
        "|---|" + "---|" * len(numbers),
    ]
    for scheduler in dict.fromkeys(scheduler for scheduler, _ in found):
        cells = []
        for steps in numbers:
            if (scheduler, steps) in found:
                score, seconds = found[scheduler, steps]
                fid = score["values"]["fid"]
                error = f" ± {fid['error']:.1f}" if fid.get("error") is not None else ""
                cells.append(f"{fid['value']:.1f}{error}, {seconds / score['n']:.2f} s")
        lines.append(f"| {scheduler} | " + " | ".join(cells + [""] * (len(numbers) - len(cells))) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(launch.run_script(main))
