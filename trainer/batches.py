"""What an optimizer update takes: its places in the order of the data, its batches, their losses; and validation.

A place counts covers from the start of epoch 0, over all processes; what is random about a cover belongs to its place.
"""

from __future__ import annotations

import functools
import itertools
import signal

import torch

import config
from common import randomness
from data import buckets

# ---------------------------------------------------------------------------------------------------------------------
# Order of the data


# Asked for each batch, the same for an epoch; the loader may be in the next one already
remember_epochs = functools.lru_cache(maxsize=2)
epoch_order = remember_epochs(randomness.epoch_order)


class BatchSchedule:
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


class BucketedSchedule(BatchSchedule):
    """The same for covers of several sizes [(W, H)]: an update takes window / batch_size batches of one size each.

    An epoch's last update may have fewer batches, and any batch fewer covers, the last of its size. batch_size: that
    of the run's first start; a lower one on resume cuts its batches and leaves the order as it was.
    """

    def __init__(self, sizes, window, batch_size, seed):
        super().__init__(len(sizes), window, seed)
        groups = buckets.group_by_size(sizes)
        self.at_once = window // batch_size
        self.updates = -(-sum(-(-len(members) // batch_size) for members in groups) // self.at_once)
        self.epoch = remember_epochs(lambda epoch: buckets.epoch_order(seed, epoch, groups, batch_size))

    def order(self, epoch):
        return self.epoch(epoch)[0]

    def pieces(self, step):
        epoch, update = divmod(step, self.updates)
        ends = self.epoch(epoch)[1][update * self.at_once :][: self.at_once + 1]
        return [range(*pair) for pair in itertools.pairwise(epoch * self.count + end for end in ends)]


def make_schedule(options, sizes, position):
    """The Plan for covers of these sizes [(W, H)]. position: what an update takes; see session.set_up."""
    if options.buckets:
        return BucketedSchedule(sizes, position["window"], position["batch_size"], options.seed)
    return BatchSchedule(len(sizes), position["window"], options.seed)


def split_batches(pieces, batch_size, accelerator):
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
            for places in split_batches(plan.pieces(step), session.options.batch_size, session.accelerator):
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


def collate(covers, keys):
    """A batch of a BookCoverDataset, as the loader makes it."""
    return torch.utils.data.default_collate([covers[key] for key in keys])
