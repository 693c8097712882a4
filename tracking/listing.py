"""Runs and versions on this disk and in a tracker, as a table."""

from __future__ import annotations

import sys

import config
from checkpoints import catalog, scores, state
from cli import saved_options
from common.errors import UserError
from common.files import read_json
from diffusion.parts import PARTS
from tracking import trackers
from tracking.published import all_published

HEAD = ("version", "aliases", "update", "validation", "score", "size", "where")


# ---------------------------------------------------------------------------------------------------------------------
# Listing


def with_tracker_of_run(options, given):
    """The options, with the tracker that the run options.run_id was started with unless another was given."""
    if not options.run_id:
        return options
    saved = catalog.run_path(options.output_dir, options.run_id) / "config.json"
    return saved_options.inherit_tracker(config.RunsOptions, saved, given)


def print_listing(options):
    """Print a block for each run, those on disk first. Returns the exit status."""

    runs = {run.name: versions_on_disk(run) for run in catalog.list_runs(options.output_dir)}
    try:
        tracker = trackers.connect(options, options.run_id or "listing")
        for artifact in tracker.listing(trackers.VERSIONS):
            add_published(runs, artifact, tracker.name)
    except UserError as problem:
        print(f"warning: {problem}; this lists what is on disk alone", file=sys.stderr)
    chosen = [name for name in runs if options.run_id in (None, name)]
    if not chosen:
        what = f"run {options.run_id}" if options.run_id else "run"
        also = f" and in {config.tracker(options)}" if config.tracker(options) in config.STORES else ""
        raise UserError(f"there is no {what} in {options.output_dir}{also}: --output_dir says where to look")
    for name in chosen:
        folder = catalog.run_path(options.output_dir, name)
        on_disk = (folder / "config.json").exists()
        print(f"{name}  ({describe(folder) if on_disk else f'in {tracker.name} alone'})")
        print(scores.table([HEAD, *map(row, sorted(runs[name].values(), key=lambda version: version["step"]))]))
        if options.run_id:
            print_scores(runs[name])
    return 0


def print_scores(versions):
    """Print a table of all metrics for each kind of features: one column for each version scored with them."""
    versions = dict(sorted(versions.items(), key=lambda pair: pair[1]["step"]))
    # a version that only a tracker has comes without scores
    scores_of = {name: version.get("scores", {}) for name, version in versions.items()}
    kinds = dict.fromkeys(kind for found in scores_of.values() for kind in found)
    for kind in kinds:
        scored = {name: found[kind] for name, found in scores_of.items() if kind in found and found[kind].values}
        if scored:
            print(scores.table(scores.rows({name: score.values for name, score in scored.items()})))
            different = scores.differences([score.settings for score in scored.values()])
            if different:
                print(f"  measured with different settings, so not comparable: {', '.join(different)}\n")


def versions_on_disk(run):
    """{name: what to tell of it} of the versions that are in a run's folder or in its list."""

    shared = {file.stat().st_ino for file in files_of(run / "untouched")}
    pretrained = read_json(run / "config.json").get("pretrained_model", "?")
    start = {"step": 0, "validation_loss": position_of(run).get("start_loss")}
    versions = {"v0": {**start, "aliases": [], "where": [pretrained]}}
    for home in (run / catalog.FETCHED, run):  # what both have is told as the run itself has it
        ledger, published = catalog.read_version_index(home), all_published(home)
        for name, version in ledger["versions"].items():
            saved = files_of(home / "versions" / name)
            where = ["disk"] if saved else []
            where += [place.split()[0] for place, has in published.items() if name in has["versions"]]
            aliases = catalog.aliases_of(ledger, name)
            versions[name] = {**version, "aliases": aliases, "where": list(dict.fromkeys(where))}
            if saved:
                versions[name]["size"] = sum(f.stat().st_size for f in saved if f.stat().st_ino not in shared)
    found = scores.read_scores(run)
    return {name: {**version, "version": name, "scores": found.get(name, {})} for name, version in versions.items()}


def add_published(runs, artifact, tracker_name):
    """Add to `runs` a version that a tracker has, unless it is there."""
    about = artifact.metadata
    if not {"run_id", "version", "step", "validation_loss", "files"} <= about.keys():
        return  # somebody else's
    versions = runs.setdefault(about["run_id"], {})
    start = about["run_id"] + "-"
    aliases = [alias.removeprefix(start) for alias in artifact.aliases if alias.startswith(start)]
    if about["version"] in aliases and about["version"] not in versions:
        size = sum(size for size, _ in about["files"].values())
        told = {key: about[key] for key in ("version", "step", "validation_loss")}
        others = [alias for alias in aliases if alias != about["version"]]
        versions[about["version"]] = {**told, "aliases": others, "size": size, "where": [tracker_name]}


def position_of(run):
    """The position of the newest training state, or {} if it is not on this disk."""

    return state.read_position(run)[0] if catalog.steps_on_disk(run) else {}


def files_of(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def describe(run):
    """What learns, from which model, how far it is, and what it all takes on the disk."""

    options = read_json(run / "config.json")
    position = position_of(run)
    learning = " and ".join(part for part in PARTS if options.get(f"train_{part}"))
    at = f"update {position['step']} of {position['total']}" if position else "no training state here"
    sizes = {file.stat().st_ino: file.stat().st_size for file in files_of(run)}  # hard links count once
    return f"{learning} from {options.get('pretrained_model')}, {at}, {readable_size(sum(sizes.values()))} on disk"


def row(version):
    """One line's texts, in the order of HEAD."""
    loss = version.get("validation_loss")
    distances = [
        f"{name} {score.distance:.2f} (n = {score.n})"
        for name, score in version.get("scores", {}).items()
        if score.distance is not None
    ]
    return (
        version["version"],
        ", ".join(sorted(version["aliases"])),
        str(version["step"]),
        "" if loss is None else f"{loss:.5f}",
        "; ".join(distances),
        readable_size(version["size"]) if "size" in version else "",
        ", ".join(version["where"]),
    )


def readable_size(size):
    """Bytes as 4 KB, 3.4 GB, ..."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
