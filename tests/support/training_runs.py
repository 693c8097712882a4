"""Runs of the training script: started, waited for, read, compared."""

import hashlib
import json
import pathlib
import subprocess
import sys
import time

from checkpoints.run_folder import RunFolder
from checkpoints.state import read_state
from experiments import regimes
from support import processes

WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}


def read_log(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def without_prefix(tensors):
    """{name in the network: tensor}: in a text encoder's file `text_model.` stands before each name."""
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}


def final_state(run):
    """{file: hash} of the newest state: weights and optimizer."""
    _, folder = read_state(RunFolder(run))
    others = ("position.json", "sha256.json")  # they tell how the run came here
    return {path.name: digest(path) for path in folder.iterdir() if path.name not in others}


def start(words, **more):
    """The training script in its own process."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return processes.Process([sys.executable, "-m", "training", *words], cwd=processes.ROOT, **pipes, **more)


def wait_for_update(run, step, process):
    """Return as soon as the run has logged the update."""
    for _ in range(2400):
        if (run / "metrics.jsonl").exists() and f'{{"step": {step}, "loss"' in (run / "metrics.jsonl").read_text():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    raise AssertionError(f"no update {step}")


def run_in_two(script, words, timeout=280):
    """Two processes of a script that share its work, as torch.distributed.run would start them. Returns what the two
    finished processes said, the first process first."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pair = [
        processes.Process(
            [sys.executable, "-m", script, *map(str, words)], cwd=processes.ROOT, env=environment, **pipes
        )
        for environment in regimes.environments(2)
    ]
    said = [process.communicate(timeout=timeout) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    return said
