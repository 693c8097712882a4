"""Runs on disk: versions (complete pipelines), their aliases, and the training state that an exact resume needs.

    runs/<run_id>/config.json      the options
                  metrics.jsonl    losses and the like (tracking.py)
                  samples/         previews
                  untouched/       the parts that do not learn; versions hard-link them
                  versions/v1 ...  each loads with StableDiffusionPipeline.from_pretrained
                  versions.json    the versions with step and validation loss, and the aliases latest and best
                  scores.json      their scores
                  state/000040/    weights of the parts that learn, as they learn, their average, optimizer, position
                  fetched/         versions that a tracker had (artifacts.py), with a versions.json of their own
                  published.json   what a tracker has (artifacts.py)

A save is three renames (see files.publish): version, state, versions.json. The state's rename is what counts: it has a
copy of versions.json, and a resumed run goes back to exactly that, so being killed between two of them loses nothing.
"""

from __future__ import annotations

import contextlib
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from checkpoints import catalog
from checkpoints.catalog import FREE_SPACE_HINT, POSITION
from checkpoints.versions import add_version, prune_versions, save_version
from common.errors import UserError
from common.files import atomic_write, read_json, remove, require_free_space, write_json
from diffusion import ema
from diffusion.weights import weights_nbytes

# ---------------------------------------------------------------------------------------------------------------------
# Training state: save and load share the names below, and catalog.POSITION.

OPTIMIZER, WEIGHTS, AVERAGE = "optimizer.pt", "{}.safetensors", "{}_average.safetensors"


def save_state(run, position, parts, learning, optimizer, scaler=None, average=None):
    """Publish state/<step>: `position` (JSON, with at least "step"), weights, optimizer, loss scaler.

    average: ema.Average of the weights, or None.
    """
    with atomic_write(run / "state" / f"{position['step']:09d}", FREE_SPACE_HINT) as folder:
        folder.mkdir()
        for part in learning:
            weights = {name: t.contiguous() for name, t in getattr(parts, part).state_dict().items()}
            save_file(weights, folder / WEIGHTS.format(part))
            if average:
                save_file(average.averages[part], folder / AVERAGE.format(part))
        moments = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else None}
        torch.save(moments, folder / OPTIMIZER)
        write_json(folder / POSITION, position)
    for old in (run / "state").glob("[0-9]*"):
        if old.name != f"{position['step']:09d}":
            remove(old)


def save(run, position, parts, learning, optimizer, scaler, validation_loss, keep_versions, average=None):
    """Save the next version and the state of `position`, whose "ledger" then lists it; returns the version's name.

    average: ema.Average, which the version then has for weights; the state has both. UserError, with everything saved
    before intact, if the disk has no room.
    """
    dtype = position["save_dtype"]
    needed = weights_nbytes(parts, learning, dtype) + weights_nbytes(parts, learning) + optimizer_nbytes(optimizer)
    require_free_space(run, needed + (average.nbytes if average else 0), "the next version")
    ledger, name = add_version(position["ledger"], position["step"], validation_loss, keep_versions)
    with ema.ema_weights(average):
        save_version(run, name, parts, learning, dtype)
    position["ledger"] = ledger
    save_state(run, position, parts, learning, optimizer, scaler, average)
    write_json(run / "versions.json", ledger, FREE_SPACE_HINT)
    prune_versions(run, ledger)
    return name


def read_position(run):
    """(position, folder) of the newest complete state, or (None, None) if nothing was saved yet.

    UserError if it is damaged, or gone while there are versions: starting again would overwrite them.
    """
    steps = catalog.steps_on_disk(run)
    if not steps:
        if catalog.read_version_index(run)["versions"]:
            raise UserError(
                f"run {run.name} has versions but no training state in {run / 'state'}: it can only be resumed with "
                "the tracker that it was published to (--tracker, --wandb_key)"
            )
        return None, None
    folder = run / "state" / f"{max(steps):09d}"
    position = read_json(folder / POSITION)
    if not isinstance(position.get("step"), int) or "ledger" not in position:
        raise UserError(f"{folder / POSITION} is damaged: run {run.name} can't be resumed")
    return position, folder


@contextlib.contextmanager
def report_damage(path):
    """Whatever a damaged file of the state makes the libraries raise is a UserError that names the file."""
    try:
        yield path
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, EOFError, UnpicklingError, SafetensorError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(
            f"the run can't be resumed, since {path} is missing or damaged: {reason}; if a tracker has it, delete "
            f"{path.parent} and it is fetched again"
        ) from None


def load_weights(folder, parts, learning):
    """Put the weights of a state folder, as they learn, into the learning parts. UserError if they are damaged."""
    for part in learning:
        with report_damage(folder / WEIGHTS.format(part)) as path:
            getattr(parts, part).load_state_dict(load_file(path))


def load_optimizer(folder, optimizer, scaler=None):
    """Put optimizer moments and loss scale of a state folder back. UserError if they are damaged."""
    with report_damage(folder / OPTIMIZER) as path:
        moments = torch.load(path, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(moments["optimizer"])
        if scaler and moments["scaler"]:
            scaler.load_state_dict(moments["scaler"])


def moments_nbytes(options, weights):
    """Bytes that the optimizer's moments will take, for learning weights of that many bytes in fp32: Adam has two, of a
    byte each (8-bit) or of four; Adafactor's are a row and a column of each weight."""
    return weights * {"adamw": 2, "adafactor": 0}.get(options.optimizer, 0.5)


def load_average(folder, average):
    """Put the average of a state folder back; None: nothing to do. UserError if it is damaged."""
    for part in average.averages if average else ():
        with report_damage(folder / AVERAGE.format(part)) as path:
            average.load(part, load_file(path))


def optimizer_nbytes(optimizer):
    """Bytes that the optimizer's moments take now."""
    states = optimizer.state.values()  # state_dict() of bitsandbytes hides them one level deeper
    return sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))
