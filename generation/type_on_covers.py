"""Typeset pictures as files: python -m typeset on one or a folder of them, and sd_inference --typeset on drawn covers.

A PNG file written here says so in a text chunk, with all that it was made from: it is replaced without asking, and not
made again if nothing has changed.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image
from tqdm import tqdm

import config
from common.errors import UserError
from common.hashing import file_sha256
from common.png import PNG_ERRORS, save_png
from data.book import Book
from data.csv_file import read_csv
from data.images import decode_image
from typesetting.cover import WEIGHT, enlarge, set_type
from typesetting.faces import Face, can_shape, clean, find_face, require_settable

if TYPE_CHECKING:
    import torch

CHUNK = "typeset"  # name of the text chunk
VERSION = 1  # raise it when the same inputs give other pixels
COLUMNS = ("file", "title", "author")
FOLDER = "typeset"  # in a folder of covers
HINT = "free some space or choose another --out"


@dataclass(frozen=True)
class Job:
    """A picture to set type on."""

    picture: pathlib.Path
    title: str
    author: str
    target: pathlib.Path
    source: str  # what messages begin with: where this job was asked for

    def check(self, face: Face, overwrite: bool) -> None:
        """UserError if it can't be done: before any picture is written."""
        if not self.picture.is_file():
            raise UserError(f"{self.source}there is no picture {self.picture}")
        if self.target.exists():
            if self.target.resolve() == self.picture.resolve():
                raise UserError(f"{self.source}{self.target} is the picture itself: choose another --out")
            if not overwrite and record_in(self.target) is None:
                raise UserError(
                    f"{self.source}{self.target} exists and was not made by this script: give --overwrite True, or "
                    "choose another --out"
                )
        try:
            require_texts(self.title, self.author, face)
        except UserError as problem:
            raise UserError(f"{self.source}{problem}") from None


def require_texts(title: str, author: str, face: Face) -> None:
    """UserError unless the face can set this title, and this author (may be empty)."""
    if not clean(title, face):
        raise UserError("there is no title")
    require_settable(clean(title, face), face, "the title")
    require_settable(clean(author, face).upper(), face, "the author")


def typeset(options: config.TypesetOptions) -> None:
    """python -m typeset: sets type on --picture, or on the pictures of a folder that --books lists.

    UserError before anything is written if a title can't be set, a picture is missing, or a file would be overwritten
    that was not made here.
    """
    face = find_face(options.typeset_font, WEIGHT)
    path = pathlib.Path(options.picture or "").expanduser()
    out = pathlib.Path(options.out).expanduser() if options.out else None
    if options.books:
        jobs = listed_jobs(path, pathlib.Path(options.books).expanduser(), out)
    else:
        if path.is_dir():
            raise UserError(f"{path} is a folder: list its pictures with their titles in --books FILE.csv")
        target = out if out and out.suffix.lower() == ".png" else (out or path.parent) / target_name(path)
        jobs = [Job(path, options.title or "", options.author or "", target, "")]
    for job in jobs:
        job.check(face, options.overwrite)
    contrasts, veils = [], 0
    with tqdm(jobs, desc="setting type", unit="cover", disable=len(jobs) == 1) as bar:
        for job in bar:
            try:
                record = run_job(job, face, options)
            except UserError as problem:
                raise UserError(f"{job.source}{job.picture}: {problem}") from None
            contrasts.append(record["contrast"])
            veils += record["veil"] > 0
    if len(jobs) == 1:
        print(f"{jobs[0].target}: contrast {contrasts[0]:.1f}:1, {'with a' if veils else 'no'} veil")
    else:
        print(f"{len(jobs)} pictures in {out or path}: contrast at least {min(contrasts):.1f}:1, {veils} with a veil")


def target_name(picture: pathlib.Path) -> str:
    """NAME.typeset.png for NAME.jpg."""
    return f"{picture.stem}.typeset.png"


