"""Versions on disk: complete pipelines that hard-link the frozen parts; which stay and which are deleted."""

from __future__ import annotations

import shutil

from checkpoints.catalog import FREE_SPACE_HINT
from common.files import atomic_write, link_or_copy, remove
from diffusion.parts import PARTS
from diffusion.placement import DTYPES
from diffusion.weights import save_network

# ---------------------------------------------------------------------------------------------------------------------
# Versions


def frozen_parts(learning):
    """Names of the networks that do not learn."""
    return [name for name in ("vae", *PARTS) if name not in learning]


def frozen_dtype(position):
    """In which precision the untouched parts are kept: in that of the versions, if the run computes with them in no
    higher one; else in fp32, so that a resumed run still works with the very weights it began with."""
    return position["save_dtype"] if position["save_dtype"] == position["precision"] else "fp32"


def save_frozen(run, parts, learning, dtype):
    """Save what does not learn, once, before any of it is cast for training."""
    if (run / "untouched").exists():
        return
    with atomic_write(run / "untouched", FREE_SPACE_HINT) as folder:
        parts.pipeline().save_config(folder)  # model_index.json
        for name in ("tokenizer", "scheduler"):
            getattr(parts, name).save_pretrained(folder / name)
        for name in frozen_parts(learning):
            save_network(getattr(parts, name), folder / name, DTYPES[dtype])
        # transformers writes tokenizer.json alone; older tools read CLIP's own two files
        parts.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


def restore_frozen(run, name, learning):
    """Have untouched/ again from a version, where the run came from another machine."""
    if not (run / "untouched").exists():
        with atomic_write(run / "untouched", FREE_SPACE_HINT) as folder:
            learned = shutil.ignore_patterns(*learning)
            shutil.copytree(run / "versions" / name, folder, ignore=learned, copy_function=link_or_copy)


def save_version(run, name, parts, learning, dtype):
    """Write versions/<name>: the learning parts as they are now, beside hard links to the untouched ones."""
    with atomic_write(run / "versions" / name, FREE_SPACE_HINT) as folder:
        shutil.copytree(run / "untouched", folder, dirs_exist_ok=True, copy_function=link_or_copy)
        for part in learning:
            save_network(getattr(parts, part), folder / part, DTYPES[dtype])


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


def prune_versions(run, ledger):
    """Delete version folders that the ledger does not speak of, and what killed saves have left."""
    for folder in (run / "versions").glob("v*"):
        if folder.name not in ledger["versions"]:
            remove(folder)
    for leftover in (*run.glob(".*.tmp"), *run.glob("*/.*.tmp")):
        remove(leftover)
