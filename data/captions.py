"""Reads a folder of pictures with captions: a.jpg and, beside it, a.txt. Subfolders are read in the same way."""

from __future__ import annotations

import collections
import os
import pathlib
import re
import unicodedata

from data.book import normalize_whitespace
from data.csv_file import OTHER_FORMATS
from data.file_tree import FileTree
from data.pictures import Collection, Picture, quote

MAX_BYTES = 2**16  # of a caption file: hundreds of times what a text encoder reads
REPEATS = re.compile(r"[0-9]+_.*")  # kohya's name of a folder whose pictures count several times


def stem_of(path: str) -> str:
    """What a picture and its caption have in common: the path without its suffix, in one way of writing its letters."""
    stem = os.path.splitext(path)[0]
    return stem if stem.isascii() else unicodedata.normalize("NFC", stem)


def has_pairs(tree: FileTree) -> bool:
    """Whether any picture has a .txt file of its name beside it."""
    texts = set(map(stem_of, tree.texts))
    return any(stem_of(path) in texts for path in tree.pictures)


def read_captions(root: pathlib.Path, tree: FileTree) -> Collection:
    """The pictures of a folder with their captions. What is wrong with one picture becomes its `problem`."""
    texts, files = collections.defaultdict(list), collections.defaultdict(list)
    for path in tree.texts:
        texts[stem_of(path)].append(path)
    for path in tree.pictures:
        files[stem_of(path)].append(path)

    found, long = {}, []
    for stem, paths in files.items():
        captions = texts.get(stem, [])
        text, lines = "", 0
        if not captions:
            problem = "no caption: there is no .txt file of this name"
        elif len(paths) > 1 or len(captions) > 1:
            several = paths if len(paths) > 1 else captions
            what = "pictures for one caption" if several is paths else "captions for one picture"
            problem = f"several {what}: {', '.join(several)}; keep one, or rename it"
        else:
            text, lines, problem = read_caption(f"{root}/{captions[0]}")
        if lines > 1:
            long += captions
        found |= {path: Picture(path, text, problem) for path in paths}
    pictures = [found[path] for path in tree.pictures]
    orphans = [(path, "caption without a picture") for stem in texts.keys() - files for path in texts[stem]]
    return Collection(pictures, sorted(orphans), [*repeat_notes(tree), *line_notes(long)])


def read_caption(path: str) -> tuple[str, int, str]:
    """(caption on one line, number of lines with text, problem) of a .txt file; problem is '' if it can be used."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as problem:
        return "", 0, f"caption can't be read: {problem.strerror}"
    if len(data) > MAX_BYTES:
        return "", 0, f"caption too long: more than {MAX_BYTES // 1024} KiB"
    for mark, problem in OTHER_FORMATS.items():
        if data.startswith(mark):
            return "", 0, f"caption is not UTF-8: it {problem}"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "", 0, "caption is not UTF-8: save it as UTF-8"
    if "\0" in text:
        return "", 0, "caption is not UTF-8: it has NUL bytes"
    lines = [line for line in map(normalize_whitespace, text.splitlines()) if line]
    return " ".join(lines), len(lines), "" if lines else "empty caption"


def repeat_notes(tree: FileTree) -> list[str]:
    """The note that repeats are not read, if a folder's name asks for them."""
    folders = {part for path in tree.pictures for part in path.split("/")[:-1] if REPEATS.fullmatch(part)}
    if not folders:
        return []
    what = f"folders such as {quote(sorted(folders)[:1])}"
    return [f"{what} are read as plain folders: each picture counts once in an epoch, without repeats"]


def line_notes(paths: list[str]) -> list[str]:
    """The note that lines are joined, if captions have several."""
    return [f"captions of several lines are read as one line: {quote(paths)}"] if paths else []
