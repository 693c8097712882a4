"""Finds the versions that the page shows side by side, one column each."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import config
from checkpoints import catalog
from checkpoints.run_folder import RunFolder
from checkpoints.scores import Score, read_scores
from cli import checks
from common.errors import UserError
from generation.covers import covers_folder
from generation.glyph_pages import require_lettering
from generation.settings import DrawingSettings
from generation.version import Version, choose_version, require_drawable


@dataclasses.dataclass
class Column:
    """A version on the page."""

    label: str  # its name on the page: v1, or run:v1
    version: Version
    options: config.InferenceOptions  # to draw with
    folder: pathlib.Path  # of its covers
    runs: list[RunFolder]  # the runs that have it: one, except for a v0 that several runs started from
    scores: dict[str, Score]  # {its name: score}, see checkpoints.scores.read_scores
    settings: DrawingSettings | None = None  # of its covers, once they are drawn


def find_columns(options: config.ReportOptions, given: Mapping[str, Any]) -> list[Column]:
    """The columns that --run_id and --version name, in that order, without duplicates.

    given: the options on the command line. UserError if a run or version does not exist.
    """
    found = {}  # source for diffusion.pipeline.load_parts -> (options, Version, runs)
    for run_id, name in requested_versions(options):
        try:
            chosen, version = choose_version(*inference_options(given, run_id, name))
        except UserError:
            if "version" in given or not lacks_version(options, run_id, name):
                raise
            continue
        require_drawable(chosen, version)
        entry = found.setdefault(version.source, (chosen, version, []))
        if version.run and version.run not in entry[2]:
            entry[2].append(version.run)
    if not found:
        raise UserError(f"nothing to show: --version {options.version} names no version")
    require_lettering(next(iter(found.values()))[0], [version for _, version, _ in found.values()])
    several = len({run for _, _, runs in found.values() for run in runs}) > 1
    starts = sum(version.name == "v0" for _, version, _ in found.values())
    columns = []
    for chosen, version, runs in found.values():
        prefixed = several and version.run and (version.name != "v0" or starts > 1)
        label = f"{version.run.name}:{version.name}" if prefixed else version.name
        home = covers_folder(chosen, version)
        if several and options.save_dir and version.run:
            home = home / version.run.name  # runs number their versions alike
        scores = [read_scores(run).get(version.name, {}) for run in runs]
        columns.append(Column(label, version, chosen, home / version.name, runs, next(filter(None, scores), {})))
    return columns


def requested_versions(options: config.ReportOptions) -> list[tuple[str | None, str]]:
    """[(run id, version)] that --run_id and --version name; for a folder as version the run id is None."""
    entries = checks.split_list(options.version)
    own = [re.fullmatch(rf"([^:/\\]+):({catalog.VERSION_NAME})", entry) for entry in entries]
    plain = [entry for entry, match in zip(entries, own, strict=True) if not match]
    run_ids = checks.split_list(options.run_id or "")
    if not run_ids and any(re.fullmatch(catalog.VERSION_NAME, entry) for entry in plain):
        run_ids = [catalog.find_run(options.output_dir, None).name]
    pairs = [(run_id, name) for run_id in run_ids for name in plain if re.fullmatch(catalog.VERSION_NAME, name)]
    pairs += [(None, name) for name in plain if not re.fullmatch(catalog.VERSION_NAME, name)]  # folders
    return pairs + [match.groups() for match in own if match]


def inference_options(
    given: Mapping[str, Any], run_id: str | None, name: str
) -> tuple[config.InferenceOptions, dict[str, Any]]:
    """(the options to draw one version with, those of them that were given)."""
    names = {field.name for field in dataclasses.fields(config.InferenceOptions)}
    given = {key: value for key, value in given.items() if key in names} | {"run_id": run_id, "version": name}
    return checks.check(config.InferenceOptions(**given)), given


def lacks_version(options: config.ReportOptions, run_id: str | None, name: str) -> bool:
    """Whether the run exists and has no such version (yet)."""
    run = catalog.run_folder(options.output_dir, run_id)
    return run.config.exists() and catalog.find_version(run, name)[1] is None


def require_comparable(columns: Sequence[Column]) -> None:
    """UserError if the versions would be drawn for different books or with different prompts, latents or settings."""
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
