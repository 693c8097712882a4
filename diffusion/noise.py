"""Noise and timesteps of training samples, each a function of (seed, purpose, position)."""

from __future__ import annotations

import numpy as np
import torch

from common.randomness import TIMESTEP, rng


def normal(seed, purpose, positions, shape):
    """Standard normal float32 (len(positions), *shape), one generator for each position."""
    return torch.from_numpy(np.stack([rng(seed, purpose, p).standard_normal(shape, np.float32) for p in positions]))


def uniform_timesteps(seed, positions, num_train_timesteps):
    """int64 (len(positions),), uniform over 0 ... num_train_timesteps - 1, one generator for each position."""
    return torch.tensor([int(rng(seed, TIMESTEP, p).integers(num_train_timesteps)) for p in positions])


def stratified_timesteps(count, num_train_timesteps):
    """int64 (count,): the middles of `count` equal strata of 0 ... num_train_timesteps - 1, in rising order."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / count * num_train_timesteps).long()
