"""Options -> the versions that the page shows side by side, one column each."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import config
from checkpoints import catalog
from checkpoints import scores as checkpoints_scores
from cli import checks
from common.errors import UserError
from generation.covers import covers_folder
from generation.version import choose_version


@dataclasses.dataclass
class Column:
    """A version on the page."""

    label: str  # how the page calls it: v1, or run:v1
    version: object  # gallery.Version
    options: config.InferenceOptions  # to draw with
    folder: pathlib.Path  # of its covers
    runs: list  # folders of the runs that have it: one, but for a v0 that several runs started from
    scores: dict  # {score's name: score}, see catalog.read_scores
    settings: dict = None  # gallery.settings_of, once its covers are there


# ---------------------------------------------------------------------------------------------------------------------
# Options -> columns


def find_columns(options, given):
    """The Columns that --run_id and --version ask for, in their order, each once. UserError if there is no such one."""

    found = {}  # source for models.load_parts -> (options, Version, runs)
    for run_id, name in wanted_versions(options):
        try:
            its_options, version = choose_version(*version_options(options, given, run_id, name))
        except UserError:
            if "version" in given or not lacks_version(options, run_id, name):
                raise
            continue
        entry = found.setdefault(version.source, (its_options, version, []))
        if version.run and version.run not in entry[2]:
            entry[2].append(version.run)
    if not found:
        raise UserError(f"nothing to show: --version {options.version} names no version")
    several = len({run for _, _, runs in found.values() for run in runs}) > 1
    starts = sum(version.name == "v0" for _, version, _ in found.values())
    columns = []
    for its_options, version, runs in found.values():
        prefixed = several and version.run and (version.name != "v0" or starts > 1)
        label = f"{version.run.name}:{version.name}" if prefixed else version.name
        home = covers_folder(its_options, version)
        if several and options.save_dir and version.run:
            home = home / version.run.name  # runs number their versions alike
        scores = [checkpoints_scores.read_scores(run).get(version.name, {}) for run in runs]
        columns.append(Column(label, version, its_options, home / version.name, runs, next(filter(None, scores), {})))
    return columns


def wanted_versions(options):
    """[(run's id or None, version)] that --run_id and --version ask for."""

    entries = checks.split_list(options.version)
    own = [re.fullmatch(rf"([^:/\\]+):({catalog.VERSION_NAME})", entry) for entry in entries]
    plain = [entry for entry, match in zip(entries, own, strict=True) if not match]
    run_ids = checks.split_list(options.run_id or "")
    if not run_ids and any(re.fullmatch(catalog.VERSION_NAME, entry) for entry in plain):
        run_ids = [catalog.find_run(options.output_dir, None).name]
    pairs = [(run_id, name) for run_id in run_ids for name in plain if re.fullmatch(catalog.VERSION_NAME, name)]
    pairs += [(None, name) for name in plain if not re.fullmatch(catalog.VERSION_NAME, name)]  # folders
    return pairs + [match.groups() for match in own if match]


def version_options(options, given, run_id, name):
    """(config.InferenceOptions, those of them that were given) for one version."""
    names = {field.name for field in dataclasses.fields(config.InferenceOptions)}
    given = {key: value for key, value in given.items() if key in names} | {"run_id": run_id, "version": name}
    return checks.check(config.InferenceOptions(**given)), given


def lacks_version(options, run_id, name):
    """Whether the run is there, and simply has no such version (yet)."""

    run = catalog.run_path(options.output_dir, run_id)
    return (run / "config.json").exists() and catalog.find_version(run, name)[1] is None


def require_comparable(columns):
    """UserError if the versions would be drawn for other books, from other prompts or latents, or in another way."""
    for name in config.option_names(config.InferenceOptions, "affects", "books", "drawing"):
        values = {column.label: getattr(column.options, name) for column in columns}
        if name == "data_root":
            values = {
                label: v if v == "demo" else pathlib.Path(v).expanduser().resolve() for label, v in values.items()
            }
        first, *_ = columns
        for label, value in values.items():
            if value != values[first.label]:
                raise UserError(
                    f"{first.label} has --{name} {values[first.label]} and {label} has {value}, so their covers can't "
                    f"stand side by side: give --{name}, and all are drawn with it (in a --save_dir of their own)"
                )
