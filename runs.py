"""The runs: their versions, aliases, updates, losses, scores, sizes, and where they live, on this disk or in a tracker.

With --publish a tracker gets what it missed of a run; with --prune wandb loses what the run's own list has dropped.
"""

from __future__ import annotations

import dataclasses
import sys

import config
from checkpoints import scores
from cli import parser
from common import files

HEAD = ("version", "aliases", "update", "validation", "score", "size", "where")


def main(argv=None):
    """List, publish or prune. Returns the exit status."""
    from checkpoints import catalog

    options, given = parser.parse(config.RunsOptions, argv)

    if options.run_id:
        saved = catalog.run_folder(options.output_dir, options.run_id) / "config.json"
        options = parser.inherit_tracker(config.RunsOptions, saved, given)
    if options.publish:
        return publish(options)
    if options.prune:
        return prune(options)
    return listing(options)


# ---------------------------------------------------------------------------------------------------------------------
# Listing


def listing(options):
    """Print a block for each run, those on disk first. Returns the exit status."""
    from checkpoints import catalog
    from tracking import trackers

    runs = {run.name: versions_on_disk(run) for run in catalog.list_runs(options.output_dir)}
    try:
        tracker = trackers.connect(options, options.run_id or "listing")
        for artifact in tracker.listing(trackers.VERSIONS):
            add_published(runs, artifact, tracker.name)
    except config.UserError as problem:
        print(f"warning: {problem}; this lists what is on disk alone", file=sys.stderr)
    chosen = [name for name in runs if options.run_id in (None, name)]
    if not chosen:
        what = f"run {options.run_id}" if options.run_id else "run"
        also = f" and in {config.tracker(options)}" if config.tracker(options) in config.STORES else ""
        raise config.UserError(f"there is no {what} in {options.output_dir}{also}: --output_dir says where to look")
    for name in chosen:
        folder = catalog.run_folder(options.output_dir, name)
        on_disk = (folder / "config.json").exists()
        print(f"{name}  ({describe(folder) if on_disk else f'in {tracker.name} alone'})")
        print(scores.table([HEAD, *map(row, sorted(runs[name].values(), key=lambda version: version["step"]))]))
        if options.run_id:
            print_scores(runs[name])
    return 0


def print_scores(versions):
    """A table for each kind of features: every metric of each version that was scored with them."""
    versions = dict(sorted(versions.items(), key=lambda pair: pair[1]["step"]))
    kinds = dict.fromkeys(kind for version in versions.values() for kind in version.get("scores", {}))
    for kind in kinds:
        scored = {name: version["scores"].get(kind, {}).get("values") for name, version in versions.items()}
        scored = {name: some for name, some in scored.items() if some}
        if scored:
            print(scores.table(scores.rows(scored)))
            different = scores.differences([versions[name]["scores"][kind] for name in scored])
            if different:
                print(f"  not measured alike, so not to be compared: {', '.join(different)}\n")


def versions_on_disk(run):
    """{name: what to tell of it} of the versions that are in a run's folder or in its list."""
    from checkpoints import catalog
    from tracking import artifacts

    shared = {file.stat().st_ino for file in files_of(run / "untouched")}
    pretrained = files.read_json(run / "config.json").get("pretrained_model", "?")
    start = {"step": 0, "validation_loss": position_of(run).get("start_loss")}
    versions = {"v0": {**start, "aliases": [], "where": [pretrained]}}
    for home in (run / catalog.FETCHED, run):  # what both have is told as the run itself has it
        ledger, published = catalog.read_ledger(home), artifacts.all_published(home)
        for name, version in ledger["versions"].items():
            saved = files_of(home / "versions" / name)
            where = ["disk"] if saved else []
            where += [place.split()[0] for place, has in published.items() if name in has["versions"]]
            aliases = catalog.aliases_of(ledger, name)
            versions[name] = {**version, "aliases": aliases, "where": list(dict.fromkeys(where))}
            if saved:
                versions[name]["size"] = sum(f.stat().st_size for f in saved if f.stat().st_ino not in shared)
    scores = catalog.read_scores(run)
    return {name: {**version, "version": name, "scores": scores.get(name, {})} for name, version in versions.items()}


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
    from checkpoints import catalog, state

    return state.read_position(run)[0] if catalog.steps_on_disk(run) else {}


