"""What both stages of mini's training share: a moving average of the weights, a schedule, and saving to go on later.

Not the project's checkpoints: those are versions of a whole pipeline, and here there is none yet.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from diffusers.training_utils import EMAModel

from common.files import atomic_write


def rng(*key):
    """The numpy generator of a key of integers; what is random at a step is a function of (stage, step) alone."""
    return np.random.default_rng(list(key))


def cosine(step, total, warmup=100):
    """Factor on the learning rate: half a cosine to 0, that begins with the first step, under a linear warm-up."""
    return min(1, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / total))


def parameters_of(modules):
    return [p for module in modules for p in module.parameters()]


def average_of(modules):
    """The moving average of their parameters; its memory is short in the first steps."""
    return EMAModel(parameters_of(modules), decay=0.999, foreach=True)


def save(path, modules, average, optimizer, step):
    """Write all that going on needs, whole or not at all."""
    state = {
        "step": step,
        "modules": [module.state_dict() for module in modules],
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load(path, modules, average, optimizer):
    """Steps done: 0 where there is no file, else those of the state that is read back."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for module, values in zip(modules, state["modules"], strict=True):
        module.load_state_dict(values)
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
