"""Which runs and versions are on this disk, what their names mean, and what is known of them."""

from __future__ import annotations

import pathlib
import re

from common.errors import UserError
from common.files import read_json

VERSION_NAME = r"v\d+|latest|best"  # of versions; anything else is a folder
POSITION = "position.json"
FETCHED = "fetched"
FREE_SPACE_HINT = (
    "what was saved before is intact; free some space (old runs, --keep_versions), then go on with --run_id"
)


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def list_runs(output_dir):
    """Folders of the runs in output_dir, the one last started or resumed at the end."""
    configs = pathlib.Path(output_dir).expanduser().glob("*/config.json")
    return [path.parent for path in sorted(configs, key=lambda path: (path.stat().st_mtime_ns, path))]


def find_run(output_dir, run_id, tracker="none"):
    """The folder of the run run_id, or of the newest if run_id is None. UserError names those that are there.

    tracker: the one that was asked for the run already."""
    runs = list_runs(output_dir)
    if run_id is None:
        if not runs:
            raise UserError(
                f"there is no run in {output_dir}: train one first, or say where they are with --output_dir"
            )
        return runs[-1]
    folder = run_path(output_dir, run_id)
    if folder not in runs:
        names = ", ".join(run.name for run in runs[-8:]) or "none"
        there = f"there: {names}" if len(runs) <= 8 else f"the last 8 of {len(runs)} there: {names}"
        if tracker == "none":
            raise UserError(
                f"no run {run_id} in {output_dir}; {there}; --output_dir says where to look, and with --tracker wandb "
                "or trackio it is looked for there, too"
            )
        raise UserError(f"no run {run_id} in {output_dir} nor in {tracker}; {there}; --output_dir says where to look")
    return folder


def run_path(output_dir, run_id):
    """Where the run is or would be."""
    return pathlib.Path(output_dir).expanduser() / run_id


def steps_on_disk(run):
    """The updates of the complete training states of a run."""
    return [int(folder.name) for folder in (run / "state").glob("[0-9]*") if (folder / POSITION).is_file()]


# ---------------------------------------------------------------------------------------------------------------------
# Versions


def read_version_index(run):
    """What versions.json says, or that there are none yet."""
    path = run / "versions.json"
    ledger = read_json(path) if path.exists() else {"versions": {}, "aliases": {}}
    if not all(isinstance(ledger.get(key), dict) for key in ("versions", "aliases")):
        raise UserError(f"can't read {path}: it lists no versions; resuming with --run_id {run.name} restores it")
    return ledger


def aliases_of(ledger, name):
    """Which of latest and best a version is."""
    return [alias for alias, version in ledger["aliases"].items() if version == name]


def resolve_version(output_dir, run_id, version, pretrained_model):
    """(name, source for models.load_parts, run folder or None) of a version: v0, vN, latest, best or a folder.

    UserError if there is no such run or version, and which there are.
    """
    if not re.fullmatch(VERSION_NAME, version):
        folder = pathlib.Path(version).expanduser()
        if not folder.is_dir():
            raise UserError(f"--version {version}: expected v0, v1 ..., latest, best, or a folder, and no such folder")
        if not (folder / "model_index.json").is_file():
            raise UserError(f"--version {version}: that folder is not a saved version, it has no model_index.json")
        folder = folder.resolve()
        run = folder.parent.parent
        ours = folder.parent.name == "versions" and (run / "config.json").is_file()
        return folder.name, str(folder), run if ours else None
    if version == "v0" and run_id is None and not list_runs(output_dir):
        return "v0", pretrained_model, None
    run = find_run(output_dir, run_id)
    if version == "v0":
        return "v0", read_json(run / "config.json").get("pretrained_model", pretrained_model), run
    name, home = find_version(run, version)
    if home is None:
        ledger = read_version_index(run)
        there = ", ".join(
            ["v0", *ledger["versions"], *read_version_index(run / FETCHED)["versions"], *ledger["aliases"]]
        )
        raise UserError(f"run {run.name} has no version {version}; there: {there}")
    return name, version_folder(home, name), run


def find_version(run, version):
    """(name, home) of a version (vN, latest or best) of a run. home, None if nothing knows the version, is the run's
    folder, or <run>/fetched, whose versions a tracker had and which training never touches; the one with the files
    comes first. An alias means what it means in the run's own list, if that knows it.
    """
    ledgers = {home: read_version_index(home) for home in (run, run / FETCHED)}
    name = next((ledger["aliases"][version] for ledger in ledgers.values() if version in ledger["aliases"]), version)
    homes = [home for home, ledger in ledgers.items() if name in ledger["versions"]]
    homes.sort(key=lambda home: not (home / "versions" / name).is_dir())
    return name, homes[0] if homes else None


def version_entry(run, name):
    """What versions.json says of a version: {"step": ..., "validation_loss": ...}; of v0, step 0."""
    _, home = find_version(run, name)
    return read_version_index(home)["versions"][name] if home else {"step": 0, "validation_loss": None}


def version_folder(run, name):
    """The folder of a version as a source for models.load_parts. UserError if it was deleted."""
    folder = run / "versions" / name
    if not folder.is_dir():
        raise UserError(
            f"version {name} should be in {folder}, and that folder is gone: bring it back, or give --run_id and the "
            "--tracker that has it"
        )
    return str(folder)
