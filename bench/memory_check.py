"""Accuracy of the memory forecast: against measurements on this machine's CPU, and against published GPU figures.

    python -m bench.memory_check                             # three tables; some minutes
    python -m bench.memory_check --only plans                # memory of SD 1.5 with several sets of options
    python -m bench.memory_check --only published            # against figures from real GPUs

What is measured is the real script: `python -m training` in its own process on demo covers, with every allocation and
release of torch's CPU allocator recorded by torch.profiler, independently of the forecast.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel

import config
import training
from bench import resolution
from cli import launch
from cli.parser import Parser, parse
from diffusion import architecture, pipeline
from memory import forecast

ROOT = pathlib.Path(__file__).resolve().parent.parent
GIB, MIB = 2**30, 2**20

BOTH = "--train_unet True --train_text_encoder True"
CONFIGURATIONS = {  # add a line for a new option
    "tiny: text encoder": "--pretrained_model tiny",
    "tiny: text encoder and UNet, AdamW": f"--pretrained_model tiny {BOTH} --optimizer adamw",
    "tiny: no checkpointing": f"--pretrained_model tiny {BOTH} --grad_ckpt False",
    "tiny: 2 batches of 2": f"--pretrained_model tiny {BOTH} --batch_size 2 --grad_acc_steps 2",
    "tiny: bf16": f"--pretrained_model tiny {BOTH} --mixed_precision bf16",
    "middle: text encoder": "--pretrained_model middle",
    "middle: UNet, AdamW": "--pretrained_model middle --train_unet True --train_text_encoder False --optimizer adamw",
    "middle: both, 8-bit AdamW, bf16": f"--pretrained_model middle {BOTH} --mixed_precision bf16",
    "middle: both, batch 1, no previews": f"--pretrained_model middle {BOTH} --batch_size 1 --sample_every 0",
    "middle: both, fused_backward": f"--pretrained_model middle {BOTH} --fused_backward True",
    "middle: both, bf16 weights": f"--pretrained_model middle {BOTH} --weights_dtype bf16",
    "middle: both, cached latents": f"--pretrained_model middle {BOTH} --cache_latents True --sample_every 0",
    "middle: both, averaged weights": f"--pretrained_model middle {BOTH} --ema_decay 0.99",
    "middle: both, Adafactor": f"--pretrained_model middle {BOTH} --optimizer adafactor",
    "middle: LoRA of rank 16, both, AdamW": f"--pretrained_model middle {BOTH} --lora_rank 16 --optimizer adamw",
    "middle: LoRA, bf16": f"--pretrained_model middle {BOTH} --lora_rank 16 --lora_targets all --mixed_precision bf16",
    "middle: both, --preset 6gb": f"--pretrained_model middle {BOTH} --preset 6gb",
    "tiny: buckets": f"--pretrained_model tiny {BOTH} --buckets True",
}
COMMON = "--data_root demo --num_examples 8 --validation_rows 4 --max_steps 2 --num_workers 0 --steps 2 --num_samples 1"
MIDDLE = dict(  # the UNet of `middle`: about 100 M parameters
    sample_size=8,
    block_out_channels=(96, 192, 384, 512),
    layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    attention_head_dim=8,
)


PLANS = {  # trained parts, at 512x768: (options, GiB that should suffice)
    "text encoder, the default": ("", 5.0),
    "UNet and text encoder": (BOTH, 10.5),
    "both, `--preset 24gb`": (f"{BOTH} --preset 24gb", None),
    "both, `--preset 12gb`": (f"{BOTH} --preset 12gb", None),
    "both, `--preset 8gb`": (f"{BOTH} --preset 8gb", None),
    "both, `--preset 6gb`": (f"{BOTH} --preset 6gb", 6.0),
}


class Published(NamedTuple):
    """A published measurement on a GPU, of training SD 1.x with fp16 autocast and 8-bit Adam."""

    source: str
    gib: float  # of the whole process
    words: str  # the closest options of this project
    note: str = ""  # why the figures may differ
    cached: bool = False  # latents and text embeddings were precomputed: no VAE and no text encoder in memory


# The first author set gradients to None after each update; the second one's script zeroed them, so that they also took
# memory during the forward pass, as with --grad_acc_steps 2. The first four figures hardly grow with image and batch
# size, as if the GPU had been full in each case.
FULL = "unknown; possibly whole processes with torch's cached blocks, on a nearly full GPU of 12 GiB"
DIFFUSERS = f"{BOTH} --resolution {{}} --batch_size {{}}"
SHIVAM = "--train_unet True --train_text_encoder False --resolution 512 --batch_size 1 --grad_acc_steps 2"
PUBLISHED = [
    Published("huggingface/diffusers#2039, RTX 3060", 11124 * MIB / GIB, DIFFUSERS.format(512, 1), FULL),
    Published("the same", 11694 * MIB / GIB, DIFFUSERS.format(512, 5), FULL),
    Published("the same", 11450 * MIB / GIB, DIFFUSERS.format(768, 1), FULL),
    Published("the same", 11598 * MIB / GIB, DIFFUSERS.format(1024, 1), FULL),
    Published("ShivamShrirao/diffusers, examples/dreambooth", 9.92, SHIVAM, cached=True),
    Published("the same", 11.17, f"{SHIVAM} --grad_ckpt False", cached=True),
    Published("the same", 15.79, f"{SHIVAM} --optimizer adamw", cached=True),
]


def main(argv: list[str] | None = None) -> int:
    """Print the tables, a line as soon as it is known."""
    parser = Parser(
        prog="python -m bench.memory_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("measured", "plans", "published"), help="print only this table")
    parser.add_argument("--resolution", type=resolution, default="128x192", help="of the measured runs")
    parser.add_argument("--match", default="", help="only the configurations with this in their name")
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)  # in the process that trains
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return 0
    if args.only in (None, "measured"):
        print("| configuration | forecast, MiB | measured, MiB | ratio | highest in |\n|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            for name, words in CONFIGURATIONS.items():
                if args.match in name:
                    check(name, f"{words} {COMMON} --resolution {args.resolution}".split(), pathlib.Path(folder))
    if args.only in (None, "plans"):
        print("\n| trained, 512x768 | batch | forecast, GiB | should be at most |\n|---|---|---|---|")
        for name, (words, most) in PLANS.items():
            print_plan(name, words.split(), most)
    if args.only in (None, "published"):
        print(
            "\n| published by | options | forecast, GiB | published, GiB | of the forecast | why |\n" + "|---" * 6 + "|"
        )
        for figure in PUBLISHED:
            compare(figure)
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# On this machine's CPU


def check(name: str, words: list[str], folder: pathlib.Path) -> None:
    """Prints forecast and measurement of a configuration as one line. folder: for the run and the model."""
    if "middle" in words:
        words[words.index("middle")] = str(make_middle(folder / "middle"))
    options, _ = parse(config.TrainingOptions, words)
    predicted = forecast.forecast_memory(options, architecture.read_architecture(options.pretrained_model), "cpu")
    shutil.rmtree(folder / "cache" / "latents", ignore_errors=True)  # they are to be encoded
    run = [*words, "--output_dir", str(folder / "runs"), "--run_name", "".join(filter(str.isalnum, name))]
    run += ["--cache_dir", str(folder / "cache")]
    child = [sys.executable, "-m", "bench.memory_check", "--measure", *run]
    measured = json.loads(subprocess.run(child, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    ratio = predicted.peak / measured
    line = f"| {name} | {predicted.peak / MIB:.1f} | {measured / MIB:.1f} | {ratio:.3f} | {predicted.peak_phase} |"
    print(line, flush=True)


def make_middle(folder: pathlib.Path) -> pathlib.Path:
    """Saves a pipeline like tiny with a larger UNet, unless the folder exists; returns the folder."""
    if not folder.exists():
        parts = pipeline.build_tiny()
        torch.manual_seed(0)
        parts.unet = UNet2DConditionModel(**MIDDLE)
        parts.pipeline().save_pretrained(folder)
    return folder


def measure(words: list[str]) -> int:
    """Peak number of bytes allocated by torch while the script trained with these options."""
    return allocated(lambda: training.main(words))


def allocated(work: Callable[[], object]) -> int:
    """Peak number of bytes that torch's CPU allocator had handed out at a time during work()."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


