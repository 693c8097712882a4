"""The moving average of the trained weights: versions, previews and validation use it, training itself does not.

Averages of the iterates generalise better than the last one (Polyak and Juditsky 1992); diffusion models are commonly
sampled from an exponential one (arXiv:2006.11239, arXiv:2312.02696).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from diffusion.trainable import Trainable


class EMA:
    """Exponential moving average of the trained weights, in fp32 whatever their precision, on `device`.

    After update n = 0, 1 ...: average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)), and
    0 for n = 0: the warm-up of diffusers.training_utils.EMAModel, without which the initial weights would count for
    long. (That class averages on the device and in the precision of the weights.)
    """

    def __init__(self, trainable: Trainable, decay: float, device: str | torch.device | None = None) -> None:
        """decay: 0 ... 1; device: of the average, None = that of the weights."""
        self.decay = decay
        self.weights = trainable.named_parameters()
        self.averages = {
            part: {name: p.detach().to(device or p.device, torch.float32, copy=True) for name, p in weights.items()}
            for part, weights in self.weights.items()
        }

    def pairs(self) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
        """[(weight, its average)] of all trained parts."""
        return [(p, self.averages[part][name]) for part, weights in self.weights.items() for name, p in weights.items()]

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Include the weights after update n, counted from 0."""
        d = min(self.decay, (1 + n) / (10 + n)) if n else 0
        weights, averages = zip(*self.pairs(), strict=True)
        if all(p.device == average.device and p.dtype == average.dtype for p, average in self.pairs()):
            torch._foreach_lerp_(averages, weights, 1 - d)  # a few kernels for all weights, as in torch's optimizers
            return
        for p, average in self.pairs():  # a copy of one weight at a time
            average.lerp_(p.to(average), 1 - d)

    @property
    def nbytes(self) -> int:
        """Bytes of all averages."""
        return sum(average.nbytes for _, average in self.pairs())

    @torch.no_grad()
    def load(self, part: str, averages: dict[str, torch.Tensor]) -> None:
        """Restore the averages of a part, {name: tensor}. LookupError or RuntimeError if they don't fit the part."""
        for name, average in self.averages[part].items():
            average.copy_(averages[name])


@contextlib.contextmanager
def ema_weights(ema: EMA | None) -> Iterator[None]:
    """Inside, the trained parts have the averaged weights, rounded to the weights' precision; None: nothing happens.

    The weights are saved on the device of the average, so with the average on the CPU the GPU needs no more memory.
    """
    pairs = ema.pairs() if ema else []
    saved = []
    with torch.no_grad():
        for p, average in pairs:
            saved.append(p.detach().to(average.device, copy=True))
            p.copy_(average)
    try:
        yield
    finally:
        with torch.no_grad():
            for (p, _), weights in zip(pairs, saved, strict=True):
                p.copy_(weights)
