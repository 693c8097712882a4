"""What both stages of mini's training share: a moving average of the weights, a schedule, and saving to go on later."""

from __future__ import annotations

import math
import os

import numpy as np
import torch


def rng(*key):
    """The numpy generator of a key of integers; what is random at a step is a function of (stage, step) alone."""
    return np.random.default_rng(list(key))


def cosine(step, total, warmup=100):
    """Factor on the learning rate: linear warm-up, then half a cosine to 0."""
    return min(1, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / total))


class Average:
    """Exponential moving average of a module's parameters, with a shorter memory in the first steps."""

    def __init__(self, modules, decay):
        self.parameters = [p for module in modules for p in module.parameters()]
        self.decay, self.values = decay, [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step):
        decay = min(self.decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def store(self):
        """Put the averages into the parameters."""
        for p, value in zip(self.parameters, self.values, strict=True):
            p.copy_(value)


def save(path, modules, average, optimizer, step):
    """Write all that going on needs, whole or not at all."""
    state = {
        "step": step,
        "modules": [module.state_dict() for module in modules],
        "average": average.values,
        "optimizer": optimizer.state_dict(),
    }
    unfinished = path.with_name("." + path.name)
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def load(path, modules, average, optimizer):
    """Steps done: 0 where there is no file, else those of the state that is read back."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for module, values in zip(modules, state["modules"], strict=True):
        module.load_state_dict(values)
    for value, saved in zip(average.values, state["average"], strict=True):
        value.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
