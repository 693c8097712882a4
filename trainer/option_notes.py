"""Options that are sound by themselves and make no sense with this data or this length: a line on each at the start."""

from __future__ import annotations

import dataclasses

import config
from common.errors import UserError


def require_covers_for_batch(options: config.TrainingOptions, covers: int) -> None:
    """UserError if a batch that was asked for would be larger than all covers of a new run together."""
    size = options.batch_size
    if size > covers and size != config.TrainingOptions.batch_size:
        raise UserError(f"--batch_size {size}: there are {covers} covers to train on; give {covers} at most")


def option_notes(options: config.TrainingOptions, total: int, covers: int, held_out: int) -> list[str]:
    """A line on each option that was asked for and has less effect than it says.

    total: optimizer updates of the run; covers, held_out: those that it trains on and validates with.
    """
    changed = {
        field.name: value
        for field in dataclasses.fields(options)
        if (value := getattr(options, field.name)) != field.default
    }
    notes = []
    if options.warmup_steps >= total:
        reached = (total - 1) / options.warmup_steps
        notes.append(
            f"note: --warmup_steps {options.warmup_steps}, and the run has {total} updates: the learning rate gets to "
            f"{reached:.1%} of --lr"
        )
    if (options.num_examples or 0) > covers:
        notes.append(f"note: --num_examples {options.num_examples}: there are {covers} covers to train on")
    for name in ("validation_rows", "num_samples"):
        if changed.get(name, 0) > held_out and (name != "num_samples" or options.sample_every):
            notes.append(f"note: --{name} {changed[name]}: there are {held_out} held-out covers to use")
    for name, what in {"save_every": "saves", "validate_every": "validates", "sample_every": "draws"}.items():
        if changed.get(name, 0) > total:
            notes.append(f"note: --{name} {changed[name]}, and the run has {total} updates: it {what} at its end alone")
    return notes
