"""The trained parts of a model, as one object that optimizer, EMA, versions and training state work with.

Anything else to train (an adapter, a network beside the UNet) goes in here: it needs a name, parameters, and a learning
rate option in config.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

import config
from diffusion.parts import NETWORKS, PARTS, Parts
from diffusion.placement import DTYPES


def trained_parts(options: config.TrainingOptions) -> list[str]:
    """Names of the parts that --train_unet and --train_text_encoder ask for, in the order of PARTS."""
    return [name for name in PARTS if getattr(options, f"train_{name}")]


def set_trainable(parts: Parts, names: Sequence[str]) -> Trainable:
    """Make just the named parts trainable: they get requires_grad and train mode, all other networks neither."""
    for name in NETWORKS:
        getattr(parts, name).requires_grad_(name in names).train(name in names)
    return Trainable({name: getattr(parts, name) for name in names})


@dataclass(frozen=True)
class Trainable:
    """The trained networks, {name: network}; the order is that of the optimizer's parameters."""

    networks: dict[str, torch.nn.Module]

    @property
    def names(self) -> list[str]:
        return list(self.networks)

    def __iter__(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """(name, network) of each."""
        return iter(self.networks.items())

    def named_parameters(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        """{part: {name: parameter}} of what is trained: not of the layers that --clip_skip leaves out."""
        return {part: {name: p for name, p in network.named_parameters() if p.requires_grad} for part, network in self}

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for parameters in self.named_parameters().values() for p in parameters.values()]

    def state_dict(self, part: str) -> dict[str, torch.Tensor]:
        """{name: tensor} of one part, on its device, contiguous."""
        return {name: tensor.contiguous() for name, tensor in self.networks[part].state_dict().items()}

    def load_state_dict(self, part: str, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what state_dict returned. RuntimeError unless names and shapes are those of this part."""
        self.networks[part].load_state_dict(tensors)

    def nbytes(self, dtype: str = "fp32") -> int:
        """Bytes of the weights in that precision; see placement.DTYPES."""
        tensors = [tensor for _, network in self for tensor in network.state_dict().values()]
        return sum(tensor.numel() for tensor in tensors) * DTYPES[dtype].itemsize
