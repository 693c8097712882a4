"""Speed and memory of training: this project, diffusers' own example and a bare loop, side by side.

    python -m bench.training_speed --example train_text_to_image.py                       # tiny: about fifteen minutes
    python -m bench.training_speed --example train_text_to_image.py --pretrained_model sd15-random --resolution 256 \\
        --batch_size 1 --updates 3 --repeats 5                                            # hours on two cores

--example: examples/text_to_image/train_text_to_image.py of huggingface/diffusers, of the installed version; it also
needs `pip install datasets`. Without --example it is omitted. Every way trains the UNet of the same model alone, on
the same demo covers, in fp32 with 32-bit AdamW and without checkpointing, unless its line says otherwise; each is a
separate process, and they run in turn. Steps are timed from outside, when the progress bar shows their number, without
the first two. Memory is the peak resident memory of the process, including libraries, but without the two workers that
read images for `ours, pictures`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

import torch
from tqdm import tqdm

import config
from bench import positive
from cli import launch
from cli.parser import Parser
from common.errors import UserError
from data import prompts
from data.folder import open_data
from demo_data.folder import ensure_demo_data
from diffusion import encoding, pipeline
from diffusion.trainable import set_trainable

ROOT = pathlib.Path(__file__).resolve().parent.parent
WARM_UP = 2  # steps that are not timed
RUNS = "timed-runs"  # folder in --out that is deleted before each run
LR = "1e-5"
OURS = {
    "ours, pictures": "--optimizer adamw --grad_ckpt False",
    "ours, cached latents": "--optimizer adamw --grad_ckpt False --cache_latents True",
    "ours, cached latents, --preset 6gb": "--preset 6gb",
}
EXAMPLE, BARE = "diffusers' example", "a bare loop on one batch"


def main(argv: list[str] | None = None) -> int:
    """Print the table, after every turn of all ways."""
    parser = Parser(
        prog="python -m bench.training_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--example", type=pathlib.Path, help="diffusers' train_text_to_image.py")
    parser.add_argument("--pretrained_model", default="tiny", choices=("tiny", "mini", "sd15-random"))
    parser.add_argument("--resolution", type=int, default=128, help="side of the square images that the example needs")
    parser.add_argument("--batch_size", type=positive, default=4)
    parser.add_argument("--updates", type=positive, default=60, help="timed updates of each way in each turn")
    parser.add_argument("--repeats", type=positive, default=5, help="turns of each way")
    parser.add_argument("--covers", type=int, default=400, help="number of demo covers")
    parser.add_argument("--out", type=pathlib.Path, default="training_speed", help="folder for the model and the runs")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)  # be the bare loop
    args = parser.parse_args(argv)
    if args.bare:
        return loop(args)
    if args.example and not args.example.is_file():
        raise UserError(f"--example {args.example}: no such file; it is in the repository of diffusers")
    args.out.mkdir(parents=True, exist_ok=True)
    commands = prepare(args)
    found = {way: [] for way in commands}  # (steps/s, GiB) of each turn
    for turn in range(args.repeats):
        for way, words in commands.items():
            shutil.rmtree(args.out / RUNS, ignore_errors=True)
            command = [sys.executable, *map(str, words)]
            found[way].append(measure(command, WARM_UP + args.updates, args.out / "last.log"))
        print(f"after {turn + 1} turns\n{table(found, args)}\n", flush=True)
    return 0


def prepare(args: argparse.Namespace) -> dict[str, list]:
    """Makes the model and the data folder; returns {way: its command line after `python`}."""
    root = ensure_demo_data(args.out.resolve(), args.covers, workers=2)
    model, pictures = args.out.resolve() / args.pretrained_model, args.out.resolve() / f"pictures-{args.covers}"
    if not model.is_dir():  # in another process: the peak memory of a child includes that of its parent at the fork
        code = "import sys; from diffusion.pipeline import load_parts as load; "
        code += "load(sys.argv[1]).pipeline().save_pretrained(sys.argv[2])"
        unfinished = model.with_name(f".{model.name}")
        subprocess.run([sys.executable, "-c", code, args.pretrained_model, unfinished], cwd=ROOT, check=True)
        unfinished.rename(model)
    if not pictures.is_dir():
        make_image_folder(root, pictures, args.out.resolve() / "cache")
    steps = WARM_UP + args.updates
    common = f"--pretrained_model {model} --data_root {root} --cache_dir {args.out.resolve() / 'cache'}"
    common += f" --output_dir {args.out.resolve() / RUNS} --resolution {args.resolution} --max_steps {steps}"
    common += " --train_unet True --train_text_encoder False --mixed_precision no --sample_every 0 --validation_rows 1"
    common += f" --lr {LR} --validate_every 100000 --save_every 100000"
    commands = {}
    if args.example:
        commands[EXAMPLE] = [args.example.resolve(), "--pretrained_model_name_or_path", model]
        commands[EXAMPLE] += ["--train_data_dir", pictures, "--resolution", args.resolution, "--learning_rate", LR]
        commands[EXAMPLE] += ["--train_batch_size", args.batch_size, "--max_train_steps", steps]
        commands[EXAMPLE] += ["--output_dir", args.out.resolve() / RUNS / "example"]
        commands[EXAMPLE] += ["--cache_dir", args.out.resolve() / "datasets", "--report_to", "tensorboard"]
    for way, words in OURS.items():
        words = [*common.split(), "--batch_size", args.batch_size, *words.split()]
        if "6gb" in way:
            words[words.index("--mixed_precision") + 1] = "bf16"
        commands[way] = [ROOT / "training.py", *words]
    own = ["--pretrained_model", args.pretrained_model, "--resolution", args.resolution]
    own += ["--batch_size", args.batch_size, "--updates", args.updates]
    commands[BARE] = ["-m", "bench.training_speed", "--bare", *own]
    return commands


def make_image_folder(root: pathlib.Path, folder: pathlib.Path, cache: pathlib.Path) -> None:
    """Makes an image folder for `datasets` from a data folder: links, and metadata.jsonl with the prompts."""
    options = config.StatsOptions(data_root=str(root), cache_dir=str(cache))
    unfinished = folder.with_name(".unfinished")
    unfinished.mkdir(exist_ok=True)
    lines = []
    for book in open_data(options).books("train"):
        link = unfinished / f"{book.row}.jpg"
        if not link.exists():
            link.symlink_to(pathlib.Path(book.image).resolve())
        lines.append(json.dumps({"file_name": link.name, "text": prompts.build_prompt(book)}))
    (unfinished / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    unfinished.rename(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Timing a process


def measure(command: list[str], total: int, log: pathlib.Path) -> tuple[float, float]:
    """(steps/s after WARM_UP, GiB of peak resident memory) of a process with a progress bar of `total` on stderr."""
    shown = re.compile(rf"\r(?:Steps:)?\s*\d+%\|[^|]*\|\s*(\d+)/{total} \[")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_MININTERVAL": "0", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0
    )
    moments, text = {}, ""  # steps done -> when the bar said so
    try:
        with open(log, "w", encoding="utf-8") as file:
            while data := process.stderr.read(4096):
                now, text = time.monotonic(), (text + data.decode(errors="replace"))[-500:]
                file.write(data.decode(errors="replace"))
                for done in shown.findall(text):
                    moments.setdefault(int(done), now)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.kill()
        raise
    timed = {done: moment for done, moment in moments.items() if done >= WARM_UP}
    if process.returncode or len(timed) < 2:
        raise UserError(f"no speed from {' '.join(map(str, command[:3]))} ...; see {log}")
    first, last = min(timed), max(timed)
    return (last - first) / (timed[last] - timed[first]), used.ru_maxrss / 2**20  # kilobytes, on Linux


def loop(args: argparse.Namespace) -> int:
    """The minimal training loop: text encoder, UNet, backward, clipping, AdamW, always on the same tensors."""
    parts = pipeline.load_parts(args.pretrained_model)
    unet = set_trainable(parts, ["unet"]).networks["unet"]
    optimizer = torch.optim.AdamW(unet.parameters(), lr=float(LR), fused=True)
    latents = torch.randn(args.batch_size, *encoding.latent_shape(parts, (args.resolution, args.resolution)))
    del parts.vae  # as with cached latents
    noise, timesteps = torch.randn_like(latents), torch.full((args.batch_size,), 500)
    positions = parts.text_encoder.config.max_position_embeddings
    input_ids = torch.zeros(args.batch_size, positions, dtype=torch.int64)
    for _ in tqdm(range(WARM_UP + args.updates), mininterval=0):
        with torch.no_grad():
            text = encoding.encode_text(parts.text_encoder, input_ids)
        loss = torch.nn.functional.mse_loss(unet(latents, timesteps, text, return_dict=False)[0], noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Table


def table(found: dict[str, list[tuple[float, float]]], args: argparse.Namespace) -> str:
    """Markdown table: medians over the turns, with their ratios to the example and to the bare loop."""
    speeds, memory = (
        {way: statistics.median(pair[i] for pair in pairs) for way, pairs in found.items()} for i in (0, 1)
    )
    turns = len(next(iter(found.values())))
    lines = [
        f"{args.pretrained_model}, {args.resolution}x{args.resolution}, batches of {args.batch_size}, the UNet "
        f"is trained; {args.updates} updates a turn, medians of {turns} turns",
        "",
        "| way | images/s | least ... most | of the example | of the bare loop | GiB | of the example's |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, pairs in found.items():
        each = [speed * args.batch_size for speed, _ in pairs]
        against = f"{speeds[way] / speeds[EXAMPLE]:.2f} x" if EXAMPLE in found else "-"
        space = f"{memory[way] / memory[EXAMPLE]:.2f} x" if EXAMPLE in found else "-"
        lines.append(
            f"| {way} | {speeds[way] * args.batch_size:.2f} | {min(each):.2f} ... {max(each):.2f} | {against} | "
            f"{speeds[way] / speeds[BARE]:.0%} | {memory[way]:.2f} | {space} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(launch.run_script(main))
