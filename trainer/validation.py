"""The validation loss: held-out covers, always the same noise and timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from common import randomness
from data import buckets
from diffusion.ema import ema_weights
from diffusion.noise import normal, stratified_timesteps
from diffusion.parts import eval_mode
from trainer.batches import collate, split_batches

if TYPE_CHECKING:
    from trainer.session import Session

TIMESTEP_BINS = 4  # quarters of the timesteps, from details (little noise) to composition (much)


def validate(session: Session) -> tuple[float, list[float]]:
    """(mean, mean of each quarter of the timesteps): the loss over the validation covers.

    Whatever training's loss is, here it is the mean squared error, unweighted, of noise without offset: so it can be
    compared between runs that predict the same on the same schedule.

    Timesteps are stratified over the covers. With fewer than 4 covers there are no quarters: [].
    """
    accelerator, objective, val_set = session.accelerator, session.objective, session.val_set
    seed, count = session.options.seed, len(val_set)
    num_train_timesteps = objective.noise_scheduler.config.num_train_timesteps
    timesteps = stratified_timesteps(count, num_train_timesteps)
    losses = torch.zeros(count, device=accelerator.device)
    batches = split_batches(buckets.group_by_size(val_set.sizes), session.options.batch_size, accelerator)
    quiet = not accelerator.is_main_process
    with ema_weights(session.ema), eval_mode(session.parts):
        for chunk in tqdm(batches, desc="validation", unit="batch", leave=False, delay=3, disable=quiet):
            batch = collate(val_set, chunk)
            shape = objective.latent_shape(batch)
            posterior_noise = normal(seed, randomness.VALIDATION_POSTERIOR, chunk, shape)
            noise = normal(seed, randomness.VALIDATION_NOISE, chunk, shape)
            losses[chunk] = objective.losses(batch, posterior_noise, noise, timesteps[chunk])
    losses = accelerator.reduce(losses, "sum").double().cpu()  # a cover's loss is 0 in all processes but one
    bins = timesteps * TIMESTEP_BINS // num_train_timesteps  # which quarter each cover's timestep is in
    means = [losses[bins == i].mean().item() for i in range(TIMESTEP_BINS if count >= TIMESTEP_BINS else 0)]
    return losses.mean().item(), means
