"""What --pretrained_model names: a pipeline folder, a single file (single_file.py) or a hub id. Anything else gets a
line that says what it is and what to do with it."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence

import huggingface_hub.errors as hub
from safetensors import SafetensorError, safe_open

from common.errors import UserError
from common.files import read_json
from common.library_errors import LIBRARY_ERRORS, short_reason
from config import ModelOptions

MINI = pathlib.Path(__file__).parent.parent / "mini_sd"  # the bundled miniature, a pipeline folder
GIVE_ANOTHER = f"give a Stable Diffusion 1.x or 2.x model, such as {ModelOptions.pretrained_model}"
# What from_single_file needs beside the file
ONLINE = "with internet (or also give it config='FOLDER', local_files_only=True, a pipeline of the same kind)"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
WEIGHTS = dict(  # names of files
    unet="diffusion_pytorch_model",
    vae="diffusion_pytorch_model",
    text_encoder="model",
    lettering="diffusion_pytorch_model",
)
VARIANTS = ("fp16", "bf16", "fp32")  # of a file's name; read where there is no file without one
# What a file of weights is that is no whole model of Stable Diffusion 1.x or 2.x, by names in it; the first that fits
KINDS = {
    "conditioner.": "Stable Diffusion XL in one file",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3 in one file",
    "joint_blocks.": "the network of Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux in one file",
    "double_blocks.": "the network of Flux",
    "control_model.": "a ControlNet, which needs the model it was made for",
    "emb_params": "a textual inversion embedding, which needs the model it was made for",
    "down_blocks.": "the UNet of a pipeline folder; give that folder",
    "text_model.": "the text encoder of a pipeline folder; give that folder",
    "encoder.": "the autoencoder, or text encoder, of a pipeline folder; give that folder",
}
LAYOUT = {  # how the names of a whole model begin
    "UNet": ("model.diffusion_model.",),
    "autoencoder": ("first_stage_model.",),
    "text encoder": ("cond_stage_model.transformer.", "cond_stage_model.model."),
}


# ---------------------------------------------------------------------------------------------------------------------
# Which folder or file, and what else it may be


def single_file_path(source: str) -> pathlib.Path | None:
    """The file that `source` names, if it is one of safetensors; else None, and local_folder says what it is."""
    path = os.path.expanduser(source)
    return pathlib.Path(path) if source.lower().endswith(".safetensors") and os.path.isfile(path) else None


def local_folder(source: str) -> pathlib.Path | None:
    """The folder that `source` names, or None if it is a hub id. UserError if it is neither."""
    if source == "mini":
        return MINI
    path = pathlib.Path(os.path.expanduser(source))  # of os, as below: it raises nothing for what can't be a path
    if os.path.isfile(path / "model_index.json"):
        return path
    if os.path.isdir(path):
        try:
            what = describe_folder(path)
        except OSError as problem:
            what = f"it can't be read ({short_reason(problem)})"
        raise UserError(f"{path} is not a Stable Diffusion pipeline: {what}")
    if os.path.isfile(path):
        raise UserError(f"{path} is not a pipeline folder: {describe_file(path)}")
    if path.suffix.lower() in (".safetensors", *PICKLES):  # with one slash it would look like a hub id
        raise UserError(f"--pretrained_model {source}: no such file")
    if os.path.exists(path) or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"--pretrained_model {source}: no such folder, and not a hub id such as owner/name")
    return None


def describe_folder(folder: pathlib.Path) -> str:
    """What a folder without model_index.json is, and what to give instead."""
    inner = [
        path.parent for path in sorted(folder.glob("*/model_index.json")) + sorted(folder.glob("*/*/model_index.json"))
    ]
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".ckpt"))
    if not any(folder.iterdir()):
        return f"it is empty; {GIVE_ANOTHER}"
    if inner:
        return f"it has no model_index.json, but {inner[-1]} has one: give that folder"
    if (folder / "adapter_config.json").is_file():
        return f"it is an adapter (LoRA), which needs the model it was made for; {GIVE_ANOTHER}"
    if (folder / "config.json").is_file():
        settings = read_json(folder / "config.json")
        kind = settings.get("_class_name") or settings.get("architectures") or settings.get("model_type")
        whole = folder.absolute().parent
        remedy = f"give {whole}" if (whole / "model_index.json").is_file() else GIVE_ANOTHER
        return f"it holds one network ({kind or 'of unknown kind'}), not a whole model; {remedy}"
    if files:
        return f"it has no model_index.json; {describe_file(files[0])}"
    return "it has no model_index.json; give the folder that holds unet/, vae/, text_encoder/ and tokenizer/"


def describe_file(path: pathlib.Path) -> str:
    """What a file is that someone gives for a model, and how to make a pipeline folder of it."""
    command = conversion_command(f"from_single_file({str(path)!r}, safety_checker=None)", path.with_suffix(""))
    if path.suffix.lower() in PICKLES:
        return (
            f"{path.name} is a pickle, which can run code hidden in it, so nothing here reads it; if you trust where "
            f"it comes from, convert it, {ONLINE}: {command}"
        )
    if path.suffix.lower() != ".safetensors":
        return f"{path.name} is no file of weights; {GIVE_ANOTHER}"
    try:
        with safe_open(path, framework="pt") as opened:
            names = list(opened.keys())
    except (OSError, SafetensorError) as problem:
        return f"{path.name} is {describe_damage(path, problem)}"
    what = describe_names(names)
    return (
        f"{path.name} is {what}; {GIVE_ANOTHER}" if what else f"{path.name} is a whole model in one file: give {path}"
    )


def describe_names(names: Sequence[str]) -> str | None:
    """What a safetensors file is that has weights of these names; None if it is a whole model in the LDM layout."""
    missing = [part for part, starts in LAYOUT.items() if not any(name.startswith(starts) for name in names)]
    if "UNet" in missing and any("lora" in name.lower() or ".hada_w1" in name or ".lokr_w" in name for name in names):
        return "a LoRA, which needs the model it was made for"
    for start, what in KINDS.items():
        if any(name.startswith(start) for name in names):
            return what
    if "UNet" in missing and any(name.startswith("model_ema.") for name in names):
        return "a model with the averaged (EMA) weights of its UNet alone, which are not read; bring the file with both"
    if len(missing) == len(LAYOUT):
        return "no whole model: none of its weights has a name that one in one file (LDM layout) has"
    if missing:
        return f"no whole model: it has no {' and no '.join(missing)}; bring the file with all three networks"
    return None


def conversion_command(call: str, target: pathlib.Path) -> str:
    """A command that loads a model by `call` of StableDiffusionPipeline, and saves it as a pipeline folder."""
    return (
        f'python -c "from diffusers import StableDiffusionPipeline as P; P.{call}.save_pretrained({str(target)!r})", '
        f"and give --pretrained_model {target}"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Files of a pipeline folder


def find_variant(folder: pathlib.Path, name: str) -> str | None:
    """The variant in which a pipeline folder has the weights of a network: None, for names without one, or of VARIANTS.

    UserError, with what is there and how to convert it, if there are no safetensors; if a file is cut off.
    """
    stem, files = WEIGHTS[name], {path.name for path in (folder / name).glob("*")}
    for variant in (None, *VARIANTS):
        middle = f".{variant}" if variant else ""
        if f"{stem}{middle}.safetensors" in files:
            require_whole(folder / name / f"{stem}{middle}.safetensors")
            return variant
        if f"{stem}.safetensors.index{middle}.json" in files:  # in several files
            return variant
    weights = sorted(file for file in files if file.endswith((*PICKLES, ".safetensors", ".msgpack", ".onnx")))
    if not any(file.endswith(PICKLES) for file in weights):
        raise UserError(
            f"can't load a Stable Diffusion model from {folder}: {name}/ has no {stem}.safetensors"
            f"{', only ' + ', '.join(weights) if weights else ''}: bring the whole model"
        )
    option = ", variant='fp16'" if all(".fp16." in file for file in weights) else ""
    target = folder.absolute().with_name(f"{folder.absolute().name}-safetensors")
    raise UserError(
        f"{folder} has the weights of its {name} as a pickle ({weights[0]}), which nothing here reads; convert it: "
        + conversion_command(f"from_pretrained({str(folder)!r}{option})", target)
    )


def require_whole(path: pathlib.Path) -> None:
    """UserError if a safetensors file is damaged, cut off, or no safetensors file at all."""
    try:
        with safe_open(path, framework="pt"):
            return
    except (OSError, SafetensorError) as problem:
        what = describe_damage(path, problem)
        raise UserError(f"can't load a Stable Diffusion model: {path} is {what}") from None


def is_pickle(start: bytes) -> bool:
    """Whether a file that begins so is a pickle, or torch's archive of one. A safetensors file begins with the size of
    its header, in 8 bytes: one of 640 bytes begins like a pickle, and then has zeros."""
    return start.startswith(b"PK\x03\x04") or (start.startswith(b"\x80") and any(start[4:8]))


def describe_damage(path: pathlib.Path, problem: Exception) -> str:
    """What a file is that safetensors can't read (`problem`), and what to do about it."""
    try:
        with open(path, "rb") as file:
            start = file.read(40)
    except OSError:
        start = b""
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in place of the file: run `git lfs pull` there"
    if is_pickle(start):
        return (
            "a pickle under another name, which can run code hidden in it, so nothing here reads it; bring safetensors"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not the file: whoever loaded it down was asked to log in, or followed a wrong link"
    return f"damaged or incomplete ({short_reason(problem)}): bring it again"


# ---------------------------------------------------------------------------------------------------------------------
# Errors of the libraries


@contextlib.contextmanager
def library_errors_as_one_line(source: str, what: str = "") -> Iterator[None]:
    """What the libraries raise inside becomes a UserError. what: the part of the model that is read inside."""
    try:
        yield
    except LIBRARY_ERRORS as problem:
        raise UserError(load_error_message(source, problem, what)) from None


def load_error_message(source: str, problem: Exception, what: str = "") -> str:
    """One line for a model that did not load: the libraries' reason, and what to do about it."""
    reason = short_reason(problem)
    if local_folder(source):
        return f"can't load a Stable Diffusion model from {source}: {what}{': ' if what else ''}{reason}"
    causes: list[BaseException] = []
    cause: BaseException | None = problem
    while cause and cause not in causes:  # chains of exceptions may be circular
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    offline = any(isinstance(cause, hub.LocalEntryNotFoundError) for cause in causes)
    if any(isinstance(cause, hub.EntryNotFoundError) for cause in causes) and not offline:
        return f"the hub's {source} is not a Stable Diffusion pipeline in safetensors: {reason}; {GIVE_ANOTHER}"
    return (
        f"can't get '{source}': it is no folder here, not in the Hugging Face cache, and the hub said: {reason} -- "
        f"on a machine with internet run `hf download {source} --local-dir DIR`, bring DIR here and give "
        "--pretrained_model DIR; or try things out with --pretrained_model mini --resolution 128x192"
    )
