"""Work done ahead by threads, results in order."""

from __future__ import annotations

import collections
from concurrent.futures import ThreadPoolExecutor

# ---------------------------------------------------------------------------------------------------------------------
# Image files -> images


def read_ahead(function, items, workers):
    """function(item) for each item, in order, from `workers` threads that are at most 2 * workers items ahead."""
    if workers < 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting = collections.deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
