"""Which programs read what is saved: each format loaded by each program's own code, its outputs compared with ours.

    python -m bench.readers                         # diffusers and transformers, today's and those of 2025
    python -m bench.readers --comfyui DIR --webui DIR --kohya DIR     # also these, from copies of their repositories

A model of Stable Diffusion 1.5's size with random weights is saved as a version folder (in fp16), a single file and
LoRA files of every --lora_targets; then readers_inside.py loads them in an environment of each program's own. A file
counts as read if every tensor arrives, and if text encoder, UNet and VAE then compute what ours do. Takes some minutes,
8 GiB of memory and 5 GB of disk. The environments take torch from this one, and the rest from the package index.
"""

from __future__ import annotations

import argparse
import copy
import json
import pathlib
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence

import torch
from safetensors.torch import save_file

from bench import readers_inside
from checkpoints import versions
from checkpoints.run_folder import RunFolder
from cli import launch
from cli.parser import Parser
from common.errors import UserError
from diffusion import ldm_names, lora, lora_file, pipeline, single_file, source
from diffusion.parts import NETWORKS, PARTS, Parts
from diffusion.trainable import set_trainable

RANK, ALPHA = 4, 2.0  # alpha differs from the rank, so that a reader that ignores it is found out
TOLERANCE = 1e-3  # of the outputs, relative; the LoRA files change them by far more (require_effect)
DIFFUSERS = (
    *("numpy<2.5", "safetensors", "regex", "requests", "pyyaml", "packaging", "tqdm", "filelock"),
    *("importlib_metadata", "pillow", "psutil"),
)
OLD = [
    *("diffusers==0.32.*", "transformers==4.54.*", "peft==0.17.*", "accelerate==1.10.*", "huggingface_hub<1"),
    *("tokenizers<0.22", *DIFFUSERS),
]
# {reader: (how the table names it, code in readers_inside that reads, packages of its environment; None: this one)}
READERS: dict[str, tuple[str, str, list[str] | None]] = {
    "now": ("diffusers of requirements.txt", "diffusers", None),
    "old": ("diffusers 0.32, transformers 4.54", "diffusers", OLD),
    "comfyui": (
        "ComfyUI",
        "comfyui",
        ["einops", "torchsde", "trampoline", "sentencepiece", "av", "kornia", "kornia_rs"],
    ),
    "webui": ("AUTOMATIC1111's web UI", "webui", None),
    "kohya": ("kohya's sd-scripts", "kohya", [*OLD, "einops", "opencv-python-headless", "scipy"]),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a file is not read as it should be."""
    parser = Parser(
        prog="python -m bench.readers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in readers_inside.FOLDERS:
        parser.add_argument(
            f"--{name}", type=pathlib.Path, metavar="DIR", help=f"copy of {READERS[name][0]}'s repository"
        )
    parser.add_argument("--readers", default="now,old", help="of now and old, separated by commas (default: now,old)")
    parser.add_argument("--pretrained_model", default="sd15-random", help="model whose files are read; 'tiny' is quick")
    parser.add_argument(
        "--work", type=pathlib.Path, help="folder for files and environments (default: a temporary one)"
    )
    args = parser.parse_args(argv)
    chosen = {name: None for name in args.readers.split(",") if name}
    chosen |= {name: getattr(args, name) for name in readers_inside.FOLDERS if getattr(args, name)}
    if unknown := chosen.keys() - READERS:
        raise UserError(f"--readers: expected now, old, or both, not {min(unknown)}")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or pathlib.Path(temporary)
        files = work / "files"
        if not files.exists():
            make_files(files, args.pretrained_model)
        return print_table({name: list(read(name, path, work, files)) for name, path in chosen.items()})


# ---------------------------------------------------------------------------------------------------------------------
# Our files, and what our code computes with them


def make_files(work: pathlib.Path, model: str) -> None:
    """Fill a new folder with a version, a single file, LoRA files, and the reference that readers_inside compares with.

    Every weight is random and exact in fp16. There is no single file of `tiny`, which that layout cannot hold.
    """
    parts = random_parts(model)
    reference = work / readers_inside.REFERENCE
    reference.mkdir(parents=True)
    save_version(parts, work)
    inputs = make_inputs(parts)
    save_file(inputs, reference / "inputs.safetensors")
    save_file(outputs(parts, inputs), reference / "base.safetensors")
    write_digests(parts, reference / f"{readers_inside.VERSION}.tensors.json")
    (work / readers_inside.MINI).symlink_to(source.MINI)
    write_digests(pipeline.load_parts("mini"), reference / f"{readers_inside.MINI}.tensors.json")

    for targets in (lora.ATTENTION, lora.ALL, lora.CONVOLUTIONS):
        path = work / f"lora-{targets}.safetensors"
        lora_file.save_lora(path, random_adapters(parts, targets), ALPHA, torch.float32)
        merged = copy.copy(parts)
        for name in PARTS:
            setattr(merged, name, copy.deepcopy(getattr(parts, name)))
        lora_file.merge_lora(merged, path)
        found = outputs(merged, inputs)
        require_effect(found, outputs(parts, inputs))
        save_file(found, reference / f"{path.stem}.safetensors")
        if model != "tiny":
            save_file(changes(parts, merged), reference / f"{path.stem}.changes.safetensors")
    if model != "tiny":
        metadata = {"modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": "stable-diffusion-v1"}
        single_file.write(parts, work / readers_inside.SINGLE, torch.float16, metadata)  # casts the networks: last


def random_parts(model: str) -> Parts:
    """The model with no two tensors alike: random are also those that begin as ones or zeros."""
    parts = pipeline.load_parts(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in NETWORKS:
            for tensor in getattr(parts, name).state_dict().values():
                if tensor.dim() == 1 and tensor.is_floating_point():
                    tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
                tensor.copy_(tensor.half())
    return parts


def save_version(parts: Parts, work: pathlib.Path) -> None:
    """The version folder, as a training run writes it where both parts learn and precision is fp16."""
    run, trainable = RunFolder(work / "run"), set_trainable(parts, list(PARTS))
    versions.save_frozen(run, parts, trainable, "fp16")
    versions.save_version(run, "v1", trainable, "fp16")
    run.version("v1").rename(work / readers_inside.VERSION)
    parts.freeze()


def write_digests(parts: Parts, path: pathlib.Path) -> None:
    """{network: digests of its tensors}, which readers_inside.count_arrived compares with."""
    tensors = {name: getattr(parts, name).state_dict().values() for name in NETWORKS}
    path.write_text(json.dumps({name: list(map(readers_inside.digest, each)) for name, each in tensors.items()}))


def make_inputs(parts: Parts) -> dict[str, torch.Tensor]:
    """Fixed inputs of the three networks; latents of 16x16."""
    generator = torch.Generator().manual_seed(1)
    words, width = parts.text_encoder.config.vocab_size, parts.text_encoder.config.hidden_size
    return {
        "input_ids": torch.randint(words, (1, 77), generator=generator),
        "latents": torch.randn(1, 4, 16, 16, generator=generator),
        "timestep": torch.tensor([500]),
        "embeddings": torch.randn(1, 77, width, generator=generator),
    }


@torch.no_grad()
def outputs(parts: Parts, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """{network: what it makes of the inputs}."""
    return {
        "text_encoder": parts.text_encoder(inputs["input_ids"])[0],
        "unet": parts.unet(inputs["latents"], inputs["timestep"], inputs["embeddings"]).sample,
        "vae": parts.vae.decode(inputs["latents"]).sample,
    }


def random_adapters(parts: Parts, targets: str) -> dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """{part: {layer: (down, up)}} of all layers that --lora_targets means."""
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(shape, generator=generator)

    adapters: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {part: {} for part in PARTS}
    for part in PARTS:
        for name, layer in lora.target_layers(getattr(parts, part), lora.TARGETS[part], targets).items():
            rows, *columns = layer.weight.shape
            adapters[part][name] = random(RANK, *columns), random(rows, RANK, *[1] * (len(columns) - 1))
    return adapters


def require_effect(found: dict[str, torch.Tensor], base: dict[str, torch.Tensor]) -> None:
    """AssertionError unless the LoRA changes both networks' outputs by more than the comparison could overlook."""
    for part in PARTS:
        change = (found[part] - base[part]).abs().max() / base[part].abs().max()
        assert change > 20 * TOLERANCE, f"the LoRA changes the {part} by {change:.1e} only"


def changes(before: Parts, after: Parts) -> dict[str, torch.Tensor]:
    """{name in a single file: fingerprint of its change} of the weights that differ."""
    found = {}
    for part in PARTS:
        network = getattr(after, part)
        config = network.config.to_dict() if part == "text_encoder" else network.config
        old = getattr(before, part).state_dict()
        for key, tensor in network.state_dict().items():
            if not torch.equal(tensor, old[key]):
                change = tensor.double() - old[key].double()
                found[ldm_names.stored(part, key, config).name] = readers_inside.fingerprint(change)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The programs


def read(name: str, source: pathlib.Path | None, work: pathlib.Path, files: pathlib.Path) -> Iterator[dict]:
    """What readers_inside found out in the reader's environment, a dict for each file."""
    _, code, packages = READERS[name]
    python = sys.executable if packages is None else make_environment(work / f"environment-{name}", packages)
    words = [str(python), readers_inside.__file__, code, str(files.resolve())]
    words += ["--source", str(source.resolve())] if source else []
    process = subprocess.run(words, capture_output=True, text=True)
    if process.returncode:
        raise UserError(f"{name}: {process.stderr.strip()[-2000:]}")
    yield from (json.loads(line) for line in process.stdout.splitlines() if line.startswith('{"file"'))


def make_environment(folder: pathlib.Path, packages: Sequence[str]) -> pathlib.Path:
    """Python of an environment with these packages and nothing else of theirs; what they lack comes from this one.

    Installed without dependencies, since torch alone would be gigabytes.
    """
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", *packages], check=True)
        (site,) = (folder / "lib").glob("python*/site-packages")
        (site / "this.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # after its own in sys.path
        (folder / "ready").touch()
    return python


def print_table(results: dict[str, list[dict]]) -> int:
    """A line for each reader and file; 1 if one was not read in full."""
    print("| file | read by | arrived | missing | ignored | outputs differ by | |\n|---|---|---|---|---|---|---|")
    failed = 0
    for name, rows in results.items():
        failed |= not rows
        for row in rows:
            sound = row["arrived"] == row["of"] and not row["missing"] and not row["ignored"]
            gap = row["difference"]
            sound &= gap is None or gap <= TOLERANCE
            failed |= not sound
            print(
                f"| {row['file']} | {READERS[name][0]} | {row['arrived']} of {row['of']} | {row['missing']} "
                f"| {row['ignored']} | {'-' if gap is None else f'{gap:.0e}'} | {'' if sound else 'NO'} |"
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(launch.run_script(main))
