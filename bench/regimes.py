"""The five regimes of the original experiment, and the one that it wanted and never ran: train, draw, score, report.

    python -m bench.regimes --out DIR                        # as it was, on the whole Goodreads set: days on one GPU
    python -m bench.regimes --out DIR --scale 0.05 --data_root demo --pretrained_model tiny --resolution 64x96 \\
        --fid_features efficientnet --num_imgs 100           # minutes on a laptop, without internet

Options of training, sd_inference and precalc_fid_stats are handed on to those that know them. What is done is not done
again: after Ctrl-C or a crash the same command goes on, a training run from its last version.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import pathlib
import subprocess
import sys
from typing import NamedTuple

import command_line
import config

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Regime(NamedTuple):
    """What learns, for how long, on how many covers."""

    train_unet: bool
    train_text_encoder: bool
    epochs: int
    covers: int


REGIMES = {
    "unet-8x3000": Regime(True, False, 8, 3000),
    "text-2x500": Regime(False, True, 2, 500),
    "text-8x5000": Regime(False, True, 8, 5000),
    "text-2x6000": Regime(False, True, 2, 6000),
    "both-8x5000": Regime(True, True, 8, 5000),  # never run then: as long as the longest that was
}


def main(argv=None):
    """Train and score each regime, then v0, then write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.regimes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for runs, covers, statistics, page")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the covers that each regime learns from")
    options, handed_on = parser.parse_known_args(argv)
    if not 0 < options.scale <= 1:
        raise config.UserError(f"--scale {options.scale}: expected a factor above 0, at most 1")
    words = sort_words(handed_on)

    runs, stats_path = options.out.resolve() / "runs", options.out.resolve() / "fid_stats.npz"
    if not stats_path.exists():
        run_script("precalc_fid_stats", *words[config.StatsOptions], "--fid_stats_path", stats_path)
    scored = ("--calc_fid", True, "--fid_stats_path", stats_path)
    for number, (name, regime) in enumerate(REGIMES.items()):
        covers = math.ceil(regime.covers * options.scale)
        print(f"== {number + 1} of {len(REGIMES)}: {name}, {covers} covers, {regime.epochs} epochs", flush=True)
        start = ("--output_dir", runs, "--run_id", name)
        if (runs / name / "config.json").exists():
            run_script("training", *start)
        else:
            learning = {**regime._asdict(), "num_examples": covers}
            del learning["covers"]
            learning = [word for key, value in learning.items() for word in (f"--{key}", value)]
            run_script("training", *words[config.TrainingOptions], *learning, "--output_dir", runs, "--run_name", name)
        for version in ("v0", "latest") if number == 0 else ("latest",):
            run_script("sd_inference", *words[config.InferenceOptions], *start, "--version", version, *scored)
    page = options.out.resolve() / "report.html"
    run_script(
        *("report", "--output_dir", runs, "--run_id", ",".join(REGIMES), "--version", "v0,latest"),
        *("--report_path", page),
    )
    return 0


def sort_words(given):
    """{options class: [--name, value, ...]}: what was given, for each script that knows it. UserError for the rest."""
    classes = (config.StatsOptions, config.TrainingOptions, config.InferenceOptions)
    words = {cls: [] for cls in classes}
    ours = {"run_id", "run_name", "output_dir", "version", "calc_fid", "fid_stats_path", "num_examples", "epochs"}
    ours |= {"train_unet", "train_text_encoder", "max_steps", "save_dir", "prompt", "wandb_key"}
    known = {cls: {field.name for field in dataclasses.fields(cls)} - ours for cls in classes}
    pairs, last = [], None
    for word in command_line.normalize_argv(given):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            pairs.append(last := [name, *([value] if equals else [])])
        elif last is None or len(last) == 2:
            raise config.UserError(f"{word} stands where an option should be")
        else:
            last.append(word)
    for name, *values in pairs:
        knowing = [cls for cls in classes if name in known[cls]]
        if not knowing:
            if name in ours:
                raise config.UserError(f"--{name} can't be given here: see --help for what each regime is")
            near = difflib.get_close_matches(name, set().union(*known.values()), n=1)
            raise config.UserError(
                f"unknown option --{name}; " + (f"did you mean --{near[0]}?" if near else "see --help")
            )
        for cls in knowing:
            words[cls] += [f"--{name}", *values]
    for cls in classes:
        config.check(cls(**command_line.read_command_line(cls, words[cls])))  # before anything long begins
    return words


def run_script(script, *words):
    """Run one of the project's scripts with its output on ours; its exit status, if that is not 0, becomes ours."""
    status = subprocess.run([sys.executable, ROOT / f"{script}.py", *map(str, words)]).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    command_line.run_script(main)
