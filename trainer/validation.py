"""The validation loss: held-out covers, always the same noise and timesteps."""

from __future__ import annotations

import torch
from tqdm import tqdm

from common import randomness
from data import buckets
from diffusion import ema
from diffusion.noise import normal, stratified_timesteps
from diffusion.parts import eval_mode
from trainer.batches import collate, split_batches
from trainer.losses import batch_latent_shape, denoising_loss

# ---------------------------------------------------------------------------------------------------------------------
# Losses

TIMESTEP_BINS = 4  # of timesteps, whose validation losses are told apart: details (little noise) to composition (much)


def validate(session):
    """(mean, [mean of each quarter of the timesteps]): the loss over the held-out covers, unweighted.

    Always the same noise; timesteps are stratified over the covers. With fewer than 4 covers there are no quarters: [].
    """
    options, count = session.options, len(session.held_out)
    num_train_timesteps = session.noise_scheduler.config.num_train_timesteps
    timesteps = stratified_timesteps(count, num_train_timesteps)
    losses = torch.zeros(count, device=session.accelerator.device)
    batches = split_batches(buckets.group_by_size(session.held_out.sizes), options.batch_size, session.accelerator)
    quiet = not session.accelerator.is_main_process
    with ema.ema_weights(session.average), eval_mode(session.parts):
        for chunk in tqdm(batches, desc="validation", unit="batch", leave=False, delay=3, disable=quiet):
            batch = collate(session.held_out, chunk)
            shape = batch_latent_shape(session.parts, batch)
            posterior_noise = normal(options.seed, randomness.VALIDATION_POSTERIOR, chunk, shape)
            noise = normal(options.seed, randomness.VALIDATION_NOISE, chunk, shape)
            losses[chunk] = denoising_loss(session, batch, posterior_noise, noise, timesteps[chunk])
    losses = session.accelerator.reduce(losses, "sum").double().cpu()  # a cover's loss is 0 in all processes but one
    bands = timesteps * TIMESTEP_BINS // num_train_timesteps  # which of the quarters each cover's timestep is in
    return losses.mean().item(), [
        losses[bands == i].mean().item() for i in range(TIMESTEP_BINS if count >= TIMESTEP_BINS else 0)
    ]
