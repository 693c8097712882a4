"""Weights as bytes: hashes, sizes, saving."""

from __future__ import annotations

import hashlib

import torch
import transformers

from common.files import read_json, write_json
from diffusion.parts import PARTS
from diffusion.placement import DTYPES


def weights_nbytes(parts, names, dtype="fp32"):
    """Bytes that the weights of the named parts take on disk."""
    tensors = [tensor for name in names for tensor in getattr(parts, name).state_dict().values()]
    return sum(tensor.numel() for tensor in tensors) * DTYPES[dtype].itemsize


def weights_hash(parts):
    """What the drawn covers depend on: the networks_hash of all parts."""
    return networks_hash(parts.vae, *(getattr(parts, name) for name in PARTS))


def networks_hash(*networks):
    """A hash, hex, of all weights as they are now, on the CPU."""
    digest = hashlib.blake2b(digest_size=16)
    for network in networks:
        for key, tensor in sorted(network.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_network(network, folder, dtype):
    """Write a network as its library does, with weights of `dtype`; the network itself stays as and where it is."""

    from_transformers = isinstance(network, transformers.PreTrainedModel)
    with torch.device("meta"):  # a second one without memory, so that nothing is cast or copied on the GPU
        if from_transformers:
            copy = type(network)(network.config)
        else:
            copy = type(network).from_config({**network.config, "_name_or_path": ""})  # no path of this machine
    weights = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()}
    copy.load_state_dict(weights, assign=True)
    copy.save_pretrained(folder)
    if from_transformers:
        # diffusers loads any weights in fp32 unless told otherwise, transformers as config.json says: both alike, so
        # that from_pretrained(folder) works without a word about precision
        path = folder / "config.json"
        write_json(path, read_json(path) | {"dtype": "float32"})
