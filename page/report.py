"""Writes the report: finds the versions, draws their missing covers, renders the page."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

import config
from checkpoints.environment import read_environments
from common.errors import UserError
from common.files import write_text
from common.processes import make_accelerator
from data.folder import open_data
from diffusion import pipeline, weights
from generation.covers import draw_covers
from page import comparison, html
from page.columns import Column, find_columns, require_comparable

FREE_SPACE_HINT = "free some space there or choose another --report_path"


def write_report(options: config.ReportOptions, given: Mapping[str, Any]) -> None:
    """Draws the missing covers, then writes the page to options.report_path.

    given: the options on the command line. UserError for whatever is wrong, before anything is drawn.
    """
    path = pathlib.Path(options.report_path).expanduser()
    columns = find_columns(options, given)
    require_comparable(columns)
    for run in {run for column in columns for run in column.runs}:
        read_environments(run)  # damage is reported before the long work
    scores = comparison.choose_scores({column.label: column.scores for column in columns})
    if not options.mixed and comparison.differences(scores):
        shown, _ = comparison.split_stale(scores, weight_hashes(columns))
        comparison.require_same_settings(shown)
    state = make_accelerator().state
    with state.main_process_first():  # the first process builds the index, the others read it
        data = open_data(columns[0].options)
    books = data.books("test")[: columns[0].options.num_samples]

    for column in columns:
        column.settings = draw_covers(column.options, column.version, column.folder, books, state)
    if state.is_main_process:
        text = html.render_page(columns, scores, data, books)
        write_text(path, text, FREE_SPACE_HINT)
        covers = f"{len(books)} rows x {len(columns)} versions, and the real covers"
        size = len(text.encode())
        size = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} KB"
        print(f"wrote {path}: {covers}; {size}; open it in a browser")


def require_writable(report_path: str) -> None:
    """UserError unless the page can be written at --report_path. Makes its folder."""
    path = pathlib.Path(report_path).expanduser()
    if os.path.isdir(path):  # pathlib's raises where it has no permission
        raise UserError(f"--report_path {path} is a folder: give the name of a file")
    trial = path.with_name(f".{path.name}.trial")
    write_text(trial, "", FREE_SPACE_HINT)
    trial.unlink(missing_ok=True)  # each process tries


def weight_hashes(columns: Sequence[Column]) -> dict[str, str]:
    """{label: hash of the version's present weights}. Reads each model completely."""
    load = functools.partial(pipeline.load_parts, prediction_type="epsilon")  # whatever it is: it is in no weight
    shown = tqdm(columns, desc="scores differ; hashing weights", unit="version", delay=3, leave=False)
    return {column.label: weights.weights_hash(load(column.version.source)) for column in shown}
