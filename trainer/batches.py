"""Which training samples an optimizer update takes, in which batches; and the loader that reads them.

A sample index counts samples from the start of epoch 0, over all processes; what is random about a sample (noise,
timestep, prompt) is a function of (seed, sample index). A dataset index says which cover it is.
"""

from __future__ import annotations

import functools
import itertools
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

import config
from checkpoints.records import TrainingState
from common import randomness
from data import buckets
from dataset import BookCoverDataset
from trainer.stop_signal import SIGNALS

# ---------------------------------------------------------------------------------------------------------------------
# Order of the data


# Asked for each batch, the same for an epoch; the loader may be in the next one already
remember_epochs = functools.lru_cache(maxsize=2)
epoch_order = remember_epochs(randomness.epoch_order)


class BatchSchedule:
    """The order of `count` covers of one size, and which samples make an update of `global_batch_size`."""

    def __init__(self, count: int, global_batch_size: int, seed: int):
        self.count, self.global_batch_size, self.seed = count, global_batch_size, seed
        self.updates = -(-count // global_batch_size)  # of an epoch; the last may be short

    def order(self, epoch: int) -> np.ndarray:
        """int64 (count,): dataset indexes in the order of that epoch."""
        return epoch_order(self.seed, epoch, self.count)

    def pieces(self, step: int) -> list[range]:
        """Sample indexes that optimizer update `step` takes, all of one epoch: ranges of covers of one size each."""
        epoch, update = divmod(step, self.updates)
        first, size = epoch * self.count, self.global_batch_size
        return [range(first + update * size, first + min((update + 1) * size, self.count))]

    def dataset_indexes(self, samples: Sequence[int]) -> list[int]:
        """Which covers these sample indexes are, all of one epoch."""
        epoch = samples[0] // self.count
        order = self.order(epoch)
        return [int(order[index - epoch * self.count]) for index in samples]


class BucketedSchedule(BatchSchedule):
    """The same for covers of several sizes [(W, H)]: an update takes global_batch_size / batch_size batches, each of
    one size.

    An epoch's last update may have fewer batches, and any batch fewer covers, the last of its size. batch_size: that
    of the run's first start; a lower one on resume cuts its batches and leaves the order as it was.
    """

    def __init__(self, sizes: list[tuple[int, int]], global_batch_size: int, batch_size: int, seed: int):
        super().__init__(len(sizes), global_batch_size, seed)
        groups = buckets.group_by_size(sizes)
        self.batches_at_once = global_batch_size // batch_size
        self.updates = -(-sum(-(-len(members) // batch_size) for members in groups) // self.batches_at_once)
        self.epoch = remember_epochs(lambda epoch: buckets.epoch_order(seed, epoch, groups, batch_size))

    def order(self, epoch: int) -> np.ndarray:
        return self.epoch(epoch)[0]

    def pieces(self, step: int) -> list[range]:
        epoch, update = divmod(step, self.updates)
        ends = self.epoch(epoch)[1][update * self.batches_at_once :][: self.batches_at_once + 1]
        return [range(*pair) for pair in itertools.pairwise(epoch * self.count + end for end in ends)]


def make_schedule(options: config.TrainingOptions, sizes: list[tuple[int, int]], state: TrainingState) -> BatchSchedule:
    """The schedule for covers of these sizes [(W, H)]; `state` says how many samples an update takes."""
    if options.buckets:
        batch_size = state.batch_size or options.batch_size
        return BucketedSchedule(sizes, state.global_batch_size, batch_size, options.seed)
    return BatchSchedule(len(sizes), state.global_batch_size, options.seed)


# ---------------------------------------------------------------------------------------------------------------------
# Batches


def split_batches(pieces: list[Any], batch_size: int, accelerator: Any) -> list[Any]:
    """The batches of one update that this process computes, cut from pieces of one size each; maybe none.

    pieces: ranges of sample indexes, or lists of dataset indexes.
    """
    batches = [piece[i : i + batch_size] for piece in pieces for i in range(0, len(piece), batch_size)]
    return batches[accelerator.process_index :: accelerator.num_processes]


def make_loader(
    dataset: BookCoverDataset,
    schedule: BatchSchedule,
    steps: Iterable[int],
    options: config.TrainingOptions,
    accelerator: Any,
) -> torch.utils.data.DataLoader:
    """DataLoader over this process's batches of the optimizer updates `steps`; see losses.Batch."""
    workers = config.num_workers(options)
    if options.cache_latents and options.num_workers is None:
        # 0.7 ms of CPU a cover, most of it for the tokens; a picture of 512x768 takes 12. One worker spares the process
        # that drives a GPU; without a GPU it would only take a core from the arithmetic (bench/loading.py)
        workers = min(1, workers) if accelerator.device.type == "cuda" else 0

    def keys() -> Iterator[list[tuple[int, int]]]:
        for step in steps:
            for samples in split_batches(schedule.pieces(step), options.batch_size, accelerator):
                yield list(zip(schedule.dataset_indexes(samples), samples, strict=True))

    return torch.utils.data.DataLoader(
        dataset,
        batch_sampler=keys(),
        num_workers=workers,
        worker_init_fn=ignore_signals,
        pin_memory=accelerator.device.type == "cuda",
    )


def ignore_signals(_worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the workers go on, so that the update can be finished."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def collate(dataset: BookCoverDataset, keys: Sequence[Any]) -> dict[str, torch.Tensor]:
    """A batch of a dataset, as the loader makes it."""
    return torch.utils.data.default_collate([dataset[key] for key in keys])
