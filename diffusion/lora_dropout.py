"""Dropout before LoRA adapters that a resumed run can repeat: torch draws its own from a global generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from common import randomness


@dataclass
class KeyedDropout:
    """Dropout before the adapters of a model, whose masks are a function of (seed, sample index, layer).

    samples: indexes of the samples of the batch that is computed. Training sets them for each batch; the backward pass,
    which computes checkpointed layers again, comes before the next one and sees the same masks. Each of several
    processes draws the masks of its own samples, the same that one process would draw for them.
    """

    p: float
    seed: int
    samples: Sequence[int] = field(default=())


class LayerDropout(torch.nn.Module):
    """The dropout of one layer, in train mode alone: x (B * N, ...) -> x with elements 0 at random, others / (1 - p).

    N: rows of each of the B samples, one after another; 1 but for the chunks of long prompts in the text encoder.
    """

    def __init__(self, dropout: KeyedDropout, name: str) -> None:
        super().__init__()
        self.dropout, self.key = dropout, randomness.key_of(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        p, seed, samples = self.dropout.p, self.dropout.seed, self.dropout.samples
        generator = torch.Generator(x.device)
        mask = torch.empty_like(x, requires_grad=False)
        for rows, sample in zip(mask.unflatten(0, (len(samples), -1)), samples, strict=True):
            number = randomness.rng(seed, randomness.LORA_DROPOUT, (self.key << 64) + sample).integers(2**63)
            rows.bernoulli_(1 - p, generator=generator.manual_seed(int(number)))
        return x * mask.div_(1 - p)
