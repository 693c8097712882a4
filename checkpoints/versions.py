"""Versions on disk: complete pipelines that hard-link the frozen parts; which stay and which are deleted."""

from __future__ import annotations

from checkpoints.records import TrainingState, VersionIndex
from checkpoints.run_folder import FREE_SPACE_HINT, RunFolder
from common.files import atomic_write, link_or_copy_tree, remove
from diffusion.parts import NETWORKS, Parts
from diffusion.placement import DTYPES
from diffusion.trainable import Trainable
from diffusion.weights import save_network, save_scheduler


def frozen_names(trainable: Trainable) -> list[str]:
    """Names of the networks that are not trained."""
    return [name for name in NETWORKS if name not in trainable.networks]


def frozen_dtype(state: TrainingState) -> str:
    """The precision in which frozen parts are stored: that of the versions, if the run computes with them in no higher
    one; else fp32, so that a resumed run still works with the very weights it began with."""
    return state.save_dtype if state.save_dtype == state.precision else "fp32"


def save_frozen(run: RunFolder, parts: Parts, trainable: Trainable, dtype: str) -> None:
    """Save what is not trained, once, before any of it is cast for training."""
    if run.frozen.exists():
        return
    with atomic_write(run.frozen, FREE_SPACE_HINT) as folder:
        parts.pipeline().save_config(folder)  # model_index.json
        parts.tokenizer.save_pretrained(folder / "tokenizer")
        save_scheduler(parts.scheduler, folder / "scheduler")
        for name in frozen_names(trainable):
            save_network(getattr(parts, name), folder / name, DTYPES[dtype])
        # transformers writes tokenizer.json alone; older tools read CLIP's own two files
        parts.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


def restore_frozen(run: RunFolder, version: str, trained: list[str]) -> None:
    """Take the frozen parts from a version, where the run came from another machine. trained: names of the others."""
    if not run.frozen.exists():
        with atomic_write(run.frozen, FREE_SPACE_HINT) as folder:
            link_or_copy_tree(run.version(version), folder, without=trained)


def save_version(run: RunFolder, name: str, trainable: Trainable, dtype: str) -> None:
    """Write versions/<name>: the trained parts as they are now, beside hard links to the frozen ones."""
    with atomic_write(run.version(name), FREE_SPACE_HINT) as folder:
        link_or_copy_tree(run.frozen, folder)
        for part, network in trainable:
            save_network(network, folder / part, DTYPES[dtype])


def prune_versions(run: RunFolder, index: VersionIndex) -> None:
    """Delete version folders that are not in the index, and what killed saves have left."""
    for folder in run.versions.glob("v*"):
        if folder.name not in index.versions:
            remove(folder)
    for leftover in (*run.path.glob(".*.tmp"), *run.path.glob("*/.*.tmp")):
        remove(leftover)
