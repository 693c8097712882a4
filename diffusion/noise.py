"""Noise and timesteps for training and sampling, each a function of (seed, purpose, index).

purpose is one of common.randomness' constants. An index is whatever names one draw: a sample index in training, a row
of the data in sampling. Nothing depends on how indexes are batched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.randomness import NOISE, NOISE_OFFSET, TIMESTEP, rng


def normal(seed: int, purpose: int, indexes: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 (len(indexes), *shape), on the CPU; one generator for each index."""
    return torch.from_numpy(np.stack([rng(seed, purpose, i).standard_normal(shape, np.float32) for i in indexes]))


def training_noise(seed: int, indexes: Sequence[int], shape: Sequence[int], offset: float = 0) -> torch.Tensor:
    """The noise of training, float32 (len(indexes), *shape), shape = (channels, height, width).

    Standard normal; with an offset, besides, offset times one more standard normal number for each sample and channel.
    The mean of a channel then has noise of variance 1 / (height x width) + offset^2. Without the offset so little hides
    the mean that a model reads it from the input, and learns to draw no picture that is dark or light as a whole
    (www.crosslabs.org/blog/diffusion-with-offset-noise; diffusers' training examples).
    """
    noise = normal(seed, NOISE, indexes, shape)
    if offset:
        noise += offset * normal(seed, NOISE_OFFSET, indexes, (shape[0], 1, 1))
    return noise


def uniform_timesteps(seed: int, indexes: Sequence[int], num_train_timesteps: int) -> torch.Tensor:
    """int64 (len(indexes),), uniform over 0 ... num_train_timesteps - 1; one generator for each index."""
    return torch.tensor([int(rng(seed, TIMESTEP, i).integers(num_train_timesteps)) for i in indexes])


def stratified_timesteps(count: int, num_train_timesteps: int) -> torch.Tensor:
    """int64 (count,): the midpoints of `count` equal strata of 0 ... num_train_timesteps - 1, in rising order."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / count * num_train_timesteps).long()
