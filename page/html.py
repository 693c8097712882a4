"""Renders the page as one self-contained HTML file: images, style sheet and script are embedded.

Titles, prompts and names are untrusted data. They enter the page through jinja2's autoescape, or as JSON that the
script only shows as text; and the page's Content-Security-Policy allows no script but the one whose hash it names.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import hashlib
import io
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from PIL import Image
from tqdm import tqdm

import config
from checkpoints import catalog, metrics_log
from checkpoints.environment import environment_lines
from checkpoints.run_folder import RunFolder
from checkpoints.scores import Score
from cli import saved_options
from common.files import read_json
from common.png import read_png
from data.book import Book
from data.folder import Data
from data.images import read_cover
from data.layout import GOODREADS
from generation import type_on_covers
from generation.settings import SETTINGS, read_settings
from page import comparison
from page.charts import draw_charts, points_of
from page.columns import Column

TEMPLATES = pathlib.Path(__file__).parent / "templates"
QUALITY = 90  # of WebP, up to 100
TYPESET_WIDTH = 640  # pixels that covers with type are reduced to
SMALL = 256 * 256  # pixels; images of at most this size are embedded losslessly
MAX_GENRES = 8  # genres that are listed by name


def render_page(columns: Sequence[Column], scores: Mapping[str, Score], data: Data, books: Sequence[Book]) -> str:
    """The page as HTML text.

    columns: with their settings, and covers drawn; scores: {label: score}, see page.comparison.choose_scores; books:
    whose covers are shown. UserError names a cover that can't be read.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    width, height = config.size(columns[0].options)
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    style = f":root {{ --columns: {len(columns) + 1}; --ratio: {width / height:.4f}; }}\n{style}"
    runs = list(dict.fromkeys(run for column in columns for run in column.runs))
    rows = picture_rows(columns, books)
    return environment.get_template("report.html").render(
        style=style,
        style_hash=csp_hash(style),
        script=script,
        script_hash=csp_hash(script),
        labels=[column.label for column in columns],
        runs=[run_facts(run, columns) for run in runs],
        strangers=[version_facts(column, None) for column in columns if not column.runs],
        data=data_facts(data),
        drawn=drawing_facts(columns[0].options),
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        scores=score_facts(columns, scores),
        rows=rows,
        viewer=viewer_data(rows),
        charts=curve_facts(runs, columns),
        pictures="lossless WebP" if width * height <= SMALL else f"WebP at quality {QUALITY}",
        pixelated=width < 192,
    )


def csp_hash(text: str) -> str:
    """SHA-256 of an inline script or style in the notation of Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# ---------------------------------------------------------------------------------------------------------------------
# Images


def picture_rows(columns: Sequence[Column], books: Sequence[Book]) -> list[dict[str, Any]]:
    """For each book: title, by, prompt, row, and lines of cells with label, src, alt, prompt, about.

    The first line has the real cover and what each version drew; with --typeset there is a second, the same with type.
    """
    prompts = {column.label: read_settings(column.folder / SETTINGS)[1] for column in columns}
    drawn = {column.label: drawing_facts(column.options) + letter_facts(column) for column in columns}
    rows = []
    with tqdm(total=len(books) * (len(columns) + 1), desc="embedding pictures", unit="cover", delay=2) as bar:
        for book in books:
            size = config.size(columns[0].options)
            about = f"{book.name} of the data folder, resized to {size[0]}x{size[1]}"
            cells = [cell("real", read_cover(book.image, size), f"Real cover of {book.heading}", "", about)]
            bar.update()
            for column in columns:
                pixels = read_png(column.folder / f"{book.row}.png")
                alt = f"Cover of {book.heading}, drawn by {column.label}"
                about = f"{book.name}, {drawn[column.label]}"
                cells.append(cell(column.label, pixels, alt, prompts[column.label][str(book.row)], about))
                bar.update()
            lines = [cells]
            if columns[0].options.typeset:
                typed = [typeset_cell(column, book, plain) for column, plain in zip(columns, cells[1:], strict=True)]
                lines.append([cells[0], *typed])
            by = ", ".join(book.authors)
            rows.append(dict(title=book.heading, by=by, prompt=cells[1]["prompt"], row=book.row, lines=lines))
    return rows


def typeset_cell(column: Column, book: Book, plain: dict[str, str]) -> dict[str, str]:
    """The cell of a cover with type, reduced to TYPESET_WIDTH; `plain`, its cell without, where none could be set."""
    path = column.folder / type_on_covers.FOLDER / f"{book.row}.png"
    if not path.exists():
        return plain | dict(about=f"{plain['about']}; no type could be set on it")
    picture = Image.fromarray(read_png(path))
    if picture.width > TYPESET_WIDTH:
        height = round(picture.height * TYPESET_WIDTH / picture.width)
        picture = picture.resize((TYPESET_WIDTH, height), Image.Resampling.LANCZOS)
    label, alt = f"{column.label}, typeset", f"{plain['alt']}, with its title and author as type"
    about = f"{plain['about']}; title and author set as type, the file is {path}"
    return cell(label, np.asarray(picture), alt, plain["prompt"], about)


def viewer_data(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The texts that the script shows beside an enlarged image, for each line of cells."""
    texts = ("label", "prompt", "about")
    return [
        dict(title=row["title"], cells=[{text: cell[text] for text in texts} for cell in line])
        for row in rows
        for line in row["lines"]
    ]


