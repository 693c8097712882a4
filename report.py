"""One HTML page that shows versions of one or several runs side by side: scores, covers, learning curves, commands.

It opens from disk, needs no network, and holds everything: nothing else has to be sent along.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re

import config
from cli import checks, parser
from common import files

ROOM = "free some space there or choose another --report_path"


def main(argv=None):
    """Draw the covers that are missing, then write the page."""
    from generation import covers as generation_covers
    from page import comparison, html

    given = parser.read_command_line(config.ReportOptions, argv)
    options = checks.check(config.ReportOptions(**given))
    path = pathlib.Path(options.report_path).expanduser()
    require_writable(path)
    parser.launch_on_gpus(options.num_gpus, __file__, argv)

    import accelerate

    import dataset

    # Everything that can be wrong comes before the long work
    columns = find_columns(options, given)
    require_comparable(columns)
    scores = comparison.pick({column.label: column.scores for column in columns})
    if not options.mixed and comparison.differences(scores):
        shown, _ = comparison.current(scores, weights_of(columns))
        comparison.require_alike(shown)
    state = accelerate.Accelerator().state
    with state.main_process_first():  # the first process builds the index, the others read it
        data = dataset.open_data(columns[0].options)
    books = data.books("test")[: columns[0].options.num_samples]

    for column in columns:
        column.settings = generation_covers.draw(column.options, column.version, column.folder, books, state)
    if state.is_main_process:
        text = html.make(columns, scores, data, books)
        files.write_text(path, text, ROOM)
        covers = f"{len(books)} books x {len(columns)} versions, and the real covers"
        size = len(text.encode())
        size = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} KB"
        print(f"wrote {path}: {covers}; {size}; open it in a browser")
    return 0


def require_writable(path):
    """UserError unless the page can be written at `path`; makes its folder."""
    if os.path.isdir(path):  # pathlib's raises where it can't look
        raise config.UserError(f"--report_path {path} is a folder: give the name of a file")
    trial = path.with_name(f".{path.name}.trial")
    files.write_text(trial, "", ROOM)
    trial.unlink(missing_ok=True)  # each process tries


def weights_of(columns):
    """{label: the hash of the weights that the version has now}. It reads every model whole."""
    from tqdm import tqdm

    from diffusion import pipeline

    shown = tqdm(columns, desc="scores differ; hashing weights", unit="version", delay=3, leave=False)
    return {column.label: pipeline.weights_hash(pipeline.load_parts(column.version.source)) for column in shown}


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
    from checkpoints import catalog
    from generation import covers

    found = {}  # source for models.load_parts -> (options, Version, runs)
    for run_id, name in wanted(options):
        try:
            its_options, version = covers.find(*version_options(options, given, run_id, name))
        except config.UserError:
            if "version" in given or not is_without(options, run_id, name):
                raise
            continue
        entry = found.setdefault(version.source, (its_options, version, []))
        if version.run and version.run not in entry[2]:
            entry[2].append(version.run)
    if not found:
        raise config.UserError(f"nothing to show: --version {options.version} names no version")
    several = len({run for _, _, runs in found.values() for run in runs}) > 1
    starts = sum(version.name == "v0" for _, version, _ in found.values())
    columns = []
    for its_options, version, runs in found.values():
        prefixed = several and version.run and (version.name != "v0" or starts > 1)
        label = f"{version.run.name}:{version.name}" if prefixed else version.name
        home = covers.home_of(its_options, version)
        if several and options.save_dir and version.run:
            home = home / version.run.name  # runs number their versions alike
        scores = [catalog.read_scores(run).get(version.name, {}) for run in runs]
        columns.append(Column(label, version, its_options, home / version.name, runs, next(filter(None, scores), {})))
    return columns


def wanted(options):
    """[(run's id or None, version)] that --run_id and --version ask for."""
    from checkpoints import catalog

    entries = config.words(options.version)
    own = [re.fullmatch(rf"([^:/\\]+):({catalog.NAMES})", entry) for entry in entries]
    plain = [entry for entry, match in zip(entries, own, strict=True) if not match]
    run_ids = config.words(options.run_id or "")
    if not run_ids and any(re.fullmatch(catalog.NAMES, entry) for entry in plain):
        run_ids = [catalog.find_run(options.output_dir, None).name]
    pairs = [(run_id, name) for run_id in run_ids for name in plain if re.fullmatch(catalog.NAMES, name)]
    pairs += [(None, name) for name in plain if not re.fullmatch(catalog.NAMES, name)]  # folders
    return pairs + [match.groups() for match in own if match]


def version_options(options, given, run_id, name):
    """(config.InferenceOptions, those of them that were given) for one version."""
    names = {field.name for field in dataclasses.fields(config.InferenceOptions)}
    given = {key: value for key, value in given.items() if key in names} | {"run_id": run_id, "version": name}
    return checks.check(config.InferenceOptions(**given)), given


def is_without(options, run_id, name):
    """Whether the run is there, and simply has no such version (yet)."""
    from checkpoints import catalog

    run = catalog.run_folder(options.output_dir, run_id)
    return (run / "config.json").exists() and catalog.find_version(run, name)[1] is None


def require_comparable(columns):
    """UserError if the versions would be drawn for other books, from other prompts or latents, or in another way."""
    data = {field.name for field in dataclasses.fields(config.DataOptions)} - {"cache_dir", "num_workers"}
    names = [*sorted(data), "seed", "steps", "guidance_scale", "scheduler"]
    for name in names:
        values = {column.label: getattr(column.options, name) for column in columns}
        if name == "data_root":
            values = {
                label: v if v == "demo" else pathlib.Path(v).expanduser().resolve() for label, v in values.items()
            }
        first, *_ = columns
        for label, value in values.items():
            if value != values[first.label]:
                raise config.UserError(
                    f"{first.label} has --{name} {values[first.label]} and {label} has {value}, so their covers can't "
                    f"stand side by side: give --{name}, and all are drawn with it (in a --save_dir of their own)"
                )


if __name__ == "__main__":
    parser.run_script(main)
