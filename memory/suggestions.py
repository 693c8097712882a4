"""Suggest options that need less memory: each change by itself, and the mildest set of changes that fits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

import config
from cli import checks
from common.errors import UserError
from diffusion.architecture import Architecture
from memory.forecast import forecast_memory

LORA_RANK = 16  # that is suggested

Change = dict[str, Any]  # {option: new value}


@dataclass(frozen=True)
class Suggestion:
    """A change of options, and the peak memory of the run with it."""

    change: Change
    peak: float  # bytes

    @property
    def flags(self) -> str:
        """The change as it is typed: --batch_size 2 --grad_acc_steps 2."""
        return " ".join(f"--{name} {value}" for name, value in self.change.items())


def memory_savers(options: config.TrainingOptions) -> list[Change]:
    """Changes that may need less memory, in order: first those that affect least what is learned."""
    changes = [
        {"grad_ckpt": True},  # the same numbers, slower
        {"num_samples": 1, "vae_tiling": True},  # smaller previews
        {} if options.train_text_encoder else {"cache_text": True},  # the same numbers
        {"cache_latents": True},  # the same numbers but for rounding
        {"ema_device": "cpu"} if options.ema_decay else {},
        {"mixed_precision": "auto"},
        {"optimizer": "adamw8bit"},
        *smaller_batches(options),
        {"fused_backward": True},  # clips each weight's gradient by itself
        {"weights_dtype": "bf16"},
        {"fused_backward": True, "weights_dtype": "bf16"},
        {"train_unet": not options.train_text_encoder},
    ]
    return distinct(real_changes(options, changes))


def smaller_batches(options: config.TrainingOptions) -> list[Change]:
    """The same updates in more and smaller batches: each time the next smaller divisor of the batch size, down to 1.

    With --fused_backward an update has one batch: there the updates get smaller.
    """
    size, changes = options.batch_size, []
    while size > 1:
        size = max(n for n in range(1, size) if size % n == 0)
        more = 1 if options.fused_backward else options.batch_size // size
        changes.append({"batch_size": size, "grad_acc_steps": options.grad_acc_steps * more})
    return changes


def last_resorts(options: config.TrainingOptions) -> list[Change]:
    """Changes that need least of all: the smallest preset's, then with Adafactor, then LoRA, then without training the
    UNet."""
    least = {"batch_size": 1, "grad_acc_steps": 1, "num_samples": 1, "mixed_precision": "auto", "vae_tiling": True}
    lora = {**config.LORA_PRESETS["6gb"], **least, "fused_backward": False, "weights_dtype": "fp32"}
    if options.lora_rank:
        smallest, changes = lora, [lora]
    else:
        smallest = {**config.PRESETS["6gb"], **least}
        changes = [smallest, {**smallest, "optimizer": "adafactor"}, {"lora_rank": LORA_RANK, **lora}]
    if options.train_unet and options.train_text_encoder:
        changes += [{"train_unet": False}, {**smallest, "train_unet": False}]
    return real_changes(options, changes)


def real_changes(options: config.TrainingOptions, changes: Iterable[Change]) -> list[Change]:
    """The changes without the values that the options have already; one may be left empty."""
    return [{name: value for name, value in c.items() if getattr(options, name) != value} for c in changes]


def distinct(changes: Sequence[Change]) -> list[Change]:
    """Each change once, without empty ones."""
    return [change for i, change in enumerate(changes) if change and change not in changes[:i]]


def merged(changes: Iterable[Change]) -> Change:
    """All changes in one; of two values of an option the later counts."""
    return {name: value for change in changes for name, value in change.items()}


def suggest(
    options: config.TrainingOptions,
    architecture: Architecture,
    available: float,
    allowed: Collection[str] | None = None,
) -> tuple[list[Suggestion], Suggestion | None]:
    """(single, sufficient): each change that saves memory by itself, and one that fits into `available` bytes.

    sufficient: as few and as mild changes as possible, merged; None if all together do not fit. allowed: names of the
    options that may change; None: any.
    """
    with tqdm(desc="tracing", unit=" configurations", leave=False, delay=3) as bar:

        def peak(change: Change) -> float:
            """Bytes; infinite if the change contradicts other options or the model."""
            bar.update()
            try:
                changed = checks.check(dataclasses.replace(options, **change))
                return forecast_memory(changed, architecture).peak
            except UserError:  # the model may also be too small for a suggested LoRA
                return math.inf

        def may_change(changes: list[Change]) -> list[Change]:
            return [change for change in changes if allowed is None or set(change) <= set(allowed)]

        # Is a single change enough?
        now, candidates = peak({}), may_change(memory_savers(options))
        single = [Suggestion(change, less) for change in candidates if (less := peak(change)) < now]
        milder = [change for change in candidates if "train_unet" not in change]
        for suggestion in single:
            if suggestion.peak <= available and suggestion.change in milder:
                return single, suggestion

        # Add one after another until it fits; then drop, from the harshest on, what is not needed any more
        chosen: list[Change] = []
        for change in milder * 2:  # twice, since what saves nothing by itself may do so after another
            if now > available and (less := peak(merged([*chosen, change]))) < now:
                chosen, now = [*chosen, change], less
        if now <= available:
            for change in reversed(chosen):
                others = [other for other in chosen if other is not change]
                if peak(merged(others)) <= available:
                    chosen = others
            return single, Suggestion(merged(chosen), peak(merged(chosen)))

        # Does the least that is possible fit?
        for change in may_change(last_resorts(options)):
            if (less := peak(change)) <= available:
                return single, Suggestion(change, less)
        return single, None
