"""Runs and versions on this disk and in a tracker, as a table."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import config
from checkpoints import catalog, scores
from checkpoints.environment import environment_lines
from checkpoints.run_folder import RunFolder
from checkpoints.scores import Score
from checkpoints.state import read_state
from cli import saved_options
from common.errors import UserError
from common.files import read_json
from common.terminal import printable
from diffusion.parts import LETTERING, TRAINABLE
from tracking import asking, trackers
from tracking.artifact_info import ArtifactInfo
from tracking.published import read_all_published

COLUMNS = ("version", "aliases", "update", "validation", "score", "size", "where")


@dataclass(frozen=True)
class ListedVersion:
    """One line of the listing."""

    name: str  # v0, v1, ...
    step: int  # optimizer updates
    validation_loss: float | None
    aliases: list[str]  # latest, best, or none
    where: list[str]  # disk, names of trackers ("(not asked)" if that is only a note); of v0 the pretrained model
    size: int | None  # bytes: on disk without hard links to frozen parts, in a tracker of all files; None if unknown
    scores: Mapping[str, Score]  # kind of features -> newest score, as in scores.json


def inherit_tracker(options: config.RunsOptions, given: Mapping[str, object]) -> config.RunsOptions:
    """The options, with the tracker that the run options.run_id was started with unless another was given."""
    if not options.run_id:
        return options
    saved = catalog.run_folder(options.output_dir, options.run_id).config
    return saved_options.inherit_tracker(config.RunsOptions, saved, given)


def print_listing(options: config.RunsOptions) -> int:
    """Print a block for each run, those on disk first; returns the exit status. UserError if there is no run."""
    tracker, found = ask(options)
    asked = tracker.location if tracker else None
    runs, problems = {}, []
    for run in catalog.list_runs(options.output_dir):
        if options.run_id in (None, run.name):
            try:
                runs[run.name] = versions_on_disk(run, asked)
            except UserError as problem:  # the other runs are listed all the same
                problems.append(problem)
    if problems and not runs:
        raise problems[0]
    for problem in problems:
        print(printable(f"warning: {problem}"), file=sys.stderr)
    for artifact, info in found:
        add_published(runs, artifact, info, tracker.name if tracker else "")
    chosen = [name for name in runs if options.run_id in (None, name)]
    if not chosen:
        what = f"run {options.run_id}" if options.run_id else "run"
        also = f" and in {config.tracker(options)}" if config.tracker(options) in config.STORES else ""
        project = " and --wandb_project say" if also else " says"
        raise UserError(f"there is no {what} in {options.output_dir}{also}: --output_dir{project} where to look")
    for name in chosen:
        folder = catalog.run_folder(options.output_dir, name)
        on_disk = folder.config.exists()
        print(printable(f"{name}  ({describe(folder) if on_disk else f'in {config.tracker(options)} alone'})"))
        table = scores.table([COLUMNS, *map(row, sorted(runs[name].values(), key=lambda version: version.step))])
        print(printable(table))
        if options.run_id:
            print_scores(runs[name])
            for line in environment_lines(folder) if on_disk else ():
                print(printable(f"trained {line}"))
    return 0


def ask(
    options: config.RunsOptions,
) -> tuple[trackers.Tracker | None, Sequence[tuple[trackers.Artifact, ArtifactInfo]]]:
    """(tracker, the versions that it has) of the project that the options name; (None, []), with a warning, if it
    can't be asked."""
    try:
        tracker = trackers.connect(options, options.run_id or "listing")
        return tracker, asking.list_versions(tracker)
    except UserError as problem:
        print(f"warning: {problem}; this lists what is on disk alone", file=sys.stderr)
        return None, []


def print_scores(versions: Mapping[str, ListedVersion]) -> None:
    """Print a table of all metrics for each kind of features: one column for each version scored with them."""
    versions = dict(sorted(versions.items(), key=lambda pair: pair[1].step))
    kinds = dict.fromkeys(kind for version in versions.values() for kind in version.scores)
    for kind in kinds:
        found = {name: version.scores[kind] for name, version in versions.items() if kind in version.scores}
        scored = {name: score for name, score in found.items() if score.values}
        if scored:
            print(scores.table(scores.rows({name: score.values for name, score in scored.items()})))
            different = scores.differences([score.settings for score in scored.values()])
            if different:
                print(f"  measured with different settings, so not comparable: {', '.join(different)}\n")