def files_of(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def describe(run):
    """What learns, from which model, how far it is, and what it all takes on the disk."""
    from diffusion import pipeline

    options = files.read_json(run / "config.json")
    position = position_of(run)
    learning = " and ".join(part for part in pipeline.PARTS if options.get(f"train_{part}"))
    at = f"update {position['step']} of {position['total']}" if position else "no training state here"
    sizes = {file.stat().st_ino: file.stat().st_size for file in files_of(run)}  # hard links count once
    return f"{learning} from {options.get('pretrained_model')}, {at}, {readable(sum(sizes.values()))} on disk"


def row(version):
    """One line's texts, in the order of HEAD."""
    loss = version.get("validation_loss")
    scores = [
        f"{name} {s['distance']:.2f} (n = {s['n']})" for name, s in version.get("scores", {}).items() if "distance" in s
    ]
    return (
        version["version"],
        ", ".join(sorted(version["aliases"])),
        str(version["step"]),
        "" if loss is None else f"{loss:.5f}",
        "; ".join(scores),
        readable(version["size"]) if "size" in version else "",
        ", ".join(version["where"]),
    )


def readable(size):
    """Bytes as 4 KB, 3.4 GB, ..."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000


# ---------------------------------------------------------------------------------------------------------------------
# Publishing and pruning


def publish(options):
    """Bring to the tracker what it lacks of a run. Exit status 2 if it still lacks something."""
    from checkpoints import catalog, state
    from tracking import uploader

    if config.tracker(options) not in config.STORES:
        raise config.UserError("--publish: to which tracker? give --tracker wandb or trackio, or set WANDB_API_KEY")
    run = catalog.find_run(options.output_dir, options.run_id)
    saved = parser.inherit(config.TrainingOptions, run / "config.json", {})
    tracking = {field.name: getattr(options, field.name) for field in dataclasses.fields(config.TrackingOptions)}
    options = dataclasses.replace(saved, **tracking, output_dir=options.output_dir)
    position, _ = state.read_position(run)
    with state.lock(run), uploader.Mirror(run, options, position["step"] if position else 0) as sending:
        print("publishing: " + (", ".join(sending.missing()) or "curves; versions and state are there already"))
    return 2 if sending.failing or sending.missing() else 0


def prune(options):
    """Delete what wandb has of the run and nothing names any more: versions that were dropped from the run's list and
    are neither latest nor best, and training states but the newest."""
    from checkpoints import catalog
    from tracking import trackers

    if config.tracker(options) != "wandb":
        raise config.UserError("--prune works with wandb alone; trackio deletes nothing")
    run, run_id = catalog.find_run(options.output_dir, options.run_id), options.run_id
    tracker = trackers.connect(options, run_id)
    if not tracker.stores_files:
        raise config.UserError("--prune needs wandb online: unset WANDB_MODE")
    newest = tracker.find(trackers.STATES, f"{run_id}-latest")
    if max(catalog.steps_on_disk(run), default=-1) < (newest.metadata["step"] if newest else 0):
        raise config.UserError(
            f"--prune goes by the list of the machine that trains run {run_id}, and {tracker.name} has a newer state "
            f"than {run}: prune there, or resume the run here first"
        )
    kept = {"latest", "best", *catalog.read_ledger(run)["versions"]}
    if newest:
        kept.add(newest.metadata["version"])
    for collection in (trackers.VERSIONS, trackers.STATES):
        for artifact in tracker.listing(collection):
            about = artifact.metadata
            ours = {f"{run_id}-{about.get('version')}", "latest", artifact.version}
            # one that has an alias that is kept, or that somebody gave it by hand, stays
            if about.get("run_id") == run_id and {*artifact.aliases} <= ours - {f"{run_id}-{name}" for name in kept}:
                with trackers.blaming(tracker.name):
                    artifact.delete(delete_aliases=True)
                what = "state" if collection == trackers.STATES else about["version"]
                print(f"deleted {what} of update {about['step']} from {tracker.name}")
    return 0


if __name__ == "__main__":
    parser.run_script(main)
