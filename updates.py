"""What an optimizer update takes: its places in the order of the data, its batches, their losses; and validation.

A place counts covers from the start of epoch 0, over all processes; what is random about a cover belongs to its place.
"""

from __future__ import annotations

import functools
import signal

import torch
from tqdm import tqdm

import config
import diffusion
import ema
import models

# ---------------------------------------------------------------------------------------------------------------------
# Order of the data


def places_of(step, count, window):
    """range of the places that optimizer update `step` takes; an epoch has `count` and its last update may be short."""
    epoch, update = divmod(step, -(-count // window))
    return range(epoch * count + update * window, min(epoch * count + (update + 1) * window, (epoch + 1) * count))


def batches_of(places, batch_size, accelerator):
    """The batches (ranges of places) of one update that this process computes; none, if the update is that short."""
    batches = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
    return batches[accelerator.process_index :: accelerator.num_processes]


epoch_order = functools.lru_cache(maxsize=1)(diffusion.epoch_order)  # asked for each batch, the same for an epoch


def indexes_of(places, count, seed):
    """Which of the `count` covers stand at `places`, all of one epoch."""
    epoch = places[0] // count
    order = epoch_order(seed, epoch, count)
    return [int(order[place - epoch * count]) for place in places]


def make_loader(session):
    """DataLoader over the batches of every update that is still to do, as {pixel_values, input_ids, row}."""
    count = len(session.covers)

    def keys():
        for step in range(session.position["step"], session.total):
            update = places_of(step, count, session.window)
            for places in batches_of(update, session.options.batch_size, session.accelerator):
                yield list(zip(indexes_of(places, count, session.options.seed), places, strict=True))

    return torch.utils.data.DataLoader(
        session.covers,
        batch_sampler=keys(),
        num_workers=config.num_workers(session.options),
        worker_init_fn=ignore_signals,
        pin_memory=session.accelerator.device.type == "cuda",
    )


def ignore_signals(_worker):
    """Ctrl-C reaches every process of the terminal; the workers go on, so that the update can be finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


# ---------------------------------------------------------------------------------------------------------------------
# Losses

BANDS = 4  # of timesteps, whose validation losses are told apart: details (little noise) to composition (much)


def denoising_loss(session, batch, posterior_noise, noise, timesteps, snr_gamma=None):
    """float32 (B,): the objective on a batch {pixel_values (B, 3, H, W), input_ids (B, 77)}; see diffusion.loss."""
    device = session.accelerator.device
    with session.accelerator.autocast():
        latents = models.encode_images(
            session.parts.vae, batch["pixel_values"].to(device, non_blocking=True), posterior_noise.to(device)
        )
        encoder_hidden_states = models.encode_text(session.parts.text_encoder, batch["input_ids"].to(device))
        return diffusion.loss(
            session.parts.unet,
            session.noise_scheduler,
            latents,
            encoder_hidden_states,
            noise.to(device),
            timesteps.to(device),
            snr_gamma,
        )


def training_loss(session, batch, places):
    """float32 (B,): the loss of training batch, with the noise and the timesteps that belong to its places."""
    seed = session.options.seed
    shape = models.latent_shape(session.parts, config.size(session.options))
    return denoising_loss(
        session,
        batch,
        diffusion.normal(seed, diffusion.POSTERIOR, places, shape),
        diffusion.normal(seed, diffusion.NOISE, places, shape),
        diffusion.uniform_timesteps(seed, places, session.noise_scheduler.config.num_train_timesteps),
        session.options.snr_gamma,
    )


def validate(session):
    """(mean, [mean of each quarter of the timesteps]): the loss over the held-out covers, unweighted.

    Always the same noise; timesteps are stratified over the covers. With fewer than 4 covers there are no quarters: [].
    """
    options, count = session.options, len(session.held_out)
    shape = models.latent_shape(session.parts, config.size(options))
    num_train_timesteps = session.noise_scheduler.config.num_train_timesteps
    timesteps = diffusion.stratified_timesteps(count, num_train_timesteps)
    losses = torch.zeros(count, device=session.accelerator.device)
    batches = batches_of(range(count), options.batch_size, session.accelerator)
    quiet = not session.accelerator.is_main_process
    with ema.applied(session.average), models.evaluating(session.parts):
        for chunk in tqdm(batches, desc="validation", unit="batch", leave=False, delay=3, disable=quiet):
            batch = torch.utils.data.default_collate([session.held_out[i] for i in chunk])
            posterior_noise = diffusion.normal(options.seed, diffusion.VALIDATION_POSTERIOR, chunk, shape)
            noise = diffusion.normal(options.seed, diffusion.VALIDATION_NOISE, chunk, shape)
            losses[list(chunk)] = denoising_loss(session, batch, posterior_noise, noise, timesteps[list(chunk)])
    losses = session.accelerator.reduce(losses, "sum").double().cpu()  # a cover's loss is 0 in all processes but one
    bands = timesteps * BANDS // num_train_timesteps  # which of the quarters each cover's timestep is in
    return losses.mean().item(), [losses[bands == i].mean().item() for i in range(BANDS if count >= BANDS else 0)]
