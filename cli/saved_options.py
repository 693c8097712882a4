"""Options in JSON files (a run's config.json, --config FILE.json), and options as a command line."""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
import shlex
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from cli.checks import Options, check, check_value
from common.errors import UserError
from common.files import read_json, write_json
from config import LORA_DEFAULTS, SCRIPTS, TrackingOptions, absolute_path, find_paths, is_gone, option_names

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from config import InferenceOptions, ReportOptions, TrainingOptions

# ---------------------------------------------------------------------------------------------------------------------
# JSON files


def known_fields() -> dict[str, dataclasses.Field[Any]]:
    """{name or alias: field} of the options of all scripts."""
    fields = [field for cls in SCRIPTS for field in dataclasses.fields(cls)]
    return {name: field for field in fields for name in (field.name, *field.metadata["aliases"])}


def read_options(path: pathlib.Path | str) -> dict[str, Any]:
    """{option: value} of a config.json or --config file. Names that begin with "_" are notes to the reader.

    UserError if the file can't be read, names an option that no script has, names one twice (by its alias, too), or has
    a value of the wrong type or out of bounds.
    """
    fields, values = known_fields(), {}
    for name, raw in read_json(path).items():
        if name.startswith("_"):
            continue
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            raise UserError(f"{path}: unknown option '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        field = fields[name]
        if field.name in values:
            raise UserError(f"{path}: {field.name} is given twice, also as {field.metadata['aliases'][0]}: remove one")
        values[field.name] = parse_value(field, raw, f"{path}: --{name}")
    return values


def parse_value(field: dataclasses.Field[Any], raw: Any, where: str) -> Any:
    """The value of an option from text or JSON. UserError says where the value comes from and what was expected."""
    try:
        return check_value(field, raw)
    except ValueError as problem:
        shown = repr(raw) if len(repr(raw)) <= 200 else f"{repr(raw)[:200]} ..."
        hidden = field.metadata["secret"] or "wandb_key" in shown  # a misplaced --wandb_key=KEY
        raise UserError(f"{where}: {problem}" + ("" if hidden else f", got {shown}")) from None


def select(cls: type[DataclassInstance], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options {name: value} that the class has."""
    return {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}


def inherit(
    cls: type[Options], path: pathlib.Path, given: Mapping[str, Any], names: Collection[str] | None = None
) -> Options:
    """Options of a run: those that the user has given win, then those in the run's config.json (`path`), then defaults.

    names: the options to take from the run; None = all that are saved. UserError if they can't be combined.
    """
    saved = find_paths(cls, read_options(path), path)
    saved = {name: value for name, value in saved.items() if names is None or name in names}
    return check(cls(**(select(cls, saved) | dict(given))))


def inherit_tracker(cls: type[Options], path: pathlib.Path, given: Mapping[str, Any]) -> Options:
    """The options that the user has given, and those of tracking from the run's config.json (`path`), if it exists."""
    tracking = {field.name for field in dataclasses.fields(TrackingOptions)}
    return inherit(cls, path, given, tracking) if path.exists() else check(cls(**given))


def refuse_changes(cls: type[DataclassInstance], path: pathlib.Path, given: Mapping[str, Any]) -> None:
    """UserError if a given option differs from the run's config.json (`path`) and may not change on resuming.

    A folder that is not where it was may be elsewhere.
    """
    saved = find_paths(cls, read_options(path), path)
    fixed = set(option_names(cls, "resume", "fixed")) & set(option_names(cls, "saved", True))
    for field in dataclasses.fields(cls):
        name, before = field.name, saved.get(field.name, field.default)
        if name not in given or name not in fixed or is_gone(field, before):
            continue
        if absolute_path(field, given[name]) != before:
            had = "none" if before is None else before
            raise UserError(
                f"--{name} {given[name]} would change the past of this run, which has {had}: "
                f"leave --{name} out to go on, or start a new run without --run_id"
            )


def require_same_options(path: pathlib.Path, options: Mapping[str, Any]) -> None:
    """Write the options {name: value} that a folder's results are made with to the JSON file `path` in it.

    UserError if that file exists with other values, for then the folder has results of something else.
    """
    before = read_json(path) if path.exists() else options
    for name, value in options.items():
        if before.get(name) != value:
            raise UserError(
                f"{path.parent} was made with --{name} {before.get(name)}, and now it is {value}: choose another "
                "folder, or remove this one"
            )
    write_json(path, options)


# ---------------------------------------------------------------------------------------------------------------------
# Command lines


def command(cls: type[DataclassInstance], values: Mapping[str, Any], always: Collection[str] = ()) -> str:
    """The command line that runs the script of `cls` with the options {name: value}.

    It has those that are not the default or are named in `always`, but none that is never saved. Folders in the user's
    home begin with ~, which is read as that: such commands stand in reports, which others read.
    """
    home = os.path.join(os.path.expanduser("~"), "")
    words = ["python", "-m", SCRIPTS[cls]]
    if values.get("lora_rank"):  # which sets them, too
        always = {*always, *LORA_DEFAULTS}
    for field in dataclasses.fields(cls):
        value = values.get(field.name, field.default)
        if field.metadata["saved"] and (value != field.default or field.name in always):
            in_home = field.metadata["path"] and str(value).startswith(home)
            words += [f"--{field.name}", f"~/{str(value)[len(home) :]}" if in_home else str(value)]
    return shlex.join(words)


def command_for_run(script: str, options: TrainingOptions | InferenceOptions | ReportOptions, run: pathlib.Path) -> str:
    """The command line that runs a script on an existing run. run: the run's folder."""
    return f"python -m {script} --output_dir {shlex.quote(options.output_dir)} --run_id {run.name}"
