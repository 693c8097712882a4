"""A version as files that other programs load: python -m export. docs/export.md says which program loads what."""

from __future__ import annotations

import datetime
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

import config
from checkpoints import catalog
from common.errors import UserError
from common.files import atomic_write, read_json, require_free_space
from common.manifest import MANIFEST, write_manifest
from diffusion import pipeline, single_file
from diffusion.architecture import Architecture, build_parts, read_architecture
from diffusion.lora_file import LORA_FILE
from diffusion.parts import LETTERING, NETWORKS, Parts
from diffusion.placement import DTYPES
from diffusion.weights import all_finite, save_pipeline, save_tensors, weights_nbytes
from generation.version import Version, fetch_missing

HINT = "free some space there or choose another place"
DATED = (MANIFEST, "model_index.json")  # files of a pipeline folder that are as old as it
MARK = "exported_from"  # in the metadata of files that are written here: RUN/VERSION
# Settings that say nothing of what the networks compute
FREE = {"unet": ("sample_size", "upcast_attention"), "vae": ("sample_size", "force_upcast"), "text_encoder": ()}
FREE_OF_TEXT = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")


def choose_version(options: config.ExportOptions, given: Mapping[str, Any]) -> tuple[config.ExportOptions, Version]:
    """(options, the version that --run_id and --version name); one that is not on disk is fetched from the tracker.

    given: the options on the command line. UserError if there is no such version.
    """
    if options.run_id:
        options = fetch_missing(options, given)
    pretrained = config.ModelOptions.pretrained_model
    found = catalog.resolve_version(options.output_dir, options.run_id, options.version, pretrained)
    return options, Version(*found)


def export(options: config.ExportOptions, version: Version) -> None:
    """Write the version as --to says, and print where. UserError, before anything is written, if that can't be."""
    with catalog.reading_version(version.source):
        if options.to == "lora":
            path = export_lora(options, version)
        elif options.to == "single":
            path = export_single(options, version)
        else:
            path = export_folder(options, version)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    nbytes = sum(file.stat().st_size for file in files)
    size = f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
    print(f"wrote {path}: {title(version)}, {size}")
    for note in notes(options, version):
        print(f"note: {note}")


def title(version: Version) -> str:
    """RUN-VERSION, or the name of a folder that belongs to no run."""
    return f"{version.run.name}-{version.name}" if version.run else version.name


def run_options(version: Version) -> dict[str, Any]:
    """The options of the version's run, from its config.json; none if it belongs to no run."""
    return read_json(version.run.config) if version.run else {}


def clip_skip(version: Version) -> int:
    """--clip_skip of the version's training, which no file of another program sets by itself; 1 = none."""
    return run_options(version).get("clip_skip", 1) if version.name != "v0" else 1


def notes(options: config.ExportOptions, version: Version) -> list[str]:
    """What a user of the exported file must know, and the file can't do by itself."""
    saved, found = run_options(version), []
    if (skip := clip_skip(version)) > 1:
        found.append(
            f"trained with clip skip {skip}, which others must be told: Clip skip {skip} in A1111, CLIP Set Last "
            f"Layer -{skip} in ComfyUI, clip_skip={skip - 1} in diffusers"
        )
    if pathlib.Path(version.source, LETTERING).is_dir():
        if options.to in ("single", "lora"):
            found.append(
                "the file has no place for the version's lettering, and draws without it; --to diffusers and --to "
                "merged keep it, in a folder of its own"
            )
        else:
            found.append(
                f"other programs draw without the lettering in {LETTERING}/; docs/lettering.md has the few lines with "
                "which diffusers draws with it"
            )
    changed = saved.get("zero_terminal_snr") or saved.get("prediction_type", "auto") != "auto"
    if options.to == "lora" and changed:
        found.append(
            "a LoRA file has no noise schedule, and this run changed the model's: on a model of another schedule it "
            "draws noise; --to single and --to merged write it with its own"
        )
    return found


def load(version: Version) -> Parts:
    """The model of a version, in fp32, with its LoRA merged if it has one."""
    return pipeline.load_parts(version.source, prediction_type=run_options(version).get("prediction_type", "auto"))