# ---------------------------------------------------------------------------------------------------------------------
# Stable Diffusion 1.5 on a GPU


def print_plan(name: str, words: list[str], most: float | None) -> None:
    """Prints the forecast of a configuration, and the GiB it should not exceed, as one line."""
    options, _ = parse(config.TrainingOptions, ["--pretrained_model", "sd15-random", *words])
    peak = forecast.forecast_memory(options, architecture.read_architecture("sd15-random")).peak / GIB
    print(f"| {name} | {options.batch_size} | {peak:.2f} | {most or ''} |", flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# Published figures from other GPUs


def compare(figure: Published) -> None:
    """Prints the forecast of training without previews, which those scripts do not draw, against a published figure."""
    words = ["--pretrained_model", "sd15-random", "--sample_every", "0", *figure.words.split()]
    options, _ = parse(config.TrainingOptions, words)
    sd15 = architecture.read_architecture("sd15-random")
    predicted = forecast.forecast_memory(options, sd15)
    peak = predicted.total("training") - (half_weights(sd15, "vae", "text_encoder") if figure.cached else 0)
    gib = peak / GIB
    line = (
        f"| {figure.source} | {figure.words} | {gib:.2f} | {figure.gib:.2f} | {figure.gib / gib:.2f} | {figure.note} |"
    )
    print(line, flush=True)


def half_weights(described, *networks):
    """Bytes of these networks in half precision."""
    with torch.device("meta"):
        parts = architecture.build_parts(described)
    return 2 * sum(p.numel() for name in networks for p in getattr(parts, name).parameters())


if __name__ == "__main__":
    launch.run_script(main)