def listed_jobs(folder: pathlib.Path, table: pathlib.Path, out: pathlib.Path | None) -> list[Job]:
    """The jobs of a CSV file with the columns file, title, author. UserError names the line that can't be used."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: --books is for a folder; for one picture give --title")
    content = read_csv(table)
    if lacking := [name for name in COLUMNS if name not in content.header]:
        raise UserError(f"{table} has no column {lacking[0]}: its first line must be {','.join(COLUMNS)}")
    if not content.rows:
        raise UserError(f"{table} lists no pictures: each line must have {', '.join(COLUMNS)}")
    jobs, lines = [], {}
    for row in content.rows:
        source = f"{table}, line {row.line}: "
        if row.damage:
            raise UserError(f"{source}{row.damage}: a text with commas must be in quotes")
        file, title, author = (row.cells[content.header.index(name)].strip() for name in COLUMNS)
        path = pathlib.Path(file)
        if not file or path.is_absolute() or ".." in path.parts:
            raise UserError(f"{source}{file!r} must be the name of a picture in {folder}")
        if not title:
            raise UserError(f"{source}there is no title")
        target = (out or folder) / path.parent / target_name(path)
        if target in lines:
            raise UserError(f"{source}{target} would be written twice, also for line {lines[target]}")
        lines[target] = row.line
        jobs.append(Job(folder / path, title, author, target, source))
    return jobs


def require_font(options: config.InferenceOptions) -> None:
    """UserError if --typeset will need a font that can't be used, or one that can't set the --title of a prompt:
    before anything is drawn."""
    if options.typeset:
        face = find_face(options.typeset_font, WEIGHT)
        if options.title:
            require_texts(options.title, options.author or "", face)


def require_titles(options: config.InferenceOptions, books: Sequence[Book]) -> None:
    """UserError if --typeset True is given, and none of the books has a title."""
    if options.typeset and not any(book.title for book in books):
        raise UserError(
            f"--typeset True needs titles, and {options.data_root} has captions alone: leave it out; python -m typeset "
            "PICTURE --title TITLE sets type on a picture afterwards"
        )


def typeset_covers(options: config.InferenceOptions, folder: pathlib.Path, books: Mapping[str, Book]) -> None:
    """sd_inference --typeset: sets type on <folder>/<name>, as <folder>/typeset/<name>, for {name: book}.

    Covers that are there already are not made again. What can't be set is left out, with a warning.
    """
    face = find_face(options.typeset_font, WEIGHT)
    problems = []
    for name, book in tqdm(books.items(), desc=f"setting type on {folder.name}", unit="cover"):
        job = Job(folder / name, book.title, byline(book.authors), folder / FOLDER / name, "")
        try:
            job.check(face, overwrite=False)
            run_job(job, face, options)
        except (UserError, OSError) as problem:
            problems.append(f"{name}: {problem}")
    print(f"type on {len(books) - len(problems)} covers in {folder / FOLDER}")
    if problems:
        print(f"warning: {len(problems)} covers got no type: {'; '.join(problems[:3])}", file=sys.stderr)


def typeset_cells(
    options: config.InferenceOptions, folder: pathlib.Path, books: Sequence[Book], images: torch.Tensor
) -> None:
    """sd_inference --typeset for a grid: its cells in full size, <folder>/<row>_<template, from 1>.png, and with type.

    images: uint8 (books x templates, H, W, 3) on the CPU, a book's templates one after the other.
    """
    templates = len(images) // len(books)
    names = {f"{book.row}_{k + 1}.png": book for book in books for k in range(templates)}
    for name, image in zip(names, images, strict=True):
        save_png(folder / name, image)
    typeset_covers(options, folder, names)


def byline(authors: Sequence[str]) -> str:
    """The authors as a cover names them: up to three, with more the first "and others"."""
    if len(authors) > 3:
        return f"{authors[0]} and others"
    return " & ".join([", ".join(authors[:-1]), authors[-1]] if len(authors) > 1 else authors)


def run_job(job: Job, face: Face, options: config.TypeOptions) -> dict:
    """Writes the typeset picture, unless it is there already; returns its record.

    UserError: see decode_image, enlarge and set_type.
    """
    inputs = {
        "version": VERSION,
        "picture": file_sha256(job.picture),
        "title": job.title,
        "author": job.author,
        "font": [file_sha256(pathlib.Path(face.path)), face.weight],
        "width": options.typeset_width,
        "place": options.typeset_place,
        "shaped": can_shape(),
    }
    known = record_in(job.target) or {}
    if known.get("inputs") == inputs:
        return known
    picture = enlarge(decode_image(job.picture.read_bytes()), options.typeset_width)
    picture, done = set_type(picture, job.title, job.author, face, options.typeset_place)
    record = {"contrast": round(done.contrast, 2), "veil": done.veil, "place": done.place, "inputs": inputs}
    save_png(job.target, picture, HINT, **{CHUNK: json.dumps(record)})
    return record


def record_in(path: pathlib.Path) -> dict | None:
    """What a typeset picture says it was made from; None if it was not made here."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            record = json.loads(image.info[CHUNK])
    except (*PNG_ERRORS, KeyError):
        return None
    return record if isinstance(record, dict) and {"contrast", "veil", "inputs"} <= record.keys() else None