def dtype(options: config.ExportOptions) -> torch.dtype:
    return DTYPES[options.dtype or "fp16"]


# ---------------------------------------------------------------------------------------------------------------------
# One file


def target_file(options: config.ExportOptions, version: Version) -> pathlib.Path:
    """The file to write. UserError if it has a wrong name, or is one that this script has not made."""
    path = pathlib.Path(options.target or "").expanduser()
    path = path / f"{title(version)}.safetensors" if path.is_dir() else path
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: the file's name must end in .safetensors, or be that of a folder")
    if path.is_dir():
        raise UserError(f"{path} is a folder: choose another name")
    if path.exists() and not options.overwrite and MARK not in metadata_in(path):
        raise UserError(f"{path} exists and was not made by this script: give --overwrite True, or another name")
    return path


def metadata_in(path: pathlib.Path) -> dict[str, str]:
    """Metadata of a safetensors file; none if it is no such file."""
    try:
        with safe_open(path, framework="pt") as opened:
            return opened.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def export_single(options: config.ExportOptions, version: Version) -> pathlib.Path:
    """Write the whole model as a single file (see single_file.py); returns its path."""
    path = target_file(options, version)
    architecture = read_architecture(version.source)
    if what := other_architecture(architecture):
        raise UserError(
            f"{title(version)} can't be written as a single file: {what}; --to diffusers and --to merged write a "
            "pipeline folder of any model"
        )
    with torch.device("meta"):
        nbytes = weights_nbytes(build_parts(architecture), NETWORKS, options.dtype or "fp16")
    require_space(path, nbytes)
    single_file.write(load(version), path, dtype(options), description(version))
    return path


def other_architecture(architecture: Architecture) -> str | None:
    """In what an architecture differs from Stable Diffusion 1.x's; None if it is that."""
    known = read_architecture("sd15-random")
    if architecture["text_encoder"]["hidden_size"] == 1024:
        return (
            "it is Stable Diffusion 2.x, whose single files also have the last layer of OpenCLIP's text encoder, and "
            "pipelines are without it"
        )
    for name in NETWORKS:
        for setting, value in known[name].items():
            found = architecture[name].get(setting, value)
            compared = setting in FREE_OF_TEXT if name == "text_encoder" else setting not in FREE[name]
            if compared and found != value:
                return (
                    f"it is not of the architecture of Stable Diffusion 1.x, which programs take such a file for "
                    f"({setting} of its {name} is {found}, not {value})"
                )
    return None


def description(version: Version) -> dict[str, str]:
    """Metadata of a single file by the Stability AI Model Metadata Standard; all values are text."""
    saved = run_options(version)
    about = "Stable Diffusion 1.x"
    if version.run and version.name != "v0":
        step = catalog.version_entry(version.run, version.name).step
        about += f", fine-tuned on book covers for {step} updates (run {version.run.name}, version {version.name})"
    entries = {
        "sai_model_spec": "1.0.1",
        "architecture": "stable-diffusion-v1",
        "implementation": "https://github.com/Stability-AI/generative-models",
        "title": title(version),
        "resolution": saved.get("resolution", "512x512"),
        "description": about,
    }
    if (skip := clip_skip(version)) > 1:
        entries["usage_hint"] = f"Clip skip {skip}"
    # Of the version, not of today, nor of its folder, in which scoring writes a card: the same version, the same bytes
    written = next((file for file in map(pathlib.Path(version.source).joinpath, DATED) if file.is_file()), None)
    if written:
        saved_at = datetime.datetime.fromtimestamp(written.stat().st_mtime, datetime.UTC)
        entries["date"] = saved_at.date().isoformat()
    return {f"modelspec.{name}": str(text) for name, text in entries.items()} | {MARK: title(version)}


