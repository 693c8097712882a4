"""What an optimizer update takes: its places in the order of the data, its batches, their losses; and validation.

A place counts covers from the start of epoch 0, over all processes; what is random about a cover belongs to its place.
"""

from __future__ import annotations

import functools
import itertools
import math
import signal

import torch
from tqdm import tqdm

import config
from checkpoints import state
from data import buckets
from diffusion import ema, objective, pipeline

# ---------------------------------------------------------------------------------------------------------------------
# Order of the data


# Asked for each batch, the same for an epoch; the loader may be in the next one already
remember_epochs = functools.lru_cache(maxsize=2)
epoch_order = remember_epochs(objective.epoch_order)


class Plan:
    """Which of `count` covers of one size stand at each place, and which places make an update of `window` covers."""

    def __init__(self, count, window, seed):
        self.count, self.window, self.seed = count, window, seed
        self.updates = -(-count // window)  # of an epoch; the last may be short

    def order(self, epoch):
        """int64 (count,): the covers in the order of their places in that epoch."""
        return epoch_order(self.seed, epoch, self.count)

    def pieces(self, step):
        """The places that optimizer update `step` takes, all of one epoch: ranges whose covers have one size each."""
        epoch, update = divmod(step, self.updates)
        first = epoch * self.count
        return [range(first + update * self.window, first + min((update + 1) * self.window, self.count))]

    def indexes(self, places):
        """Which covers stand at `places`, all of one epoch."""
        epoch = places[0] // self.count
        order = self.order(epoch)
        return [int(order[place - epoch * self.count]) for place in places]


class BucketPlan(Plan):
    """The same for covers of several sizes [(W, H)]: an update takes window / batch_size batches of one size each.

    An epoch's last update may have fewer batches, and any batch fewer covers, the last of its size. batch_size: that
    of the run's first start; a lower one on resume cuts its batches and leaves the order as it was.
    """

    def __init__(self, sizes, window, batch_size, seed):
        super().__init__(len(sizes), window, seed)
        groups = buckets.group(sizes)
        self.at_once = window // batch_size
        self.updates = -(-sum(-(-len(members) // batch_size) for members in groups) // self.at_once)
        self.epoch = remember_epochs(lambda epoch: buckets.epoch_order(seed, epoch, groups, batch_size))

    def order(self, epoch):
        return self.epoch(epoch)[0]

    def pieces(self, step):
        epoch, update = divmod(step, self.updates)
        ends = self.epoch(epoch)[1][update * self.at_once :][: self.at_once + 1]
        return [range(*pair) for pair in itertools.pairwise(epoch * self.count + end for end in ends)]


def make_plan(options, sizes, position):
    """The Plan for covers of these sizes [(W, H)]. position: what an update takes; see session.set_up."""
    if options.buckets:
        return BucketPlan(sizes, position["window"], position["batch_size"], options.seed)
    return Plan(len(sizes), position["window"], options.seed)


def batches_of(pieces, batch_size, accelerator):
    """The batches of one update that this process computes, cut from pieces of one size each; maybe none."""
    batches = [piece[i : i + batch_size] for piece in pieces for i in range(0, len(piece), batch_size)]
    return batches[accelerator.process_index :: accelerator.num_processes]


def make_loader(session):
    """DataLoader over the batches of every update that is still to do, as {pixel_values, input_ids, row}."""
    plan, workers = session.plan, config.num_workers(session.options)
    if session.options.cache_latents and session.options.num_workers is None:
        # 0.7 ms of CPU a cover, most of it for the tokens; a picture of 512x768 takes 12. One worker spares the process
        # that drives a GPU; without a GPU it would only take a core from the arithmetic (bench/loading.py)
        workers = min(1, workers) if session.accelerator.device.type == "cuda" else 0

    def keys():
        for step in range(session.position["step"], session.total):
            for places in batches_of(plan.pieces(step), session.options.batch_size, session.accelerator):
                yield list(zip(plan.indexes(places), places, strict=True))

    return torch.utils.data.DataLoader(
        session.covers,
        batch_sampler=keys(),
        num_workers=workers,
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
    """float32 (B,): the objective on a batch {pixel_values (B, 3, H, W), input_ids (B, 77)}; see diffusion.loss.

    With cached latents the batch has moments (B, 2, 4, H/8, W/8) instead of pixel_values.
    """
    vae = session.parts.vae
    send = functools.partial(torch.Tensor.to, device=session.accelerator.device, non_blocking=True)  # no wait for it
    with session.accelerator.autocast():
        if "moments" in batch:
            mean, std = send(batch["moments"]).float().unbind(1)
        else:
            mean, std = pipeline.posterior(vae, send(batch["pixel_values"]))
        latents = pipeline.draw_latents(vae, mean, std, send(posterior_noise))
        encoder_hidden_states = pipeline.encode_text(session.parts.text_encoder, send(batch["input_ids"]))
        return objective.loss(
            session.parts.unet,
            session.noise_scheduler,
            latents,
            encoder_hidden_states,
            send(noise),
            send(timesteps),
            snr_gamma,
        )


def collate(covers, keys):
    """A batch of a BookCoverDataset, as the loader makes it."""
    return torch.utils.data.default_collate([covers[key] for key in keys])


def latent_shape(parts, batch):
    """(4, H/8, W/8) of the latents of a batch."""
    if "moments" in batch:
        return tuple(batch["moments"].shape[2:])
    height, width = batch["pixel_values"].shape[2:]
    return pipeline.latent_shape(parts, (width, height))


def training_loss(session, batch, places):
    """float32 (B,): the loss of training batch, with the noise and the timesteps that belong to its places."""
    seed, shape = session.options.seed, latent_shape(session.parts, batch)
    return denoising_loss(
        session,
        batch,
        objective.normal(seed, objective.POSTERIOR, places, shape),
        objective.normal(seed, objective.NOISE, places, shape),
        objective.uniform_timesteps(seed, places, session.noise_scheduler.config.num_train_timesteps),
        session.options.snr_gamma,
    )


def try_largest(session):
    """One forward and backward pass of the batch that needs most memory; what does not fit then fails at once.

    Nothing changes: no update is made, no gradient is left, and noise is a function of places.
    """
    sizes, batch_size = session.covers.sizes, session.options.batch_size
    batches = [members[:batch_size] for members in buckets.group(sizes)]
    largest = max(batches, key=lambda members: len(members) * math.prod(sizes[members[0]]))
    keys = list(zip(largest, itertools.count()))  # cover and place

    # The optimizer's moments are not there before the first update: their room is taken meanwhile
    weights = sum(4 * p.numel() for p in session.optimizer.parameters)
    there = session.optimizer.state or session.options.optimizer == "paged_adamw8bit"  # or they can make room
    moments = 0 if there else state.bytes_of_moments(session.options, weights)
    reserved = torch.empty(int(moments), dtype=torch.uint8, device=session.accelerator.device)
    with session.optimizer.rehearsal():
        # as in training, nobody holds the batch while the backward pass goes on
        losses = training_loss(session, collate(session.covers, keys), range(len(keys)))
        session.accelerator.backward(losses.mean())
    del reserved


def validate(session):
    """(mean, [mean of each quarter of the timesteps]): the loss over the held-out covers, unweighted.

    Always the same noise; timesteps are stratified over the covers. With fewer than 4 covers there are no quarters: [].
    """
    options, count = session.options, len(session.held_out)
    num_train_timesteps = session.noise_scheduler.config.num_train_timesteps
    timesteps = objective.stratified_timesteps(count, num_train_timesteps)
    losses = torch.zeros(count, device=session.accelerator.device)
    batches = batches_of(buckets.group(session.held_out.sizes), options.batch_size, session.accelerator)
    quiet = not session.accelerator.is_main_process
    with ema.applied(session.average), pipeline.evaluating(session.parts):
        for chunk in tqdm(batches, desc="validation", unit="batch", leave=False, delay=3, disable=quiet):
            batch = collate(session.held_out, chunk)
            shape = latent_shape(session.parts, batch)
            posterior_noise = objective.normal(options.seed, objective.VALIDATION_POSTERIOR, chunk, shape)
            noise = objective.normal(options.seed, objective.VALIDATION_NOISE, chunk, shape)
            losses[chunk] = denoising_loss(session, batch, posterior_noise, noise, timesteps[chunk])
    losses = session.accelerator.reduce(losses, "sum").double().cpu()  # a cover's loss is 0 in all processes but one
    bands = timesteps * BANDS // num_train_timesteps  # which of the quarters each cover's timestep is in
    return losses.mean().item(), [losses[bands == i].mean().item() for i in range(BANDS if count >= BANDS else 0)]
