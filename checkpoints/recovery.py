"""What is done about damage before a run goes on, under the run's lock.

A training state that is damaged is set aside, and the run goes on from the one before, as if it had been killed there.
Frozen parts that are missing are taken from a version, and the latest version is made again from the training state:
the two have every tensor of it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from checkpoints import catalog
from checkpoints.records import TrainingState, VersionIndex
from checkpoints.run_folder import CARD_FILES, POSITION, RunFolder
from checkpoints.state import AVERAGE, CONFIG, WEIGHTS, read_state, report_damage
from checkpoints.versions import complete_frozen, mend_frozen, restore_frozen, save_version
from common.errors import UserError
from common.files import link_or_copy, read_json, remove
from common.manifest import MANIFEST, find_damage
from diffusion.lora import AdapterWeights
from diffusion.lora_file import LORA_FILE
from diffusion.parts import LETTERING, TRAINABLE
from diffusion.trainable import Trainable
from diffusion.weights import empty_network


def set_aside_damaged_states(run: RunFolder, fetchable: bool) -> dict[int, str]:
    """Rename training states that are damaged, from the newest to the first sound one; returns {step: what is wrong}.

    fetchable: whether a tracker may have the state. If it is not, and no state is sound, UserError, and nothing is
    renamed.
    """
    damaged = {}
    for step, folder in reversed(run.state_folders().items()):
        problem = damage_of_state(folder)
        if problem is None:
            break
        damaged[step] = problem
    else:
        if damaged and not fetchable:
            raise UserError(
                f"run {run.name} can't be resumed: {next(iter(damaged.values()))}, and there is no sound state before "
                "it; if a tracker has one, name it with --tracker"
            )
    for step in damaged:
        remove(run.damaged_state(step))
        run.state(step).rename(run.damaged_state(step))
    return damaged


def damage_of_state(folder: Path) -> str | None:
    """What is wrong with the files of a training state, or None. Without a manifest, only position.json is checked."""
    for path, problem in find_damage([folder]).items():
        return f"{path} {problem}"
    try:
        TrainingState.from_json(read_json(folder / POSITION), folder / POSITION)
    except UserError as problem:
        return str(problem)
    return None


def recover(run: RunFolder, set_aside: dict[int, str]) -> None:
    """Make a run whole that goes on from its newest training state, and say what it has lost.

    set_aside: what set_aside_damaged_states returned. UserError if the run can't be made whole.
    """
    state, folder = read_state(run)
    if state is None or folder is None:
        return
    lost = max([*set_aside, *(version.step for version in index_on_disk(run).versions.values())], default=0)
    notes = [f"{problem}: set aside as {run.damaged_state(step)}" for step, problem in set_aside.items()]
    if notes or lost > state.step:
        again = f", and trains {lost - state.step} updates again" if lost > state.step else ""
        tqdm.write("; ".join([*notes, f"run {run.name} goes on from update {state.step}{again}"]))
    if set_aside:
        keep_later_versions(run, state.step)

    trained = [part for part in TRAINABLE if (folder / WEIGHTS.format(part)).is_file()]
    latest = state.version_index.aliases["latest"]
    adapters = read_adapters(run, latest, folder, trained)
    own = [LORA_FILE, *adapters.whole] if adapters else trained  # names in a version's folder
    version = run.version(latest)
    if run.frozen.exists() and version.is_dir() and not (run.frozen / MANIFEST).exists():
        complete_frozen(run, latest, own)
    damage = find_damage([run.frozen, version])
    mend_frozen(run, {path: problem for path, problem in damage.items() if path.is_relative_to(run.frozen)})
    problems = [f"{path} {problem}" for path, problem in damage.items() if path.is_relative_to(version)]
    frozen = [path.relative_to(run.frozen) for path in run.frozen.rglob("*") if path.name != MANIFEST]
    problems += [f"{version / name} is missing" for name in (Path(), *frozen) if not (version / name).exists()]
    if not run.frozen.exists():
        if problems:
            raise UserError(
                f"{problems[0]}, and {run.frozen} is gone, which it could be made of: bring one of them back"
            )
        restore_frozen(run, latest, own)
        tqdm.write(f"{run.frozen} is missing: taken from {version}")
    elif problems:
        trainable = adapters or read_networks(run, latest, folder, trained)
        save_version(run, latest, trainable, state.save_dtype, functools.partial(keep_card, run))
        tqdm.write(f"{problems[0]}: {latest} was made again from the training state")


def keep_later_versions(run: RunFolder, step: int) -> None:
    """Rename the versions after update `step`, whose training states are damaged: they may be sound, and the run would
    delete them, as it makes them again."""
    for name, version in index_on_disk(run).versions.items():
        if version.step > step and run.version(name).is_dir():
            kept = run.versions / f"{name}-before-damage"
            remove(kept)
            run.version(name).rename(kept)
            tqdm.write(f"{name} of update {version.step} is kept as {kept}")


def index_on_disk(run: RunFolder) -> VersionIndex:
    """versions.json, or an empty index if it is damaged: the training state has a copy."""
    try:
        return catalog.read_version_index(run)
    except UserError:
        return VersionIndex()


def without_dropped(run: RunFolder, index: VersionIndex) -> VersionIndex:
    """The index of an older training state without the versions that a later save has dropped and deleted.

    Those would have been dropped by the same save again, so the index after that is the same. The latest stays: it can
    be made again. Versions that versions.json lists stay, too: they may be in a tracker alone.
    """
    listed = index_on_disk(run).versions
    latest = index.aliases.get("latest")
    gone = [v for v in index.versions if listed and v not in (*listed, latest) and not run.version(v).is_dir()]
    return index.without_versions(gone)


def read_adapters(run: RunFolder, name: str, folder: Path, trained: Sequence[str]) -> AdapterWeights | None:
    """The adapters in a state's folder that its version `name` has, too, and the lettering beside them; None if it has
    no adapters. UserError if it is damaged."""
    configs = [read_json(path) for part in trained if (path := folder / CONFIG.format(part)).is_file()]
    alphas = [value["lora_alpha"] for value in configs if "lora_alpha" in value]
    if not alphas:
        return None
    weights = {}
    whole = [part for part in trained if part == LETTERING]
    for part in (part for part in trained if part not in whole):
        with report_damage(folder / WEIGHTS.format(part)) as path:
            weights[part] = load_file(path)
        if (folder / AVERAGE.format(part)).is_file():  # not of layers that --clip_skip leaves out
            with report_damage(folder / AVERAGE.format(part)) as path:
                weights[part] |= load_file(path)
    return AdapterWeights(weights, alphas[0], read_networks(run, name, folder, whole).networks)


def read_networks(run: RunFolder, name: str, folder: Path, trained: Sequence[str]) -> Trainable:
    """The trained parts as the state in that folder has them, on the CPU: those of the version `name`, which was
    saved with it. UserError if it is damaged."""
    networks = {}
    for part in trained:
        configs = [folder / CONFIG.format(part), *sorted(run.versions.glob(f"*/{part}/config.json"))]  # old: no first
        found = [path for path in configs if path.is_file()]
        if not found:
            raise UserError(
                f"{run.version(name)} is gone, and nothing in {run} says how its {part} is built: bring it back"
            )
        with report_damage(found[0]) as path:
            networks[part] = empty_network(part, read_json(path))
        with report_damage(folder / WEIGHTS.format(part)) as path:
            networks[part].load_state_dict(load_file(path), assign=True)  # in the precision that they are trained in
        if (folder / AVERAGE.format(part)).is_file():
            with report_damage(folder / AVERAGE.format(part)) as path, torch.no_grad():
                for key, average in load_file(path).items():  # of what is trained
                    networks[part].get_parameter(key).copy_(average)
    return Trainable(networks)


def keep_card(run: RunFolder, folder: Path, name: str) -> None:
    """Take the model card of version `name` over into `folder`, which will replace it."""
    for file in CARD_FILES:
        if (run.version(name) / file).is_file():
            link_or_copy(run.version(name) / file, folder / file)