def export_lora(options: config.ExportOptions, version: Version) -> pathlib.Path:
    """Write the LoRA file of a version in --dtype; returns its path. UserError if it has none."""
    source = pathlib.Path(version.source) / LORA_FILE
    if not source.is_file():
        raise UserError(
            f"{title(version)} has no LoRA, as only the versions of LoRA runs do; "
            "--to single and --to merged write the whole model"
        )
    path = target_file(options, version)
    require_space(path, source.stat().st_size)
    with single_file.reading(source), safe_open(source, framework="pt") as opened:
        metadata = {**(opened.metadata() or {}), **lora_description(version), "ss_output_name": path.stem}
        names = list(opened.keys())
        tensors = {name: opened.get_tensor(name) for name in names}
    weights = {name: tensor.to(dtype(options)) if tensor.ndim else tensor for name, tensor in tensors.items()}
    for name, tensor in weights.items():
        if not all_finite([tensor]):
            raise UserError(f"{name} is not finite in {options.dtype or 'fp16'}: give --dtype bf16 or fp32")
    with atomic_write(path, HINT) as temporary:
        save_tensors(weights, temporary, metadata)
    return path


def lora_description(version: Version) -> dict[str, str]:
    """Metadata of a LoRA file that its run knows, and the version's own file does not have."""
    schedule = pipeline.load_schedule(version.source) or {}
    predicts_v = schedule.get("prediction_type") == "v_prediction"
    entries = {"modelspec.title": title(version), MARK: title(version)}
    entries |= {"modelspec.prediction_type": "v", "ss_v_parameterization": "True"} if predicts_v else {}
    skip = clip_skip(version)
    return entries | ({"ss_clip_skip": str(skip), "modelspec.usage_hint": f"Clip skip {skip}"} if skip > 1 else {})


# ---------------------------------------------------------------------------------------------------------------------
# A pipeline folder


def export_folder(options: config.ExportOptions, version: Version) -> pathlib.Path:
    """Write the version as a pipeline folder, as it is or in --dtype with its LoRA merged; returns its path."""
    path = target_folder(options, version)
    source = pathlib.Path(version.source)
    if options.to == "diffusers" and source.is_dir():
        files = [file for file in sorted(source.rglob("*")) if file.is_file()]
        require_space(path, sum(file.stat().st_size for file in files))
        with atomic_write(path, HINT) as folder:  # copies, not links: what is changed there must not change the run
            for file in tqdm(files, desc="copy", unit="file", disable=None, leave=False, delay=2):
                copy = folder / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        return path
    with torch.device("meta"):
        empty = build_parts(read_architecture(version.source))
    require_space(path, weights_nbytes(empty, list(empty.networks), options.dtype or "fp16"))
    parts = load(version)
    with atomic_write(path, HINT) as folder:
        save_whole(parts, folder, dtype(options))
        write_manifest(folder)
    return path


def save_whole(parts: Parts, folder: pathlib.Path, dtype: torch.dtype) -> None:
    """save_pipeline of all networks. UserError, with advice for an export, if a weight is not finite in `dtype`."""
    try:
        save_pipeline(parts, folder, list(parts.networks), dtype)
    except UserError as problem:  # its advice is for training
        reason = str(problem).partition(", and not saved")[0]
        raise UserError(f"{reason}: give --dtype bf16 or fp32") from None


def target_folder(options: config.ExportOptions, version: Version) -> pathlib.Path:
    """The folder to write. UserError if it has files of someone else, or belongs to a run."""
    path = pathlib.Path(options.target or "").expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: give the name of a new folder")
    full, source = path.resolve(), pathlib.Path(version.source).resolve()
    if full == source or source in full.parents or full in source.parents:
        raise UserError(f"{path} and the version, {source}, lie one in the other: choose another folder")
    inside = [folder for folder in (full, *full.parents) if (folder / "versions.json").is_file()]
    if inside:  # also a new one: versions/v9 would be in the way of the run's own
        raise UserError(f"{path} is a folder of the run {inside[0].name}: choose another")
    if not path.exists() or not any(path.iterdir()):
        return path
    if not (path / "model_index.json").is_file():
        raise UserError(f"{path} exists and is no pipeline folder: choose a new folder")
    if not options.overwrite and not (path / MANIFEST).is_file():
        raise UserError(f"{path} exists and was not made by this script: give --overwrite True, or a new folder")
    return path


def require_space(path: pathlib.Path, nbytes: float) -> None:
    """UserError unless the disk of `path`, which may not exist yet, has room for that many bytes."""
    existing = next(folder for folder in path.absolute().parents if folder.is_dir())
    require_free_space(existing, 1.01 * nbytes + 10_000_000, f"writing {path}", HINT)
