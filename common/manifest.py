"""sha256.json of a folder, its manifest: size and SHA-256 of each file in it, by which damage on the disk is noticed.

    {"unet/config.json": {"sha256": "9f86d0...", "bytes": 1743}, ...}

Files that it does not list don't matter. A folder without one, as from older releases, is used unchecked.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from common.errors import UserError
from common.files import read_json, write_json
from common.hashing import file_sha256

MANIFEST = "sha256.json"  # a name that no model from elsewhere has
BAR_DELAY = 2.0  # seconds of checking before a progress bar appears


@dataclass(frozen=True)
class FileHash:
    """What a manifest says of one file."""

    sha256: str  # 64 hexadecimal digits
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "bytes": self.nbytes}

    @classmethod
    def from_json(cls, value: Any) -> FileHash:
        """ValueError for any other shape."""
        if not (isinstance(value, dict) and isinstance(value.get("bytes"), int)):
            raise ValueError("no size")
        if not re.fullmatch("[0-9a-f]{64}", str(value.get("sha256"))):
            raise ValueError("no SHA-256")
        return cls(value["sha256"], value["bytes"])


Manifest = Mapping[str, FileHash]  # path relative to the folder, parts joined by '/' -> what its file is


def write_manifest(folder: Path, known: Manifest = MappingProxyType({})) -> None:
    """Write the manifest of all files in a folder. known: of files whose hash is known already, as of hard links."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    paths.pop(MANIFEST, None)
    hashes = hash_files([path for name, path in paths.items() if name not in known])
    files = {name: known.get(name) or FileHash(hashes[path], path.stat().st_size) for name, path in paths.items()}
    write_json(folder / MANIFEST, {name: file.to_json() for name, file in files.items()})


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it has none. UserError if it is damaged."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        files = {name: FileHash.from_json(value) for name, value in read_json(path).items()}
    except ValueError as problem:
        raise UserError(f"{path} is damaged ({problem})") from None
    for name in files:
        if {"", ".", ".."} & {*name.split("/")} or "\\" in name or "\0" in name:  # the folder may come from elsewhere
            raise UserError(f"{path} is damaged ({name!r} is no file of this folder)")
    return files


def find_damage(folders: Iterable[Path], contents: bool = True) -> dict[Path, str]:
    """{file: what is wrong with it} for the files in these folders that are not as the folders' manifests say.

    contents: False compares names and sizes alone, which takes no time.
    """
    expected: dict[Path, FileHash] = {}
    damage: dict[Path, str] = {}
    for folder in folders:
        try:
            expected |= {folder / name: file for name, file in (read_manifest(folder) or {}).items()}
        except UserError:
            damage[folder / MANIFEST] = "is damaged"
    for path, file in expected.items():
        try:
            size = path.stat().st_size
        except OSError:
            damage[path] = "is missing"
        else:
            if size != file.nbytes:
                damage[path] = f"has {size} bytes instead of {file.nbytes}"
    if contents:
        for path, sha256 in hash_files([path for path in expected if path not in damage]).items():
            if sha256 != expected[path].sha256:
                damage[path] = "is not what was saved (its SHA-256 differs)" if sha256 else "can't be read"
    return damage


def require_intact(folder: Path, remedy: str) -> None:
    """UserError, with the remedy, if a file in the folder's manifest is missing or damaged."""
    for path, problem in find_damage([folder]).items():
        raise UserError(f"{path} {problem}: {remedy}")


def hash_files(paths: Sequence[Path]) -> dict[Path, str]:
    """{path: SHA-256 in hex, '' if it can't be read}. Hard links are read once; long work shows a progress bar."""
    inodes, sizes = {}, {}
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            inodes[path], sizes[path] = (status.st_dev, status.st_ino), status.st_size
    first = {inode: path for path, inode in reversed(inodes.items())}  # a path for each inode
    total = sum(sizes[path] for path in first.values())
    hashes = {}
    bar = tqdm(total=total, desc="hashing files", unit="B", unit_scale=True, delay=BAR_DELAY, leave=False)
    with bar, ThreadPoolExecutor(max_workers=4) as pool:  # hashing runs beside Python
        for (inode, path), sha256 in zip(first.items(), pool.map(hash_or_nothing, first.values()), strict=True):
            hashes[inode] = sha256
            bar.update(sizes[path])
    return {path: hashes[inodes[path]] if path in inodes else "" for path in paths}


def hash_or_nothing(path: Path) -> str:
    """SHA-256 of a file in hex, '' if it can't be read."""
    try:
        return file_sha256(path)
    except OSError:
        return ""
