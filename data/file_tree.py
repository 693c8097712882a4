"""Lists a folder with all its subfolders: pictures, .txt files and metadata tables."""

from __future__ import annotations

import collections
import os
import pathlib
import stat
from dataclasses import dataclass, field

from common.errors import UserError
from data.image_files import SUFFIXES, UNREADABLE_SIZE, Stamp

TABLES = ("metadata.csv", "metadata.jsonl")  # as Hugging Face's ImageFolder calls them


@dataclass(frozen=True)
class FileTree:
    """What a folder holds. Each path is relative to it, with / between its parts, and sorted."""

    pictures: dict[str, Stamp] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)  # .txt
    tables: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)  # those of the pictures that are symbolic links
    folder_links: list[str] = field(default_factory=list)  # symbolic links to folders: they are not followed
    others: collections.Counter[str] = field(default_factory=collections.Counter)  # other files, by suffix


def list_tree(root: pathlib.Path, recursive: bool = True) -> FileTree:
    """Lists `root`; files and folders whose names begin with . or __ do not count. UserError if one can't be read."""
    found: dict[str, os.DirEntry[str]] = {}
    pending, folder_links = [""], []
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = folder + entry.name
                    if entry.name.startswith((".", "__")):
                        continue
                    if not entry.is_dir():
                        found[path] = entry
                    elif entry.is_symlink():
                        folder_links.append(path)
                    elif recursive:
                        pending.append(path + "/")
        except OSError as problem:
            raise UserError(f"can't read the folder {root / folder}: {problem.strerror}") from None

    tree = FileTree(folder_links=sorted(folder_links))
    for path in sorted(found):
        entry, lower = found[path], found[path].name.lower()
        if lower.endswith(SUFFIXES):
            if (stamp := stamp_of(entry)) is not None:
                tree.pictures[path] = stamp
                if entry.is_symlink():
                    tree.links.add(path)
        elif lower.endswith(".txt"):
            tree.texts.append(path)
        elif entry.name in TABLES:
            tree.tables.append(path)
        else:
            tree.others[os.path.splitext(lower)[1] or entry.name] += 1
    return tree


def stamp_of(entry: os.DirEntry[str]) -> Stamp | None:
    """The stamp of a file; None if it is something else than a file. Of a link to nowhere: reading it says what is
    wrong."""
    try:
        status = entry.stat()
    except OSError:
        return Stamp(UNREADABLE_SIZE, 0)
    return Stamp(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None
