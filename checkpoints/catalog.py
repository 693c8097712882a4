"""Which runs and versions are on this disk, and what their names mean."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import config
from checkpoints.records import SavedVersion, VersionIndex, is_loss
from checkpoints.run_folder import RunFolder
from common.errors import UserError
from common.files import read_json, write_json

VERSION_NAME = r"v\d+|latest|best"  # of versions; anything else is a folder


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def list_runs(output_dir: str | Path) -> list[RunFolder]:
    """The runs in output_dir, the one last started or resumed at the end; and folders that have a config.json, too."""
    runs = [RunFolder(path.parent) for path in Path(output_dir).expanduser().glob("*/config.json")]
    return sorted(runs, key=lambda run: (start_time(run), run.path))


def start_time(run: RunFolder) -> float:
    """When a run was last started or resumed, in seconds of Unix time.

    As the run itself says; a run that does not (of before version 0.3, or fetched) is as old as its config.json.
    """
    with contextlib.suppress(UserError):
        recorded = read_json(run.started).get("time")
        if recorded is not None and is_loss(recorded):  # a finite number of a sensible size
            return recorded
    with contextlib.suppress(OSError):
        return run.config.stat().st_mtime
    return 0


def record_start(run: RunFolder) -> None:
    """Note in the run that it starts or is resumed now: later than all others beside it, even if the clock was set back
    since."""
    others = [start_time(other) for other in list_runs(run.path.parent) if other != run]
    write_json(run.started, {"time": max([time.time(), *(other + 1 for other in others)])})


def newest_run(output_dir: str | Path) -> RunFolder | None:
    """The run that was last started or resumed, if there is one."""
    return next(filter(is_run, reversed(list_runs(output_dir))), None)


def is_run(run: RunFolder) -> bool:
    """Whether a folder with a config.json is a run, and not something else that has such a file, as models do."""
    if not any(path.exists() for path in (run.version_index, run.versions, run.states, run.fetched.path)):
        return False
    try:
        return "pretrained_model" in read_json(run.config)
    except UserError:
        return True  # a damaged one: whoever reads it says so


def find_run(output_dir: str | Path, run_id: str | None, tracker: str = "none") -> RunFolder:
    """The run run_id, or the newest if run_id is None. UserError lists the runs that exist.

    tracker: the one that was searched already.
    """
    if run_id is None:
        newest = newest_run(output_dir)
        if newest is None:
            raise UserError(
                f"there is no run in {output_dir}: train one first, or say where they are with --output_dir"
            )
        return newest
    runs = list_runs(output_dir)
    run = run_folder(output_dir, run_id)
    if run not in runs:
        names = ", ".join(run.name for run in runs[-8:]) or "none"
        existing = f"there: {names}" if len(runs) <= 8 else f"the last 8 of {len(runs)} there: {names}"
        if tracker == "none":
            raise UserError(
                f"no run {run_id} in {output_dir}; {existing}; --output_dir says where to look, and with --tracker "
                "wandb or trackio it is looked for there, too"
            )
        raise UserError(
            f"no run {run_id} in {output_dir} nor in {tracker}; {existing}; "
            "--output_dir and --wandb_project say where to look"
        )
    return run


def run_folder(output_dir: str | Path, run_id: str) -> RunFolder:
    """The folder of a run, whether it exists or not."""
    return RunFolder(Path(output_dir).expanduser() / run_id)


# ---------------------------------------------------------------------------------------------------------------------
# Versions


def read_version_index(run: RunFolder) -> VersionIndex:
    """What versions.json says; empty if there is none yet. UserError if it is damaged."""
    path = run.version_index
    if not path.exists():
        return VersionIndex()
    fetched = not run.config.exists()  # of RunFolder.fetched, which is no run
    remedy = "delete it: versions are fetched again" if fetched else f"resuming with --run_id {run.name} restores it"
    return VersionIndex.from_json(read_json(path), path, remedy)


def resolve_version(
    output_dir: str | Path, run_id: str | None, version: str, pretrained_model: str
) -> tuple[str, str, RunFolder | None]:
    """(name, source for pipeline.load_parts, its run or None) of a version: v0, vN, latest, best or a folder.

    UserError, listing those that exist, if there is no such run or version.
    """
    if not re.fullmatch(VERSION_NAME, version):
        folder = Path(version).expanduser()
        if not folder.is_dir():
            raise UserError(f"--version {version}: expected v0, v1 ..., latest, best, or a folder, and no such folder")
        if not (folder / "model_index.json").is_file():
            raise UserError(f"--version {version}: that folder is not a saved version, it has no model_index.json")
        folder = folder.resolve()
        home = RunFolder(folder.parent.parent)
        return folder.name, str(folder), home if folder.parent == home.versions and home.config.is_file() else None
    if version == "v0" and run_id is None and newest_run(output_dir) is None:
        return "v0", pretrained_model, None
    run = find_run(output_dir, run_id)
    if version == "v0":
        saved = config.find_paths(config.TrainingOptions, read_json(run.config), run.config)
        return "v0", saved.get("pretrained_model", pretrained_model), run
    name, found = find_version(run, version)
    if found is None:
        index = read_version_index(run)
        existing = ["v0", *index.versions, *read_version_index(run.fetched).versions, *index.aliases]
        raise UserError(f"run {run.name} has no version {version}; there: {', '.join(existing)}")
    return name, version_folder(found, name), run


def find_version(run: RunFolder, version: str) -> tuple[str, RunFolder | None]:
    """(name, home) of a version (vN, latest or best) of a run.

    home: the run or run.fetched (whose versions came from a tracker, and which training never touches), whichever has
    the files; None if neither lists the version. An alias means what it means in the run's own index, if that has it.
    """
    indexes = {home: read_version_index(home) for home in (run, run.fetched)}
    name = next((index.aliases[version] for index in indexes.values() if version in index.aliases), version)
    homes = [home for home, index in indexes.items() if name in index.versions]
    homes.sort(key=lambda home: not home.version(name).is_dir())
    return name, homes[0] if homes else None


def version_entry(run: RunFolder, name: str) -> SavedVersion:
    """What versions.json says of a version; of v0, step 0."""
    _, home = find_version(run, name)
    return read_version_index(home).versions[name] if home else SavedVersion(step=0, validation_loss=None)


@contextlib.contextmanager
def reading_version(source: str) -> Iterator[None]:
    """Inside, a version is read, without its run's lock. Where that fails because training that goes on has dropped the
    version meanwhile, the UserError says so. source: as resolve_version returns it."""
    try:
        yield
    except (UserError, OSError):
        folder = Path(source)
        run = RunFolder(folder.parent.parent)
        if folder.parent == run.versions and run.config.exists():
            index = read_version_index(run)  # it is written before anything is deleted
            if folder.name not in index.versions:
                raise UserError(
                    f"version {folder.name} of run {run.name} was deleted while it was read, since the run goes on and "
                    f"keeps only the newest (--keep_versions) and the best; there now: {', '.join(index.versions)}; "
                    "start this again"
                ) from None
        raise


def version_folder(run: RunFolder, name: str) -> str:
    """The folder of a version as a source for pipeline.load_parts. UserError if it was deleted."""
    folder = run.version(name)
    if not folder.is_dir():
        raise UserError(
            f"version {name} should be in {folder}, and that folder is gone: bring it back, or give --run_id and the "
            "--tracker that has it"
        )
    return str(folder)
