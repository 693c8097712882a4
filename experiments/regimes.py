"""The regimes of the original experiment, and one that it planned but never ran: train, draw, score, report.

    python -m experiments.regimes --out DIR                  # as originally, on the whole Goodreads set: days on a GPU
    python -m experiments.regimes --out DIR --scale 0.05 --data_root demo --pretrained_model tiny --resolution 64x96 \\
        --test_fraction 0.5 --fid_features efficientnet --num_imgs 100       # minutes on a laptop, without internet

Options of training, sd_inference and precalc_fid_stats are passed on to the scripts that have them. Finished steps are
not repeated: after Ctrl-C or a crash the same command resumes, a training run from its last saved state; an option that
would change what was trained already is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

import config
from cli import checks, launch, saved_options
from cli.parser import Parser, normalize_argv, read_command_line
from common.errors import UserError
from data.folder import open_data

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Regime(NamedTuple):
    """The trained parts, the number of epochs and the number of covers."""

    train_unet: bool
    train_text_encoder: bool
    epochs: int
    covers: int


REGIMES = {
    "unet-8x3000": Regime(True, False, 8, 3000),
    "text-2x500": Regime(False, True, 2, 500),
    "text-8x5000": Regime(False, True, 8, 5000),
    "text-2x6000": Regime(False, True, 2, 6000),
    "both-8x5000": Regime(True, True, 8, 5000),  # never run originally; as long as the longest one that was
}


def main(argv: list[str] | None = None) -> int:
    """Train and score each regime, then v0, then write the page."""
    parser = Parser(
        prog="python -m experiments.regimes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an option of a script must not be taken for an abbreviation of one of these
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for runs, covers, statistics, page")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="factor on each regime's number of covers",
    )
    options, passed_on = parser.parse_known_args(argv)
    if not 0 < options.scale <= 1:
        raise UserError(f"--scale {options.scale}: expected a factor above 0, at most 1")
    words = sort_words(passed_on)

    counts = count_covers(words[config.TrainingOptions], options.scale)

    runs, stats_path = options.out.resolve() / "runs", options.out.resolve() / "fid_stats.npz"
    run_script("precalc_fid_stats", *words[config.StatsOptions], "--fid_stats_path", stats_path)
    scored = ("--calc_fid", True, "--fid_stats_path", stats_path)
    for number, (name, regime) in enumerate(REGIMES.items()):
        requested, covers = counts[name]
        size = f"{covers:,} covers" if covers == requested else f"all {covers:,} covers of the {requested:,} asked for"
        print(f"== {number + 1} of {len(REGIMES)}: {name}, {size}, {regime.epochs} epochs", flush=True)
        trained = ("--train_unet", regime.train_unet, "--train_text_encoder", regime.train_text_encoder)
        trained += ("--epochs", regime.epochs, "--num_examples", covers)
        # An existing run gets all options again: training refuses those that would change its past
        identity = "--run_id" if (runs / name / "config.json").exists() else "--run_name"
        run_script("training", *words[config.TrainingOptions], *trained, "--output_dir", runs, identity, name)
        start = ("--output_dir", runs, "--run_id", name)
        for version in ("v0", "latest") if number == 0 else ("latest",):
            run_script("sd_inference", *words[config.InferenceOptions], *start, "--version", version, *scored)
    page = options.out.resolve() / "report.html"
    run_script(
        *("report", "--output_dir", runs, "--run_id", ",".join(REGIMES), "--version", "v0,latest"),
        *("--report_path", page),
    )
    return 0


def count_covers(words: list[str], scale: float) -> dict[str, tuple[int, int]]:
    """{regime: (covers requested, covers available for it)}. words: the options for training.

    UserError if two regimes that differ in their covers alone would be the same.
    """
    training = config.TrainingOptions(**read_command_line(config.TrainingOptions, words))
    available = len(open_data(training).books("train"))
    counts, names = {}, {}
    for name, regime in REGIMES.items():
        requested = math.ceil(regime.covers * scale)
        counts[name] = requested, min(requested, available)
        same = names.setdefault(regime._replace(covers=counts[name][1]), name)
        if same != name:
            change = "smaller --scale, or more data" if requested > available else "larger --scale"
            raise UserError(
                f"--scale {scale}: {same} and {name} would be the same, both with {counts[name][1]:,} of the "
                f"{available:,} training covers: give a {change}"
            )
    return counts


def sort_words(given: list[str]) -> dict[type, list[str]]:
    """{options class: [--name, value, ...]}: the given options, for each script that has them. UserError for others."""
    classes = (config.StatsOptions, config.TrainingOptions, config.InferenceOptions)
    words = {cls: [] for cls in classes}
    ours = {"run_id", "run_name", "output_dir", "version", "calc_fid", "fid_stats_path", "num_examples", "epochs"}
    ours |= {"train_unet", "train_text_encoder", "max_steps", "save_dir", "prompt", "wandb_key"}
    known = {cls: {field.name for field in dataclasses.fields(cls)} - ours for cls in classes}
    pairs, last = [], None
    for word in normalize_argv(given):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            pairs.append(last := [name, *([value] if equals else [])])
        elif last is None or len(last) == 2:
            raise UserError(f"{word} stands where an option should be")
        else:
            last.append(word)
    fields = saved_options.known_fields()  # by alias, too
    for name, *values in pairs:
        name = fields[name].name if name in fields else name
        knowing = [cls for cls in classes if name in known[cls]]
        if not knowing:
            if name in ours:
                raise UserError(f"--{name} can't be given here: see --help for what each regime is")
            near = difflib.get_close_matches(name, {"out", "scale"}.union(*known.values()), n=1)
            raise UserError(f"unknown option --{name}; " + (f"did you mean --{near[0]}?" if near else "see --help"))
        for cls in knowing:
            words[cls] += [f"--{name}", *values]
    always = {config.InferenceOptions: ["--calc_fid", "True"]}
    for cls in classes:  # before anything long begins
        checks.check(cls(**read_command_line(cls, words[cls] + always.get(cls, []))))
    return words


def run_script(script: str, *words: object, processes: int = 1) -> None:
    """Runs one of the project's scripts as a child with the same output; exits with its status unless that is 0.

    processes > 1: so many processes with one thread each share its work on the CPU; the first failure ends the others.

    Stopping is left to the script, which may have to save: Ctrl-C reaches it directly, SIGTERM and SIGHUP are
    forwarded. This process exits after it, with 128 + the number of the signal if the script exits with 0.
    """
    running, stop, failed = [], 0, 0

    def forward(number: int, _frame: object) -> None:
        nonlocal stop
        stop = number
        end(running, number)

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]  # as under nohup
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        command = [sys.executable, ROOT / f"{script}.py", *map(str, words)]
        for environment in environments(processes):
            running.append(subprocess.Popen(command, env=environment))
        if stop:  # the signal came while the processes were started
            end(running, stop)
        while any(process.poll() is None for process in running):
            try:
                for process in running:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        status = process.wait(timeout=None if processes == 1 else 0.2)
                        if status and not failed:
                            failed = status
                            end(running)
            except KeyboardInterrupt:
                stop = signal.SIGINT
    finally:
        end(running)  # after an error, such as a process that can't be started
        for number, handler in before.items():
            signal.signal(number, handler)
    status = failed or next((process.returncode for process in running if process.returncode), 0)
    status = status if status >= 0 else 128 - status
    if status or stop:
        sys.exit(status or 128 + stop)


def end(processes: list[subprocess.Popen], number: int = signal.SIGTERM) -> None:
    """Sends a signal to the processes that still run."""
    for process in processes:
        process.send_signal(number)


def environments(processes: int) -> list[dict[str, str] | None]:
    """The environment of each process, with Accelerate's variables; [None] (inherit) for a single one."""
    if processes == 1:
        return [None]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1}
    each = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]
    return [os.environ | {name: str(value) for name, value in one.items()} for one in each]


if __name__ == "__main__":
    launch.run_script(main)
