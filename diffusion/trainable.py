"""The trained parts of a model, as one object that optimizer, EMA, versions and training state work with.

Here whole networks are trained; lora.py has adapters in them. A part needs a name (parts.TRAINABLE), parameters, and
in config.py the options --train_<name> and that of its learning rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import config
from diffusion.lora_dropout import KeyedDropout
from diffusion.parts import TRAINABLE, Parts
from diffusion.placement import DTYPES
from diffusion.weights import network_config, save_network


def trained_parts(options: config.TrainingOptions) -> list[str]:
    """Names of the parts that the options --train_<name> ask for, in the order of TRAINABLE."""
    return [name for name in TRAINABLE if getattr(options, f"train_{name}")]


def set_trainable(parts: Parts, names: Sequence[str]) -> Trainable:
    """Make just the named parts trainable: they get requires_grad and train mode, all other networks neither."""
    for name, network in parts.networks.items():
        network.requires_grad_(name in names).train(name in names)
    return Trainable({name: getattr(parts, name) for name in names})


@dataclass(frozen=True)
class Trainable:
    """The networks that are trained, or that have what is trained in them, {name: network}; the order is that of the
    optimizer's parameters."""

    networks: dict[str, torch.nn.Module]
    dropout: KeyedDropout | None = None  # of adapters

    @property
    def names(self) -> list[str]:
        return list(self.networks)

    @property
    def whole(self) -> list[str]:
        """Names of the networks of which every weight is trained: a version has its own, and links all others."""
        return self.names

    def __iter__(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """(name, network) of each."""
        return iter(self.networks.items())

    def named_parameters(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        """{part: {name: parameter}} of what is trained: not of the layers that --clip_skip leaves out."""
        return {part: {name: p for name, p in network.named_parameters() if p.requires_grad} for part, network in self}

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for parameters in self.named_parameters().values() for p in parameters.values()]

    def state_dict(self, part: str) -> dict[str, torch.Tensor]:
        """{name: tensor} of what is trained in one part, on its device, contiguous."""
        return {name: tensor.contiguous() for name, tensor in self.networks[part].state_dict().items()}

    def load_state_dict(self, part: str, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what state_dict returned. RuntimeError unless names and shapes are those of this part."""
        self.networks[part].load_state_dict(tensors)

    def nbytes(self, dtype: str = "fp32") -> int:
        """Bytes of the weights in that precision; see placement.DTYPES."""
        tensors = [tensor for part in self.names for tensor in self.state_dict(part).values()]
        return sum(tensor.numel() for tensor in tensors) * DTYPES[dtype].itemsize

    def settings(self, part: str) -> dict[str, Any]:
        """What making a version of the part's state_dict takes besides, for JSON."""
        return network_config(self.networks[part])

    def save(self, folder: Path, dtype: str) -> None:
        """Write what a version has of its own into its folder, in that precision. UserError if a weight is not finite
        in it."""
        for part, network in self:
            save_network(network, folder / part, DTYPES[dtype])
