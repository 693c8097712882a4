"""A batch -> the loss of each sample."""

from __future__ import annotations

import functools
import itertools
import math

import torch

from checkpoints import state
from common import randomness
from data import buckets
from diffusion import encoding, objective
from diffusion.noise import normal, uniform_timesteps
from trainer.batches import collate


def denoising_loss(session, batch, posterior_noise, noise, timesteps, snr_gamma=None):
    """float32 (B,): the objective on a batch {pixel_values (B, 3, H, W), input_ids (B, 77)}; see diffusion.loss.

    With cached latents the batch has moments (B, 2, 4, H/8, W/8) instead of pixel_values.
    """
    vae = session.parts.vae
    send = functools.partial(torch.Tensor.to, device=session.accelerator.device, non_blocking=True)  # no wait for it
    with session.accelerator.autocast():
        if "moments" in batch:
            mean, std = send(batch["moments"]).float().unbind(1)
        else:
            mean, std = encoding.posterior(vae, send(batch["pixel_values"]))
        latents = encoding.draw_latents(vae, mean, std, send(posterior_noise))
        encoder_hidden_states = encoding.encode_text(session.parts.text_encoder, send(batch["input_ids"]))
        return objective.loss(
            session.parts.unet,
            session.noise_scheduler,
            latents,
            encoder_hidden_states,
            send(noise),
            send(timesteps),
            snr_gamma,
        )


def batch_latent_shape(parts, batch):
    """(4, H/8, W/8) of the latents of a batch."""
    if "moments" in batch:
        return tuple(batch["moments"].shape[2:])
    height, width = batch["pixel_values"].shape[2:]
    return encoding.latent_shape(parts, (width, height))


def training_loss(session, batch, places):
    """float32 (B,): the loss of training batch, with the noise and the timesteps that belong to its places."""
    seed, shape = session.options.seed, batch_latent_shape(session.parts, batch)
    return denoising_loss(
        session,
        batch,
        normal(seed, randomness.POSTERIOR, places, shape),
        normal(seed, randomness.NOISE, places, shape),
        uniform_timesteps(seed, places, session.noise_scheduler.config.num_train_timesteps),
        session.options.snr_gamma,
    )


def check_largest_batch(session):
    """One forward and backward pass of the batch that needs most memory; what does not fit then fails at once.

    Nothing changes: no update is made, no gradient is left, and noise is a function of places.
    """
    sizes, batch_size = session.covers.sizes, session.options.batch_size
    batches = [members[:batch_size] for members in buckets.group_by_size(sizes)]
    largest = max(batches, key=lambda members: len(members) * math.prod(sizes[members[0]]))
    keys = list(zip(largest, itertools.count()))  # cover and place

    # The optimizer's moments are not there before the first update: their room is taken meanwhile
    weights = sum(4 * p.numel() for p in session.optimizer.parameters)
    there = session.optimizer.state or session.options.optimizer == "paged_adamw8bit"  # or they can make room
    moments = 0 if there else state.moments_nbytes(session.options, weights)
    reserved = torch.empty(int(moments), dtype=torch.uint8, device=session.accelerator.device)
    with session.optimizer.rehearsal():
        # as in training, nobody holds the batch while the backward pass goes on
        losses = training_loss(session, collate(session.covers, keys), range(len(keys)))
        session.accelerator.backward(losses.mean())
    del reserved
