"""Shared by both stages of mini's training: EMA of the weights, learning rate schedule, saving and loading the state.

Not the project's checkpoints: those are versions of a complete pipeline, which does not exist yet at this point.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from diffusers.training_utils import EMAModel

from common.files import atomic_write


def rng(*key: int) -> np.random.Generator:
    """The numpy generator of a key of integers, such as (stage, step): random numbers do not depend on resuming."""
    return np.random.default_rng(list(key))


def cosine(step: int, total: int, warmup: int = 100) -> float:
    """Factor on the learning rate at a step: cosine decay to 0 over `total` steps, times a linear warm-up."""
    return min(1, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / total))


def parameters_of(modules: Iterable[torch.nn.Module]) -> list[torch.nn.Parameter]:
    return [p for module in modules for p in module.parameters()]


def make_ema(modules: Iterable[torch.nn.Module]) -> EMAModel:
    """An exponential moving average of the modules' parameters; its decay rises to 0.999 in the first steps."""
    return EMAModel(parameters_of(modules), decay=0.999, foreach=True)


def save(
    path: pathlib.Path,
    modules: Sequence[torch.nn.Module],
    ema: EMAModel,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    """Writes the training state after `step` steps, atomically."""
    state = {
        "step": step,
        "modules": [module.state_dict() for module in modules],
        "average": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load(
    path: pathlib.Path, modules: Sequence[torch.nn.Module], ema: EMAModel, optimizer: torch.optim.Optimizer
) -> int:
    """Restores the training state if the file exists; returns the number of steps done, else 0."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for module, values in zip(modules, state["modules"], strict=True):
        module.load_state_dict(values)
    ema.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
