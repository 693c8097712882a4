"""Aspect-ratio buckets: image sizes of about the area of --resolution, so that covers keep their shape.

Each cover is resized to the bucket with the nearest aspect ratio, by the same rule as without buckets
(data.images.fit_image): nothing is cropped. All covers of a batch have the same size.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Sequence

import numpy as np

import config
from common import randomness
from data.book import Book

Size = tuple[int, int]  # width, height in pixels
MAX_ASPECT = 2  # the longer side divided by the shorter
MIN_AREA = 3 / 4  # of that of --resolution: more buckets of fewer pixels would hardly fit shapes better


def side_multiple(resolution: Size) -> int:
    """Pixels that the sides of all buckets are multiples of, for a --resolution (W, H).

    64 is the factor by which Stable Diffusion 1.x downsamples: 8 in the autoencoder and 8 in the UNet. Below 256 pixels
    that leaves hardly any choice, so there it is 16, the factor of `tiny` (larger UNets pad by themselves).
    """
    return 64 if min(resolution) >= 256 else 16


def bucket_sizes(resolution: Size) -> list[Size]:
    """All buckets [(W, H)] in ascending order, for a --resolution (W, H): areas from MIN_AREA of its area up to it."""
    step = side_multiple(resolution)
    most = math.prod(resolution) // step**2  # area in squares of side `step`
    least = math.prod(resolution) / step**2 * MIN_AREA
    return [
        (width * step, height * step)
        for width in range(1, most + 1)
        for height in range(-(-width // MAX_ASPECT), min(width * MAX_ASPECT, most // width) + 1)
        if width * height >= least
    ]


def nearest_bucket(shape: Size, choice: Sequence[Size]) -> Size:
    """The size [(W, H)] whose aspect ratio is nearest to the shape's, on a log scale; of equals the largest."""

    def distance(size: Size) -> float:
        return abs(math.log(size[0] * shape[1] / (size[1] * shape[0])))

    return min(choice, key=lambda size: (round(distance(size), 9), -math.prod(size), size))


def cover_sizes(books: Sequence[Book], options: config.BucketOptions) -> list[Size]:
    """The size (W, H) that each book's cover is resized to: --resolution, or with --buckets the nearest bucket."""
    resolution = config.size(options)
    if not options.buckets:
        return [resolution] * len(books)
    choice = bucket_sizes(resolution)
    bucket_of = {shape: nearest_bucket(shape, choice) for shape in {(book.width, book.height) for book in books}}
    return [bucket_of[book.width, book.height] for book in books]


def summary_line(sizes: Sequence[Size]) -> str:
    """One line: the sizes in use, and how many covers have each."""
    counts = collections.Counter(sizes)
    return "buckets: " + ", ".join(f"{w}x{h} {counts[w, h]}" for w, h in sorted(counts))


def group_by_size(sizes: Sequence[Size]) -> list[list[int]]:
    """Indexes of equal sizes (W, H) together: [[index, ...], ...], ordered by size, then by index."""
    groups = collections.defaultdict(list)
    for index, size in enumerate(sizes):
        groups[size].append(index)
    return [groups[size] for size in sorted(groups)]


def epoch_order(
    seed: int, epoch: int, groups: Sequence[Sequence[int]], batch_size: int
) -> tuple[np.ndarray, list[int]]:
    """(order, ends) of an epoch over all indexes in the groups, each once, every batch from a single group.

    order: int64 (count,), batch after batch; ends: [0, ..., count], the batch boundaries in it. Covers are shuffled
    within their group, then the batches are shuffled; the last batch of each group may be smaller.
    """
    random = randomness.rng(seed, randomness.ORDER, epoch)
    batches = []
    for members in groups:
        shuffled = random.permutation(members)
        batches += [shuffled[i : i + batch_size] for i in range(0, len(shuffled), batch_size)]
    batches = [batches[i] for i in random.permutation(len(batches))]
    return np.concatenate(batches), [0, *itertools.accumulate(map(len, batches))]
