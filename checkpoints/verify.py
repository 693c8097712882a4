"""python -m runs --verify: all files of a run against the manifests beside them."""

from __future__ import annotations

from pathlib import Path

from checkpoints import catalog
from checkpoints.run_folder import RunFolder
from common.manifest import MANIFEST, find_damage


def verify(run: RunFolder) -> int:
    """Print which files of a run are missing or damaged; returns the exit status, 2 if there are any.

    It reads without the run's lock: what training deletes meanwhile is not missed.
    """
    listed = [home.version(name) for home in (run, run.fetched) for name in catalog.read_version_index(home).versions]
    folders = [run.frozen, *listed, *run.state_folders().values()]
    checked = [folder for folder in folders if (folder / MANIFEST).exists()]
    damage = find_damage(checked)

    for folder in folders:
        if folder.is_dir() and folder not in checked:
            print(f"{folder} was not checked: an older release wrote it, without {MANIFEST}")
        elif not folder.exists() or is_dropped(folder):
            damage = {path: problem for path, problem in damage.items() if not path.is_relative_to(folder)}
    for path, problem in damage.items():
        print(f"{path} {problem}")
    print(f"run {run.name}: {len(checked)} folders checked, damaged files: {len(damage)}")
    return 2 if damage else 0


def is_dropped(folder: Path) -> bool:
    """Whether a version's folder is on its way out: versions.json is written before anything is deleted."""
    home = RunFolder(folder.parent.parent)
    return folder.parent == home.versions and folder.name not in catalog.read_version_index(home).versions
