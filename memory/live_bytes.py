"""Count the bytes of all live tensors, and their peak, while code runs: on meta tensors as on real ones."""

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
    """While active, counts the bytes of every storage that an operator returns, until it is freed; meta, fake or real.

    current: {kind: bytes}. A storage is of kind "activations" until mark() gives it another one, and is not counted
    while its kind is OTHER_DEVICE. total: bytes of all live tensors on the device. peak: the largest total since the
    last reset_peak(), in bytes; at_peak: `current` at that moment.
    """

    def __init__(
        self,
        rounding: int,
        workspace: Callable[[Any, Any, Any], int] | None = None,
        call: Callable[[Any, Any, Any], Any] = lambda func, args, kwargs: func(*args, **kwargs),
    ) -> None:
        """rounding: bytes; sizes are rounded up to a multiple of it, as the device's allocator does.

        workspace(func, args, result): bytes that an operator allocates while it works, beside its result.
        call(func, args, kwargs): runs an operator.
        """
        super().__init__()
        self.rounding, self.workspace, self.call = rounding, workspace, call
        self.current: Counter[str] = Counter()
        self.total = 0
        self.kinds: dict[int, str] = {}  # storage -> its kind
        self.watched: dict[int, weakref.ref[Any]] = {}  # storage -> what calls `free`; weakref.finalize takes longer
        self.reset_peak()

    def reset_peak(self) -> None:
        """Make the present the peak, as torch.cuda.reset_peak_memory_stats does."""
        self.peak, self.at_peak = self.total, dict(self.current)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.call(func, args, kwargs or {})
        for tensor in (result,) if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.track(tensor)
        if self.workspace:
            temporary = self.workspace(func, args, result)
            if self.total + temporary > self.peak:
                self.peak = self.total + temporary
                self.at_peak = {**self.current, "activations": self.current["activations"] + temporary}
        return result

    def track(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage from now until it is freed; views, and storages already tracked, add nothing."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.kinds:
            return
        size = self.allocated_size(storage)
        self.kinds[key] = "activations"
        self.current["activations"] += size
        self.total += size
        self.watched[key] = weakref.ref(storage, lambda _: self.free(key, size))
        if self.total > self.peak:
            self.reset_peak()

    def free(self, storage: int, size: int) -> None:
        """Stop counting a storage of that size; called when it is garbage collected."""
        del self.watched[storage]
        kind = self.kinds.pop(storage)
        self.current[kind] -= size
        self.total -= 0 if kind == OTHER_DEVICE else size

    def mark(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Count these tensors as `kind` from now on."""
        for tensor in tensors:
            self.track(tensor)
            storage = tensor.untyped_storage()
            size = self.allocated_size(storage)
            before = self.kinds[storage._cdata]
            self.current[before] -= size
            self.current[kind] += size
            self.total += ((before == OTHER_DEVICE) - (kind == OTHER_DEVICE)) * size
            self.kinds[storage._cdata] = kind

    def allocated_size(self, storage: torch.UntypedStorage) -> int:
        """Bytes that the allocator reserves for a storage."""
        return -(-storage.nbytes() // self.rounding) * self.rounding
