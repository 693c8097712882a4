"""Versions on disk: complete pipelines that hard-link the frozen parts; which stay and which are deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from checkpoints.records import SAVED_VERSION, TrainingState, VersionIndex
from checkpoints.run_folder import CARD_FILES, FREE_SPACE_HINT, RunFolder
from common.errors import UserError
from common.files import atomic_write, link_or_copy, link_or_copy_tree, remove
from common.manifest import MANIFEST, find_damage, hash_files, read_manifest, write_manifest
from diffusion.lora_file import LORA_FILE
from diffusion.parts import LETTERING, TRAINABLE, Parts
from diffusion.placement import DTYPES
from diffusion.trainable import Trainable
from diffusion.weights import save_pipeline


def frozen_names(parts: Parts, trainable: Trainable) -> list[str]:
    """Names of the networks that are saved once: those that are not trained as a whole."""
    return [name for name in parts.networks if name not in trainable.whole]


def own_names(options: Mapping[str, Any]) -> list[str]:
    """Names in a version's folder that are its own, and no hard links. options: of the run's config.json."""
    trained = [part for part in TRAINABLE if options.get(f"train_{part}")]
    return [LORA_FILE, *(part for part in trained if part == LETTERING)] if options.get("lora_rank") else trained


def frozen_dtype(state: TrainingState) -> str:
    """The precision in which frozen parts are stored: that of the versions, if the run computes with them in no higher
    one; else fp32, so that a resumed run still works with the very weights it began with."""
    return state.save_dtype if state.save_dtype == state.precision else "fp32"


def save_frozen(run: RunFolder, parts: Parts, trainable: Trainable, dtype: str) -> None:
    """Save what is not trained, once, before any of it is cast for training. In a run of an older release it is there,
    and gets a manifest."""
    if run.frozen.exists():
        if not (run.frozen / MANIFEST).exists():
            write_manifest(run.frozen)
        return
    with atomic_write(run.frozen, FREE_SPACE_HINT) as folder:
        save_pipeline(parts, folder, frozen_names(parts, trainable), DTYPES[dtype])
        write_manifest(folder)


def restore_frozen(run: RunFolder, version: str, own: list[str]) -> None:
    """Take the frozen parts from a version, where the run came from another machine, or has lost them. own: see
    own_names."""
    if not run.frozen.exists():
        with atomic_write(run.frozen, FREE_SPACE_HINT) as folder:
            source = run.version(version)
            link_or_copy_tree(source, folder, without=[MANIFEST, *CARD_FILES, *own])
            if manifest := read_manifest(source):
                write_manifest(folder, {name: file for name, file in manifest.items() if (folder / name).is_file()})


class Saved(Protocol):
    """What writes a version's own files: a Trainable, or adapters alone."""

    def save(self, folder: Path, dtype: str) -> None: ...


def save_version(
    run: RunFolder, name: str, trained: Saved, dtype: str, write_card: Callable[[Path, str], object] | None = None
) -> None:
    """Write versions/<name>: what is trained as it is now, beside hard links to what is frozen.

    write_card(folder, name) writes the CARD_FILES, which the manifest does not list. UserError if a frozen part is
    missing, and no version has it.
    """
    mend_frozen(run, find_damage([run.frozen], contents=False))
    with atomic_write(run.version(name), FREE_SPACE_HINT) as folder:
        link_or_copy_tree(run.frozen, folder, without=[MANIFEST])
        trained.save(folder, dtype)
        write_manifest(folder, read_manifest(run.frozen) or {})
        if write_card:
            write_card(folder, name)


def mend_frozen(run: RunFolder, damage: Mapping[Path, str]) -> None:
    """Take damaged files of frozen/ from a version. UserError if none has them as they were saved.

    damage: {file: what is wrong with it}, see manifest.find_damage.
    """
    for path, problem in damage.items():
        if path.name == MANIFEST:
            raise UserError(f"{path} {problem}: delete it, and the next start makes another, of the files as they are")
        name = path.relative_to(run.frozen).as_posix()
        expected = (read_manifest(run.frozen) or {})[name]
        copies = hash_files([folder / name for folder in sorted(run.versions.glob("v*"))])
        sound = [copy for copy, sha256 in copies.items() if sha256 == expected.sha256]
        if not sound:
            raise UserError(
                f"{path} {problem}, and no version of run {run.name} has a sound copy of it: bring it back, since "
                "versions can't be loaded without it"
            )
        take_frozen(run, sound[-1], name)
        tqdm.write(f"{path} {problem}: taken from {sound[-1]}")


def complete_frozen(run: RunFolder, version: str, own: Sequence[str]) -> None:
    """Take from a version what frozen/ lacks, in a run of an older release, where no manifest says what there should
    be. own: see own_names."""
    source = run.version(version)
    for file in source.rglob("*"):
        name = file.relative_to(source)
        frozen = name.parts[0] not in (*own, MANIFEST, *CARD_FILES)
        if file.is_file() and frozen and not (run.frozen / name).exists():
            take_frozen(run, file, name.as_posix())
            tqdm.write(f"{run.frozen / name} is missing: taken from {file}")


def take_frozen(run: RunFolder, source: Path, name: str) -> None:
    """Put a file, or a hard link to it, in its place in frozen/."""
    with atomic_write(run.frozen / name, FREE_SPACE_HINT) as temporary:
        link_or_copy(source, temporary)


def prune_versions(run: RunFolder, index: VersionIndex) -> None:
    """Delete version folders that are not in the index. Other names, as of somebody's copy, are not ours."""
    for folder in run.versions.glob("v*"):
        if SAVED_VERSION.fullmatch(folder.name) and folder.name not in index.versions:
            remove(folder)
