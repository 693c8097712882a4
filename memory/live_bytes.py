"""Count the bytes of all live tensors, and their peak, while code runs: on fake tensors as on real ones."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OTHER_DEVICE = "other device"  # the kind of tensors that are not on the device whose memory is counted


class LiveBytes(TorchDispatchMode):
    """While active, counts the bytes of every storage that an operator returns, until it is freed; fake or real.

    current: {kind: bytes}. A storage is of kind "activations" until mark() gives it another one, and is not counted
    while its kind is OTHER_DEVICE. peak: the largest total since the last reset_peak(), in bytes; at_peak: `current`
    at that moment.
    """

    def __init__(self, rounding: int, workspace: Callable[[Any, Any, Any], int] | None = None) -> None:
        """rounding: bytes; sizes are rounded up to a multiple of it, as the device's allocator does.

        workspace(func, args, result): bytes that an operator allocates while it works, beside its result.
        """
        super().__init__()
        self.rounding, self.workspace = rounding, workspace
        self.current: Counter[str] = Counter()
        self.kinds: dict[int, str] = {}  # storage -> its kind
        self.reset_peak()

    def reset_peak(self) -> None:
        """Make the present the peak, as torch.cuda.reset_peak_memory_stats does."""
        self.peak, self.at_peak = self.total, dict(self.current)

    @property
    def total(self) -> int:
        """Bytes of all live tensors on the device."""
        return sum(self.current.values()) - self.current[OTHER_DEVICE]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.track(tensor)
        temporary = self.workspace(func, args, result) if self.workspace else 0
        if self.total + temporary > self.peak:
            self.peak = self.total + temporary
            self.at_peak = {**self.current, "activations": self.current["activations"] + temporary}
        return result

    def track(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage from now until it is freed; views, and storages already tracked, add nothing."""
        storage = tensor.untyped_storage()
        if storage._cdata in self.kinds:
            return
        size = self.allocated_size(storage)
        self.kinds[storage._cdata] = "activations"
        self.current["activations"] += size
        weakref.finalize(storage, self.free, storage._cdata, size).atexit = False
        if self.total > self.peak:
            self.reset_peak()

    def free(self, storage: int, size: int) -> None:
        """Stop counting a storage of that size; called when it is garbage collected."""
        self.current[self.kinds.pop(storage)] -= size

    def mark(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Count these tensors as `kind` from now on."""
        for tensor in tensors:
            self.track(tensor)
            storage = tensor.untyped_storage()
            size = self.allocated_size(storage)
            self.current[self.kinds[storage._cdata]] -= size
            self.current[kind] += size
            self.kinds[storage._cdata] = kind

    def allocated_size(self, storage: torch.UntypedStorage) -> int:
        """Bytes that the allocator reserves for a storage."""
        return -(-storage.nbytes() // self.rounding) * self.rounding
