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
import datetime
import os
import secrets
import shutil
from pickle import UnpicklingError

import filelock
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from checkpoints import catalog
from checkpoints.catalog import POSITION
from common.files import publish, read_json, remove, write_json
from config import UserError, to_json
from diffusion import ema
from diffusion.pipeline import DTYPES, PARTS, save_network

GIB = 2**30
ROOM = "what was saved before is intact; free some space (old runs, --keep_versions), then go on with --run_id"


def require_room(folder, needed, what, hint="free some space, lower --keep_versions or choose another --output_dir"):
    """UserError unless the disk of `folder` has `needed` bytes to spare for `what`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{what} needs {needed / GIB:.2f} GiB in {folder}, and {free / GIB:.2f} GiB are free: {hint}; "
            "nothing was written"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def open_run(run, options, position, parts, learning):
    """(the run's folder, its lock): made if `run` is None, with everything in it as `position` says.

    The lock keeps a second process from working on the same run; the operating system drops it with the process.
    UserError if the folder can't be had or the disk has no room for the first version.
    """
    if run is None:
        run_id = options.run_name or f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        run = catalog.run_folder(options.output_dir, run_id)
        if (run / "config.json").exists():
            raise UserError(f"run {run_id} is there already: resume it with --run_id {run_id}, or choose another name")
    weights = bytes_of(parts, learning)
    untouched = 0 if (run / "untouched").exists() else bytes_of(parts, untrained(learning), kept_dtype(position))
    # a version, the state, the optimizer's moments and the average
    version = bytes_of(parts, learning, position["save_dtype"])
    moments = bytes_of_moments(options, weights)
    average = weights if options.ema_decay else 0
    there = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    require_room(there, untouched + version + weights + moments + average, "this run with its first version")
    try:
        for name in ("samples", "versions", "state"):
            (run / name).mkdir(parents=True, exist_ok=True)
        held = lock(run)
    except OSError as problem:
        raise UserError(f"can't work in the run folder {run}: {problem}; choose another --output_dir") from None
    write_json(run / "config.json", to_json(options))
    write_json(run / "versions.json", position["ledger"])
    prune(run, position["ledger"])
    keep_untouched(run, parts, learning, kept_dtype(position))
    return run, held


def lock(run):
    """The run's lock, held: a context manager that lets go. UserError if another process holds it."""
    try:
        return filelock.FileLock(run / ".lock").acquire(timeout=0)
    except OSError as problem:
        if not isinstance(problem, filelock.Timeout):
            raise UserError(f"can't work in the run folder {run}: {problem}; choose another --output_dir") from None
        raise UserError(f"another process is training run {run.name}: wait for it or stop it") from None


# ---------------------------------------------------------------------------------------------------------------------
# Versions


def untrained(learning):
    """Names of the networks that do not learn."""
    return [name for name in ("vae", *PARTS) if name not in learning]


def kept_dtype(position):
    """In which precision the untouched parts are kept: in that of the versions, if the run computes with them in no
    higher one; else in fp32, so that a resumed run still works with the very weights it began with."""
    return position["save_dtype"] if position["save_dtype"] == position["precision"] else "fp32"


def keep_untouched(run, parts, learning, dtype):
    """Save what does not learn, once, before any of it is cast for training."""
    if (run / "untouched").exists():
        return
    with publish(run / "untouched", ROOM) as folder:
        parts.pipeline().save_config(folder)  # model_index.json
        for name in ("tokenizer", "scheduler"):
            getattr(parts, name).save_pretrained(folder / name)
        for name in untrained(learning):
            save_network(getattr(parts, name), folder / name, DTYPES[dtype])
        # transformers writes tokenizer.json alone; older tools read CLIP's own two files
        parts.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


def restore_untouched(run, name, learning):
    """Have untouched/ again from a version, where the run came from another machine."""
    if not (run / "untouched").exists():
        with publish(run / "untouched", ROOM) as folder:
            learned = shutil.ignore_patterns(*learning)
            shutil.copytree(run / "versions" / name, folder, ignore=learned, copy_function=link_or_copy)


def save_version(run, name, parts, learning, dtype):
    """Write versions/<name>: the learning parts as they are now, beside hard links to the untouched ones."""
    with publish(run / "versions" / name, ROOM) as folder:
        shutil.copytree(run / "untouched", folder, dirs_exist_ok=True, copy_function=link_or_copy)
        for part in learning:
            save_network(getattr(parts, part), folder / part, DTYPES[dtype])


def link_or_copy(source, destination):
    """A hard link where the file system has them."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


def add_version(ledger, step, validation_loss, keep_versions):
    """(ledger with the next version, its name): aliases set, and entries dropped that keep_versions does not keep.

    'best' is the least validation loss; versions saved without one (on a signal) can't be it.
    """
    versions = dict(ledger["versions"])
    name = f"v{1 + max((int(v[1:]) for v in versions), default=0)}"
    versions[name] = {"step": step, "validation_loss": validation_loss}
    scored = [v for v in versions if versions[v]["validation_loss"] is not None]
    aliases = {"latest": name}
    if scored:
        aliases["best"] = min(scored, key=lambda v: versions[v]["validation_loss"])
    others = [v for v in versions if v not in aliases.values()]
    for old in others[: max(0, len(others) - keep_versions)]:
        del versions[old]
    return {"versions": versions, "aliases": aliases}, name


def prune(run, ledger):
    """Delete version folders that the ledger does not speak of, and what killed saves have left."""
    for folder in (run / "versions").glob("v*"):
        if folder.name not in ledger["versions"]:
            remove(folder)
    for leftover in (*run.glob(".*.tmp"), *run.glob("*/.*.tmp")):
        remove(leftover)


# ---------------------------------------------------------------------------------------------------------------------
# Training state: save and load share the names below, and catalog.POSITION.

OPTIMIZER, WEIGHTS, AVERAGE = "optimizer.pt", "{}.safetensors", "{}_average.safetensors"


def save_state(run, position, parts, learning, optimizer, scaler=None, average=None):
    """Publish state/<step>: `position` (JSON, with at least "step"), weights, optimizer, loss scaler.

    average: ema.Average of the weights, or None.
    """
    with publish(run / "state" / f"{position['step']:09d}", ROOM) as folder:
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
    needed = bytes_of(parts, learning, dtype) + bytes_of(parts, learning) + bytes_of_optimizer(optimizer)
    require_room(run, needed + (average.nbytes if average else 0), "the next version")
    ledger, name = add_version(position["ledger"], position["step"], validation_loss, keep_versions)
    with ema.applied(average):
        save_version(run, name, parts, learning, dtype)
    position["ledger"] = ledger
    save_state(run, position, parts, learning, optimizer, scaler, average)
    write_json(run / "versions.json", ledger, ROOM)
    prune(run, ledger)
    return name


def read_position(run):
    """(position, folder) of the newest complete state, or (None, None) if nothing was saved yet.

    UserError if it is damaged, or gone while there are versions: starting again would overwrite them.
    """
    steps = catalog.steps_on_disk(run)
    if not steps:
        if catalog.read_ledger(run)["versions"]:
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
def reading(path):
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
        with reading(folder / WEIGHTS.format(part)) as path:
            getattr(parts, part).load_state_dict(load_file(path))


def load_optimizer(folder, optimizer, scaler=None):
    """Put optimizer moments and loss scale of a state folder back. UserError if they are damaged."""
    with reading(folder / OPTIMIZER) as path:
        moments = torch.load(path, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(moments["optimizer"])
        if scaler and moments["scaler"]:
            scaler.load_state_dict(moments["scaler"])


def bytes_of_moments(options, weights):
    """Bytes that the optimizer's moments will take, for learning weights of that many bytes in fp32: Adam has two, of a
    byte each (8-bit) or of four; Adafactor's are a row and a column of each weight."""
    return weights * {"adamw": 2, "adafactor": 0}.get(options.optimizer, 0.5)


def load_average(folder, average):
    """Put the average of a state folder back; None: nothing to do. UserError if it is damaged."""
    for part in average.averages if average else ():
        with reading(folder / AVERAGE.format(part)) as path:
            average.load(part, load_file(path))


def bytes_of_optimizer(optimizer):
    """Bytes that the optimizer's moments take now."""
    states = optimizer.state.values()  # state_dict() of bitsandbytes hides them one level deeper
    return sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))


def bytes_of(parts, names, dtype="fp32"):
    """Bytes that the weights of the named parts take on disk."""
    tensors = [tensor for name in names for tensor in getattr(parts, name).state_dict().values()]
    return sum(tensor.numel() for tensor in tensors) * DTYPES[dtype].itemsize
