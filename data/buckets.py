"""Aspect-ratio buckets: a few sizes of about the area of --resolution, so that covers keep their shape.

Each cover is resized to the size that is nearest to it in shape, by the same rule as without buckets (covers.fit):
nothing is cropped. A batch has covers of one size.
"""

from __future__ import annotations

import collections
import itertools
import math

import numpy as np

import config
from common import randomness

LONGEST = 2  # the longer side against the shorter
LEAST_AREA = 3 / 4  # of that of --resolution; smaller steps in shape are not worth still fewer pixels


def side_multiple(resolution):
    """Pixels that the sides of all buckets are multiples of, for a --resolution (W, H).

    64 is what Stable Diffusion 1.x shrinks by: 8 in the autoencoder and 8 in the UNet. Under 256 pixels that leaves
    hardly a choice, so there it is 16, what `tiny` shrinks by (and larger UNets pad by themselves).
    """
    return 64 if min(resolution) >= 256 else 16


def bucket_sizes(resolution):
    """All buckets [(W, H)], rising, for a --resolution (W, H): areas from LEAST_AREA of its own up to its own."""
    step = side_multiple(resolution)
    most = math.prod(resolution) // step**2  # squares of that step
    least = math.prod(resolution) / step**2 * LEAST_AREA
    return [
        (width * step, height * step)
        for width in range(1, most + 1)
        for height in range(-(-width // LONGEST), min(width * LONGEST, most // width) + 1)
        if width * height >= least
    ]


def nearest_bucket(shape, choice):
    """That of the sizes [(W, H)] whose width / height is nearest to the shape's, by ratio; of equals the largest."""

    def distance(size):
        return abs(math.log(size[0] * shape[1] / (size[1] * shape[0])))

    return min(choice, key=lambda size: (round(distance(size), 9), -math.prod(size), size))


def cover_sizes(books, options):
    """The size (W, H) that each book's cover gets: --resolution, or with --buckets the nearest bucket."""
    resolution = config.size(options)
    if not options.buckets:
        return [resolution] * len(books)
    choice = bucket_sizes(resolution)
    known = {shape: nearest_bucket(shape, choice) for shape in {(book.width, book.height) for book in books}}
    return [known[book.width, book.height] for book in books]


def summary_line(sizes):
    """One line: the sizes that there are, and how many covers have each."""
    counts = collections.Counter(sizes)
    return "buckets: " + ", ".join(f"{w}x{h} {counts[w, h]}" for w, h in sorted(counts))


def group_by_size(sizes):
    """[[index, ...], ...]: which of the sizes [(W, H)] are alike; each group and the list of groups in rising order."""
    groups = collections.defaultdict(list)
    for index, size in enumerate(sizes):
        groups[size].append(index)
    return [groups[size] for size in sorted(groups)]


def epoch_order(seed, epoch, groups, batch_size):
    """(order, ends) of an epoch over all indexes in the groups, each once, in batches from one group each.

    order: int64 (count,), batch after batch; ends: [0, ..., count], where each begins and the last ends. Shuffled are
    the covers within each group and the batches; the last batch that is cut from a group may be short.
    """
    random = randomness.rng(seed, randomness.ORDER, epoch)
    batches = []
    for members in groups:
        shuffled = random.permutation(members)
        batches += [shuffled[i : i + batch_size] for i in range(0, len(shuffled), batch_size)]
    batches = [batches[i] for i in random.permutation(len(batches))]
    return np.concatenate(batches), [0, *itertools.accumulate(map(len, batches))]
