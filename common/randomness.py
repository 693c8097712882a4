"""Random numbers as functions of (seed, purpose, position).

Every random number is a function of (seed, what it is for, position): numpy's default_rng over that list of integers
(SeedSequence hashes it). No global generator is ever used, so a resumed run draws what an unbroken one would have.
Positions count training samples from the first of epoch 0; they do not depend on batch size or number of GPUs.
"""

from __future__ import annotations

import numpy as np

# What a random number is for. The values are part of every run's identity: never change or reuse one.
ORDER, CAPTION, NOISE, TIMESTEP, POSTERIOR, VALIDATION_NOISE, VALIDATION_POSTERIOR, DRAWING, ROUNDING = range(9)


def rng(seed, purpose, position):
    """The numpy generator that belongs to one purpose at one position."""
    return np.random.default_rng([seed, purpose, position])


def epoch_order(seed, epoch, count):
    """int64 (count,): the order in which epoch `epoch` visits the `count` training covers."""
    return rng(seed, ORDER, epoch).permutation(count)