def cell(label: str, pixels: np.ndarray, alt: str, prompt: str, about: str) -> dict[str, str]:
    """The template's values for one image, uint8 (H, W, 3)."""
    return dict(label=label, src=picture_uri(pixels), alt=alt, prompt=prompt, about=about)


def picture_uri(pixels: np.ndarray) -> str:
    """An image uint8 (H, W, 3) as a data: URI. WebP, a fifth the size of PNG; small images are lossless."""
    file = io.BytesIO()
    lossless = pixels.shape[0] * pixels.shape[1] <= SMALL
    Image.fromarray(pixels).save(file, "WEBP", quality=QUALITY, lossless=lossless, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def drawing_facts(options: config.InferenceOptions) -> str:
    """How images are drawn, in words."""
    return (
        f"seed {options.seed}, {options.steps} steps of {options.scheduler}, guidance {options.guidance_scale:g}, "
        f"{options.resolution}" + (f", negative prompt {options.negative_prompt!r}" if options.negative_prompt else "")
    )


def letter_facts(column: Column) -> str:
    """Whether a version draws letters from glyph pages, in words; '' if it does not."""
    layout = column.settings and column.settings.layout
    return f", letters of title and author by layout {layout[:15]}" if layout else ""


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def data_facts(data: Data) -> list[tuple[str, int, str]]:
    """[(label, number, note)] about the data folder."""
    genres = collections.Counter(genre for book in data.kept for genre in book.genres)
    named = data.layout == GOODREADS or bool(genres)  # most captions come without
    common = ", ".join(f"{genre} {count}" for genre, count in genres.most_common(MAX_GENRES))
    more = len(genres) - MAX_GENRES
    why = collections.Counter(row.kind for row in data.dropped).most_common()
    return [
        ("training split", len(data.books("train")), ""),
        ("held out", len(data.books("test")), data.split_rule),
        ("left out", len(data.dropped), ", ".join(f"{kind} {count}" for kind, count in why)),
        *([("genres", len(genres), common + (f", and {more} more" if more > 0 else ""))] if named else []),
    ]


def score_facts(columns: Sequence[Column], scores: Mapping[str, Score]) -> dict[str, Any]:
    """The score table, its notes, and the versions without a score with the command that scores each.

    scores: {label: Score}, see comparison.choose_scores.
    """
    labels = [column.label for column in columns]
    scores, stale = comparison.split_stale(scores, {column.label: column.settings.weights for column in columns})
    base, rows = comparison.table(scores, labels)
    skipped, notes = comparison.remarks(scores)
    like = next(iter(scores.values()), None)
    missing = [
        dict(label=c.label, command=score_command(c, like), stale=c.label in stale)
        for c in columns
        if c.label not in scores
    ]
    return dict(
        base=base,
        rows=rows,
        names=sorted({score.name for score in scores.values()}),
        mixed=comparison.describe(comparison.differences(scores)),
        missing=missing,
        skipped=skipped,
        notes=notes,
    )


def curve_facts(runs: Sequence[RunFolder], columns: Sequence[Column]) -> list[tuple[str, str, str]]:
    """[(title, note, SVG)]: the runs' learning curves with the versions of the page marked."""
    metrics = {run.name: metrics_log.read_metrics(run.metrics) for run in runs}
    marks = [(c.label, catalog.version_entry(c.runs[0], c.version.name).step) for c in columns if c.runs]
    charts = draw_charts(metrics, [mark for mark in marks if mark[1]])
    covers_of = {run.name: read_json(run.config).get("validation_rows") for run in runs}
    if len(set(covers_of.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in covers_of.items())
        warning = f" The runs validate on different numbers of covers ({counts}): compare slopes, not heights."
        charts = [(title, note + warning * title.startswith("Validation"), svg) for title, note, svg in charts]
    return charts


# ---------------------------------------------------------------------------------------------------------------------
# Runs and versions


def run_facts(run: RunFolder, columns: Sequence[Column]) -> dict[str, Any]:
    """How a run was trained, and its versions on this page."""
    saved = read_json(run.config)
    return dict(
        name=run.name,
        command=saved_options.command(config.TrainingOptions, saved),
        settings=sorted((name, "none" if value is None else value) for name, value in saved.items()),
        environments=environment_lines(run),
        versions=[version_facts(column, run) for column in columns if run in column.runs],
    )


def version_facts(column: Column, run: RunFolder | None) -> dict[str, Any]:
    """A version's step, validation loss, aliases, weights and source, and the command that draws with it."""
    facts = dict(label=column.label, weights=column.settings.weights, folder=str(column.folder), aliases="")
    facts |= dict(step=0, validation_loss=None, source=column.version.source, precision=column.settings.precision)
    if run:
        about = catalog.version_entry(run, column.version.name)
        _, home = catalog.find_version(run, column.version.name)
        aliases = catalog.read_version_index(home).aliases_of(column.version.name) if home else []
        facts |= dict(step=about.step, validation_loss=about.validation_loss, aliases=", ".join(sorted(aliases)))
        if column.version.name == "v0":
            start = [line for line in metrics_log.read_metrics(run.metrics) if line["step"] == 0]
            losses = points_of(start, "validation_loss")
            facts["validation_loss"] = losses[0][1] if losses else None
    facts["command"] = shlex.join(drawing_words(column))
    return facts


def drawing_words(column: Column) -> list[str]:
    """The words of the command that draws the grid with a version, with the settings of this page."""
    options, run = column.options, column.version.run
    words = ["python", "-m", "sd_inference", "--version", column.version.name if run else column.version.source]
    if run:
        words += ["--output_dir", options.output_dir, "--run_id", run.name]
    elif column.version.name == "v0":
        words = [*words[:-1], "v0", "--pretrained_model", column.version.source]
    defaults = {field.name: field.default for field in dataclasses.fields(config.InferenceOptions)}
    inherited = config.option_names(config.InferenceOptions, "inherited", True)
    saved = read_json(run.config) if run else {}
    fields = [field for group in (config.DataOptions, config.DrawingOptions) for field in dataclasses.fields(group)]
    names = [*(field.name for field in fields), "seed", "mixed_precision"]
    if column.settings and column.settings.layout:
        names.append("layout")
    for name in names:
        value = getattr(options, name)
        if value != (saved[name] if name in inherited and name in saved else defaults[name]):
            words += [f"--{name}", str(value)]
    return [*words, "--save_dir", str(column.folder.parent)]


def score_command(column: Column, like: Score | None) -> str:
    """The command that scores a version. like: the Score of another version, to score with its settings, or None."""
    words = [*drawing_words(column), "--calc_fid", "True"]
    if like:
        words += ["--num_imgs", str(like.n)]
        for field in dataclasses.fields(config.FidOptions):
            value = like.settings.get(field.name, field.default)
            if value != field.default:
                words += [f"--{field.name}", str(value)]
    return shlex.join(words)