def versions_on_disk(run: RunFolder, asked: str | None) -> dict[str, ListedVersion]:
    """{name: version} of the versions that are in a run's folder or in its version index, v0 first.

    asked: location of the tracker that says itself what it has; what others were sent is only a note.
    """
    shared = {file.stat().st_ino for file in files_of(run.frozen)}
    found = scores.read_scores(run)
    pretrained = read_json(run.config).get("pretrained_model", "?")
    training_state, _ = read_state(run) if run.saved_steps() else (None, None)
    start_loss = training_state.start_loss if training_state else None
    versions = {"v0": ListedVersion("v0", 0, start_loss, [], [pretrained], None, found.get("v0", {}))}
    for home in (run.fetched, run):  # if both have a version, the run's own entry counts
        version_index, published = catalog.read_version_index(home), read_all_published(home)
        for name, entry in version_index.versions.items():
            saved = files_of(home.version(name))
            where = ["disk"] if saved else []
            notes = [at for at, has in published.items() if at != asked and has.versions.get(name) == entry.step]
            where += [f"{at.split()[0]} (not asked)" for at in notes]
            versions[name] = ListedVersion(
                name=name,
                step=entry.step,
                validation_loss=entry.validation_loss,
                aliases=version_index.aliases_of(name),
                where=list(dict.fromkeys(where)),
                size=sum(f.stat().st_size for f in saved if f.stat().st_ino not in shared) if saved else None,
                scores=found.get(name, {}),
            )
    return versions


def add_published(
    runs: dict[str, dict[str, ListedVersion]], artifact: trackers.Artifact, info: ArtifactInfo, tracker_name: str
) -> None:
    """Add to `runs` that a tracker has a version; nothing if there is another one of that name on this disk."""
    aliases = info.own_aliases(artifact.aliases)
    versions = runs.setdefault(info.run_id, {})
    if info.version not in aliases:
        return
    listed = versions.get(info.version)
    if listed is None:
        others = [alias for alias in aliases if alias != info.version]
        versions[info.version] = ListedVersion(
            info.version, info.step, info.validation_loss, others, [tracker_name], info.nbytes, {}
        )
    elif listed.step == info.step:
        listed.where.append(tracker_name)


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files under a folder; [] if there is no such folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def describe(run: RunFolder) -> str:
    """Which parts are trained, from which model, how far the run is, and how many bytes it takes on the disk."""
    options = read_json(run.config)
    training_state, _ = read_state(run) if run.saved_steps() else (None, None)
    parts = [part for part in TRAINABLE if options.get(f"train_{part}")]
    trained = " and ".join(parts)
    if rank := options.get("lora_rank"):
        trained = f"LoRA of rank {rank} in {' and '.join(part for part in parts if part != LETTERING)}"
        trained += f", {LETTERING} as a whole" if LETTERING in parts else ""
    at = f"update {training_state.step} of {training_state.total}" if training_state else "no training state here"
    sizes = {file.stat().st_ino: file.stat().st_size for file in files_of(run.path)}  # hard links count once
    return f"{trained} from {options.get('pretrained_model')}, {at}, {readable_size(sum(sizes.values()))} on disk"


def row(version: ListedVersion) -> tuple[str, ...]:
    """The texts of one line, in the order of COLUMNS."""
    loss = version.validation_loss
    distances = [
        f"{name} {score.distance:.2f} (n = {score.n})"
        for name, score in version.scores.items()
        if score.distance is not None
    ]
    return (
        version.name,
        ", ".join(sorted(version.aliases)),
        str(version.step),
        "" if loss is None else f"{loss:.5f}",
        "; ".join(distances),
        "" if version.size is None else readable_size(version.size),
        ", ".join(version.where),
    )


def readable_size(size: float) -> str:
    """Bytes as 4.0 KB, 3.4 GB, ..."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
