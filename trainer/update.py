"""One optimizer update: the steps that training makes and the memory forecast traces."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from checkpoints.state import moments_nbytes
from data import buckets
from diffusion.ema import EMA
from trainer.batches import collate
from trainer.optimizers import Optimizer

if TYPE_CHECKING:
    from trainer.session import Session


def accumulate_gradients(accelerator: Any, batch_losses: Iterable[torch.Tensor], count: int) -> torch.Tensor:
    """Backward passes: the gradient of the mean loss over `count` samples adds up. Returns their sum of losses, 0-dim.

    batch_losses: float32 (B,) of one batch after another, each computed when it is asked for.
    """
    loss_sum = torch.zeros((), device=accelerator.device)
    for losses in batch_losses:
        accelerator.backward(losses.sum() / count)
        loss_sum += losses.detach().sum()
    return loss_sum


def sum_over_processes(
    accelerator: Any, parameters: list[torch.nn.Parameter], values: torch.Tensor, *, had_batches: bool
) -> torch.Tensor:
    """Sum gradients and `values` over all processes. One that had no batch in a short update adds 0."""
    if accelerator.num_processes > 1:
        if not had_batches:
            accelerator.backward(sum(p.sum() for p in parameters) * 0)
        for p in parameters:
            p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
    return accelerator.reduce(values, "sum")


def apply_update(optimizer: Optimizer, ema: EMA | None, step: int) -> None:
    """Change the weights by their clipped gradients, drop the gradients, and bring the average up to date."""
    optimizer.step()
    if ema:
        ema.update(step)


def check_largest_batch(session: Session) -> None:
    """One forward and backward pass of the batch that needs most memory; what does not fit then fails at once.

    Nothing changes: no update is made, no gradient is left, and noise is a function of sample indexes.
    """
    sizes, batch_size = session.train_set.sizes, session.options.batch_size
    batches = [members[:batch_size] for members in buckets.group_by_size(sizes)]
    largest = max(batches, key=lambda members: len(members) * math.prod(sizes[members[0]]))
    keys = list(zip(largest, itertools.count()))  # cover and sample index

    # The optimizer's moments do not exist before the first update: their memory is taken meanwhile
    weights = sum(4 * p.numel() for p in session.optimizer.parameters)
    existing = (
        session.optimizer.state or session.options.optimizer == "paged_adamw8bit"
    )  # or paged moments leave the GPU
    moments = 0 if existing else moments_nbytes(session.options.optimizer, weights)
    reserved = torch.empty(int(moments), dtype=torch.uint8, device=session.accelerator.device)
    with session.optimizer.dry_run():
        # as in training, nobody holds the batch while the backward pass goes on
        losses = session.objective.training_losses(collate(session.train_set, keys), range(len(keys)))
        session.accelerator.backward(losses.mean())
    del reserved
