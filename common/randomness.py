"""Random numbers that depend on (seed, purpose, sample index) alone.

The generator is numpy's default_rng, seeded with these three integers, which SeedSequence hashes. No global generator
is used, so a resumed run draws the same numbers as an uninterrupted one. The sample index counts training samples from
the first of epoch 0; it does not depend on the batch size or the number of GPUs.
"""

from __future__ import annotations

import hashlib

import numpy as np

# Purposes. Every run depends on these values: never change or reuse one.
ORDER, CAPTION, NOISE, TIMESTEP, POSTERIOR, VALIDATION_NOISE, VALIDATION_POSTERIOR, DRAWING, ROUNDING = range(9)
NOISE_OFFSET, LORA_WEIGHTS, LORA_DROPOUT, LETTERING_WEIGHTS = 9, 10, 11, 12


def rng(seed: int, purpose: int, index: int) -> np.random.Generator:
    """The generator for one purpose and one sample index; all three are at least 0."""
    return np.random.default_rng([seed, purpose, index])


def key_of(name: str) -> int:
    """An index for a name, below 2^48: a layer's random numbers then do not depend on how many others there are."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big")


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which an epoch visits the training covers: int64 (count,), a permutation of 0 ... count - 1."""
    return rng(seed, ORDER, epoch).permutation(count)
