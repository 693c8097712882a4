"""Options in JSON files (a run's config.json, --config) and back to command lines."""

from __future__ import annotations

import dataclasses
import difflib
import shlex

from cli.checks import check, check_value
from common.errors import UserError
from common.files import read_json, write_json
from config import SCRIPTS, TrackingOptions


def known_fields():
    """name -> field, over all scripts."""
    return {field.name: field for cls in SCRIPTS for field in dataclasses.fields(cls)}


def load_json(path):
    """Raw options of a --config or config.json file. UserError if it can't be read or has an unknown option."""
    raw = read_json(path)
    for name in raw.keys() - known_fields().keys():
        near = difflib.get_close_matches(name, known_fields(), n=1)
        raise UserError(f"{path}: unknown option '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    return raw


def checked(cls, raw, where):
    """{name: checked value} for those of the raw options that `cls` has. UserError names the option and `where`."""
    values = {}
    for field in dataclasses.fields(cls):
        if field.name in raw:
            try:
                values[field.name] = check_value(field, raw[field.name])
            except ValueError as problem:
                got = "" if "wandb_key" in f"{field.name} {raw[field.name]}" else f", got {raw[field.name]!r}"
                raise UserError(f"{where}--{field.name}: {problem}{got}") from None
    return values


def inherit(cls, saved_path, given, names=None):
    """Options of a run with `given` on top: what the user did not say comes from the run's config.json.

    names: the options to take from the run; None = all that are saved.
    """
    saved = {k: v for k, v in load_json(saved_path).items() if names is None or k in names}
    return check(cls(**(checked(cls, saved, f"{saved_path}: ") | given)))


def inherit_tracker(cls, saved_path, given):
    """The options that were given, and the tracker of the run, if it is on this disk."""
    tracking = {field.name for field in dataclasses.fields(TrackingOptions)}
    return inherit(cls, saved_path, given, tracking) if saved_path.exists() else check(cls(**given))


def refuse_changes(cls, saved_path, given):
    """UserError that names the first given option which would change what the run has already done."""
    saved = checked(cls, load_json(saved_path), f"{saved_path}: ")
    for field in dataclasses.fields(cls):
        name = field.name
        if name in given and field.metadata["resume"] == "fixed" and field.metadata["saved"]:
            was = saved.get(name, field.default)
            if given[name] != was:
                raise UserError(
                    f"--{name} {given[name]} would change the past of this run, which has {was}: "
                    f"leave --{name} out to go on, or start a new run without --run_id"
                )


def hold_to(path, asked):
    """Keep what a folder is made for, {option: value}, in the JSON file `path`. UserError if it was made for something
    else: what lies there would pass for what is asked for now."""
    before = read_json(path) if path.exists() else asked
    for name, value in asked.items():
        if before.get(name) != value:
            raise UserError(
                f"{path.parent} was made with --{name} {before.get(name)}, and now it is {value}: choose another "
                "folder, or remove this one"
            )
    write_json(path, asked)


def command(cls, values, always=()):
    """The command line that gives the script of `cls` these options {name: value}: those that are not the default, and
    those named in `always`; nothing that is never saved."""
    words = ["python", "-m", SCRIPTS[cls]]
    for field in dataclasses.fields(cls):
        value = values.get(field.name, field.default)
        if field.metadata["saved"] and (value != field.default or field.name in always):
            words += [f"--{field.name}", str(value)]
    return shlex.join(words)


def command_for_run(script, options, run):
    """The command line that has a script go on with a run. run: its folder."""
    return f"python -m {script} --output_dir {shlex.quote(options.output_dir)} --run_id {run.name}"
