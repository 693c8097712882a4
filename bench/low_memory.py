"""Effect of the memory-saving options on training: validation curves of each against plain AdamW, on the toy model.

    python -m bench.low_memory --out low_memory          # 200 updates each: about five minutes on one core

All runs start from the same weights. A figure is the validation loss divided by that before training (of the same run,
since validation noise depends on the seed). The plain mode is trained with several seeds: a difference matters if it
exceeds that between seeds. In the toy, 8-bit moments cover two thirds of the weights: bitsandbytes keeps fp32 moments
for tensors of fewer than 4096 elements. Existing runs are not trained again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys

from cli import launch
from cli.parser import Parser
from common.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXED = """--pretrained_model tiny --data_root demo --resolution 64x96 --train_unet True --train_text_encoder True
    --lr 1e-3 --lr_text_encoder 1e-3 --batch_size 4 --grad_ckpt False --num_workers 0 --sample_every 0
    --save_every 100000"""
MODES = {  # the first is the baseline
    "plain AdamW": "--optimizer adamw",
    "fused_backward": "--optimizer adamw --fused_backward True",
    "cached latents": "--optimizer adamw --cache_latents True",
    "bf16 arithmetic": "--optimizer adamw --mixed_precision bf16",
    "bf16 weights": "--optimizer adamw --weights_dtype bf16",
    "bf16 weights, gradients of 4 batches": "--optimizer adamw --weights_dtype bf16 --batch_size 1 --grad_acc_steps 4",
    "8-bit AdamW": "--optimizer adamw8bit",
    "paged 8-bit AdamW": "--optimizer paged_adamw8bit",
    "adafactor": "--optimizer adafactor",
    "6gb: 8-bit, fused, bf16": "--optimizer paged_adamw8bit --fused_backward True --weights_dtype bf16",
}


def main(argv: list[str] | None = None) -> int:
    """Train every mode, then print the table."""
    parser = Parser(
        prog="python -m bench.low_memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default="low_memory", help="folder for the runs")
    parser.add_argument("--updates", type=int, default=200, help="of each run; at least 4")
    parser.add_argument("--seeds", type=int, default=3, help="runs of the plain mode with different seeds; at least 2")
    args = parser.parse_args(argv)
    if args.seeds < 2 or args.updates < 4:
        raise UserError("--seeds must be at least 2, and --updates at least 4")
    plain = next(iter(MODES))

    curves = {}  # (mode, seed) -> {update: loss / loss before training}
    for mode, words in MODES.items():
        for seed in range(args.seeds if mode == plain else 1):
            curves[mode, seed] = train(args.out, mode, seed, words.split(), args.updates)

    end = args.updates
    final = [curves[plain, seed][end] for seed in range(args.seeds)]
    spread = statistics.stdev(final)
    points = list(curves[plain, 0])[1:]
    print(f"validation loss as a share of that before training; {' '.join(FIXED.split())}\n")
    print("| mode | " + " | ".join(f"update {point}" for point in points) + " | end, less plain | in spreads |")
    print("|---" * (len(points) + 3) + "|")
    for (mode, seed), curve in curves.items():
        name = mode if mode != plain else f"{mode}, seed {seed}"
        gap = curve[end] - curves[plain, 0][end]
        difference = f"{gap:+.4f} | {gap / spread:+.1f}"
        print(f"| {name} | " + " | ".join(f"{curve[point]:.4f}" for point in points) + f" | {difference} |")
    print(f"\nspread: {spread:.4f}, the standard deviation of plain over {args.seeds} seeds")
    return 0


def train(out: pathlib.Path, mode: str, seed: int, words: list[str], updates: int) -> dict[int, float]:
    """{update: validation loss / that before training} of one run, which is trained unless it exists."""
    name = re.sub(r"\W+", "_", f"{mode} {seed} {updates}")
    run = out / name
    if updates not in losses_of(run):
        print(f"training {name}", file=sys.stderr, flush=True)
        every = ["--max_steps", str(updates), "--validate_every", str(updates // 4), "--seed", str(seed)]
        new = ["--run_name", name, *FIXED.split(), *every, *words]
        which = ["--run_id", name] if (run / "config.json").exists() else new
        command = [sys.executable, "-m", "training", "--output_dir", str(out.resolve()), *which]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"training {name} failed: {done.stderr.strip().splitlines()[-1]}")
    losses = losses_of(run)
    return {update: loss / losses[0] for update, loss in losses.items()}


def losses_of(run: pathlib.Path) -> dict[int, float]:
    """{update: validation loss} of a run so far."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines]
    return {entry["step"]: entry["validation_loss"] for entry in entries if "validation_loss" in entry}


if __name__ == "__main__":
    sys.exit(launch.run_script(main))
