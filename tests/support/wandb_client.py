"""Some lines with the wandb client itself: python -m support.wandb_client CODE

The lines put what they find into `answer`, which is printed as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

import wandb

HOME = Path(os.environ["HOME"])


def start(**more):
    return wandb.init(project="book_cover_generation", id="RUN1", dir=str(HOME), **more)


def make(name, type, files, **metadata):
    folder = HOME / "folder"
    for path, letter in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(letter.encode() * 5000)
    artifact = wandb.Artifact(name, type=type, metadata=metadata)
    artifact.add_dir(str(folder), policy="immutable", skip_cache=True)
    return artifact


def read(folder):
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes().decode() for path in files}


if __name__ == "__main__":
    answer = {}
    known = dict(answer=answer, wandb=wandb, time=time, HOME=HOME, start=start, make=make, read=read)
    exec(sys.argv[1], known)
    print(json.dumps(answer))
