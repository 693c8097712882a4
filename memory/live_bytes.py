"""Counting the bytes of tensors that are alive, of fake ones as of real ones."""

from __future__ import annotations

import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ELSEWHERE = "elsewhere"  # the kind of what is on another device


class LiveBytes(TorchDispatchMode):
    """While active, counts the bytes of all storages that operators return, until they are freed; fake or real.

    now: {kind: bytes}; a storage is "activations" until mark() says otherwise, and does not count while its kind is
    ELSEWHERE. at_peak: `now` when its sum was highest since the last restart().
    """

    def __init__(self, rounding, workspace=None):
        """rounding: sizes are rounded up to a multiple of it. workspace(func, args, result): bytes that the operator
        takes while it works, beside its result."""
        super().__init__()
        self.rounding, self.workspace = rounding, workspace
        self.now, self.kinds = Counter(), {}  # kinds: storage -> its kind
        self.restart()

    def restart(self):
        self.highest, self.at_peak = self.total, dict(self.now)

    @property
    def total(self):
        """Bytes alive."""
        return sum(self.now.values()) - self.now[ELSEWHERE]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor)
        passing = self.workspace(func, args, result) if self.workspace else 0
        if self.total + passing > self.highest:
            self.highest = self.total + passing
            self.at_peak = {**self.now, "activations": self.now["activations"] + passing}
        return result

    def count(self, tensor):
        """A tensor that is there; views and what is known already add nothing."""
        storage = tensor.untyped_storage()
        if storage._cdata in self.kinds:
            return
        size = -(-storage.nbytes() // self.rounding) * self.rounding
        self.kinds[storage._cdata] = "activations"
        self.now["activations"] += size
        weakref.finalize(storage, self.free, storage._cdata, size).atexit = False
        if self.total > self.highest:
            self.restart()

    def free(self, storage, size):
        self.now[self.kinds.pop(storage)] -= size

    def mark(self, tensors, kind):
        """From now on these count as `kind`."""
        for tensor in tensors:
            self.count(tensor)
            storage = tensor.untyped_storage()
            size = -(-storage.nbytes() // self.rounding) * self.rounding
            self.now[self.kinds[storage._cdata]] -= size
            self.now[kind] += size
            self.kinds[storage._cdata] = kind
