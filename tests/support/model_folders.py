"""Pipeline folders that tests damage or turn into models of other kinds."""

import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file

FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def copy(folder, target):
    """A copy without the files of `folder` themselves, so that a test can write to it."""
    return pathlib.Path(shutil.copytree(folder, target))


def edit_json(path, **changes):
    """Change settings of a JSON file; one that becomes ... is left out."""
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))


def edit_weights(path, change):
    """Have `change` work on the {name: tensor} of a file."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def rename_to_fp16(folder, names=tuple(FILES)):
    """Replace these networks' files by half-precision ones, under the names of that variant."""
    for name in names:
        path = folder / FILES[name]
        half = {key: tensor.half() for key, tensor in load_file(path).items()}
        save_file(half, path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")), {"format": "pt"})
        path.unlink()


def rename_to_pickle(folder, names=tuple(FILES)):
    """Replace these networks' files by the pickles that older tools write."""
    for name in names:
        path = folder / FILES[name]
        stem = "pytorch_model" if name == "text_encoder" else path.stem
        torch.save(load_file(path), path.with_name(f"{stem}.bin"))
        path.unlink()
