"""The training state that an exact resume needs, and saving it together with a version.

A save is three renames (see files.atomic_write): version, state, versions.json. The state's rename is what counts: it
has a copy of versions.json, and a resumed run goes back to exactly that, so being killed between two of them loses
nothing. The state before it stays: if the newest is damaged, the run goes on from there (recovery.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from checkpoints import catalog
from checkpoints.records import TrainingState
from checkpoints.run_folder import FREE_SPACE_HINT, POSITION, RunFolder
from checkpoints.versions import prune_versions, save_version
from common.errors import UserError
from common.files import atomic_write, flush_to_disk, read_json, remove, require_free_space, write_json
from common.manifest import write_manifest
from diffusion.ema import EMA, ema_weights
from diffusion.trainable import Trainable
from diffusion.weights import all_finite

# Files of a state folder, besides POSITION and the manifest; the first three are for each trained part
WEIGHTS, AVERAGE, CONFIG, OPTIMIZER = "{}.safetensors", "{}_average.safetensors", "{}_config.json", "optimizer.pt"
KEPT_STATES = 2  # the newest, and the one before it


class Stateful(Protocol):
    """What has a state_dict: an optimizer, a loss scaler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class OptimizerState(Stateful, Protocol):
    """An optimizer, as far as it is saved. state: {weight: {name: moment}}, as in torch."""

    state: dict[torch.nn.Parameter, dict[str, Any]]


# ---------------------------------------------------------------------------------------------------------------------
# Saving


def save_checkpoint(
    run: RunFolder,
    state: TrainingState,
    trainable: Trainable,
    optimizer: OptimizerState,
    scaler: Stateful | None,
    ema: EMA | None,
    *,
    validation_loss: float | None,
    keep_versions: int,
    write_card: Callable[[Path, str], object] | None = None,
) -> tuple[TrainingState, str]:
    """Save the next version, and the state that lists it; returns that state and the version's name.

    scaler: the loss scaler of fp16, if there is one. ema: the version then has the averaged weights, the state has
    both. write_card: see save_version. UserError, with everything saved before intact, if the disk has no space, or if
    a number is not finite.
    """
    needed = trainable.nbytes() + optimizer_nbytes(optimizer) + (ema.nbytes if ema else 0)
    if len(run.saved_steps()) >= KEPT_STATES:  # the oldest makes way
        needed = 0
    require_free_space(run.path, trainable.nbytes(state.save_dtype) + needed, "the next version")
    if not all_finite(tensors_in([ema.averages if ema else {}, optimizer.state_dict()])):
        raise UserError(
            f"update {state.step}: the average of the weights, or a moment of the optimizer, is not finite; nothing of "
            "this update was saved: start again with a lower --lr, --lr_text_encoder, --lr_lettering or --max_grad_norm"
        )
    index, name = state.version_index.with_version(state.step, validation_loss, keep_versions)
    with ema_weights(ema):
        save_version(run, name, trainable, state.save_dtype, write_card)
    state = dataclasses.replace(state, version_index=index)
    flush_to_disk(run.metrics)  # a resumed run goes by its lines up to the state
    save_state(run, state, trainable, optimizer, scaler, ema)
    write_json(run.version_index, index.to_json(), FREE_SPACE_HINT)
    prune_versions(run, index)
    return state, name


def save_state(
    run: RunFolder,
    state: TrainingState,
    trainable: Trainable,
    optimizer: Stateful,
    scaler: Stateful | None = None,
    ema: EMA | None = None,
) -> None:
    """Write state/<step>, whole or not at all. Of the states before it the newest stays; the others are removed first,
    so that the disk never holds more than KEPT_STATES."""
    folder = run.state(state.step)
    before = [step for step in run.saved_steps() if step != state.step][1 - KEPT_STATES :]
    for step, old in run.state_folders().items():
        if step not in (*before, state.step):
            remove(old)
    with atomic_write(folder, FREE_SPACE_HINT) as temporary:
        temporary.mkdir()
        for part in trainable.names:
            save_file(trainable.state_dict(part), temporary / WEIGHTS.format(part))
            if ema:
                save_file(ema.averages[part], temporary / AVERAGE.format(part))
            write_json(temporary / CONFIG.format(part), trainable.settings(part))
        moments = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else None}
        torch.save(moments, temporary / OPTIMIZER)
        write_json(temporary / POSITION, state.to_json())
        write_manifest(temporary)


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def read_state(run: RunFolder) -> tuple[TrainingState, Path] | tuple[None, None]:
    """(state, its folder) of the newest complete training state, or (None, None) if nothing was saved yet.

    UserError if it is damaged, or gone while there are versions: starting again would overwrite them.
    """
    steps = run.saved_steps()
    if not steps:
        if catalog.read_version_index(run).versions:
            raise UserError(
                f"run {run.name} has versions but no training state in {run.states}: it can only be resumed with "
                "the tracker that it was published to (--tracker, --wandb_key)"
            )
        return None, None
    folder = run.state(max(steps))
    return TrainingState.from_json(read_json(folder / POSITION), folder / POSITION), folder


@contextlib.contextmanager
def report_damage(path: Path) -> Iterator[Path]:
    """Whatever a damaged file of the state makes the libraries raise is a UserError that names the file."""
    try:
        yield path
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, EOFError, UnpicklingError, SafetensorError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(
            f"the run can't be resumed, since {path} is missing or damaged: {reason}; if a tracker has it, delete "
            f"{path.parent} and it is fetched again"
        ) from None


def load_weights(folder: Path, trainable: Trainable) -> None:
    """Put the weights of a state folder into the trained parts. UserError if they are damaged."""
    for part in trainable.names:
        with report_damage(folder / WEIGHTS.format(part)) as path:
            trainable.load_state_dict(part, require_finite(load_file(path)))


def load_optimizer(folder: Path, optimizer: Stateful, scaler: Stateful | None = None) -> None:
    """Put optimizer moments and loss scale of a state folder back. UserError if they are damaged."""
    with report_damage(folder / OPTIMIZER) as path:
        moments = require_finite(torch.load(path, map_location="cpu", weights_only=True))
        optimizer.load_state_dict(moments["optimizer"])
        if scaler and moments["scaler"]:
            scaler.load_state_dict(moments["scaler"])


def load_ema(folder: Path, ema: EMA | None) -> None:
    """Put the averaged weights of a state folder back; None: nothing to do. UserError if they are damaged."""
    if ema is None:
        return
    for part in ema.averages:
        with report_damage(folder / AVERAGE.format(part)) as path:
            ema.load(part, require_finite(load_file(path)))


def require_finite(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same tensors, however deep in dictionaries and lists. ValueError if a number in them is NaN or infinite."""
    if not all_finite(tensors_in(tensors)):
        raise ValueError("its numbers are not finite")
    return tensors


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in dictionaries and lists, however deep, such as the state of an optimizer."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(each)


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


def moments_nbytes(optimizer: str, weights: float) -> float:
    """Bytes that the moments of an --optimizer will take, for trained weights of that many bytes in fp32.

    Adam has two moments, of a byte each (8-bit) or of four; Adafactor's are a row and a column of each weight.
    """
    return weights * {"adamw": 2, "adamw8bit": 0.5, "paged_adamw8bit": 0.5, "adafactor": 0}[optimizer]


def optimizer_nbytes(optimizer: OptimizerState) -> int:
    """Bytes that the optimizer's moments take now."""
    states = optimizer.state.values()  # state_dict() of bitsandbytes hides them one level deeper
    return sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))
