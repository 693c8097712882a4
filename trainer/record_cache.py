"""Records that are computed once and kept in --cache_dir: what latent_cache and text_cache have in common.

    <cache_dir>/<kind>/<folder>/<hash>.npy    many records: hash of what each was made from, and its numbers

A folder's name has a hash of everything else that the numbers depend on, so whatever changed, and nothing else, is
computed again. A file's name is the hash of its bytes: a damaged one no longer matches its name, and its records are
computed again.
"""

from __future__ import annotations

import hashlib
import io
import pathlib
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import accelerate
import numpy as np
import torch
from tqdm import tqdm

import config
from common.errors import UserError, first_line
from common.files import atomic_write, remove, remove_dead_temporary_files, require_free_space
from common.hashing import content_hash
from common.prefetch import read_ahead

SAVE_SECONDS = 30  # a killed process loses at most this much work

# What NumPy raises for a file that is gone, empty, or not what it should be
READ_ERRORS = (OSError, ValueError, LookupError, EOFError, OverflowError, MemoryError)

Key = tuple[str, Hashable]  # (hash of what a record was made from, group of its folder)


@dataclass(frozen=True)
class Kind:
    """What is cached, in words."""

    name: str  # in messages, plural
    folder: str  # in the cache
    unit: str  # what it is computed from: covers, prompts
    option: str  # that turns the cache on

    @property
    def hint(self) -> str:
        """What to do if it can't be written."""
        return f"free some space there, choose another folder with --cache_dir, or leave {self.option} out"


@dataclass(frozen=True)
class RecordFolder:
    """A folder of files, and what a record in them holds."""

    path: pathlib.Path
    group: Hashable  # what its records have in common: for latents the size of the images
    record: np.dtype  # content: hash of what it was made from; and one field with numbers


class CachedRecords:
    """records[content, group] -> the numbers of a record, a tensor. UserError if they can't be read, or are not finite:
    the files were sound when added.

    Memory-mapped: what is not read takes no memory. A map takes a file handle, of which a process has few, so a file is
    opened for each read, which takes a fifth of a millisecond. It can be pickled.
    """

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        """name: of what is cached. dtype: of the tensors; files may hold the same bytes as another, as for bfloat16."""
        self.name, self.dtype = name, dtype
        self.locations: dict[Key, tuple[pathlib.Path, int]] = {}  # (file, index of the record in it)

    def __contains__(self, key: Key) -> bool:
        return key in self.locations

    def __getitem__(self, key: Key) -> torch.Tensor:
        path, index = self.locations[key]
        try:
            records = open_records(path)
            numbers = torch.from_numpy(records[field_of(records.dtype)][index].copy()).view(self.dtype)
            if not numbers.isfinite().all():
                raise ValueError("its numbers are not finite")
        except READ_ERRORS as problem:
            raise UserError(
                f"the cached {self.name} in {path} can't be used any more: {first_line(problem)}; delete that file, if "
                "it still exists, and go on with --run_id: they are encoded again"
            ) from None
        return numbers

    def add_files(self, folders: Iterable[RecordFolder], workers: int) -> int:
        """Add every sound file in the folders that is not known yet. Returns how many were damaged: they are deleted.

        Each file is read as a whole, which takes a slow core 6 s a GB: damage is found while the network is at hand to
        mend it, and the first epoch finds the files in the disk's cache. UserError for a file that exists but can't be
        read: it may be sound.
        """
        home = {path: folder for folder in folders for path in sorted(folder.path.glob("*.npy"))}
        known = {path for path, _ in self.locations.values()}
        paths = [path for path in home if path not in known]
        read = read_ahead(content_hash, paths, workers)
        damaged = 0
        for path, file_hash in zip(
            paths, tqdm(read, f"checking {self.name}", len(paths), unit=" files", delay=3), strict=True
        ):
            contents = read_contents(path, home[path].record) if file_hash == path.stem else None
            if contents is not None:
                for index, content in enumerate(contents):
                    self.locations.setdefault((content, home[path].group), (path, index))
            elif file_hash:
                damaged += 1
                remove(path)
            elif path.exists():
                raise UserError(f"can't read {path}: start again, or choose another folder with --cache_dir")
        return damaged


def open_records(path: pathlib.Path) -> np.ndarray:
    """The records of a file, memory-mapped."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def field_of(record: np.dtype[Any]) -> str:
    """Name of the field with the numbers. LookupError if there is none."""
    return (record.names or ())[1]


def read_contents(path: pathlib.Path, record: np.dtype[Any]) -> list[str] | None:
    """The hashes of what the records of a file were made from. None if it does not hold such records: its name may be
    the hash of its bytes, and these still something else."""
    try:
        records = open_records(path)
        if records.dtype != record or records.ndim != 1:
            return None
        return records["content"].astype(str).tolist()
    except READ_ERRORS:  # also for Python objects, which are never unpickled
        return None


def complete(
    cached: CachedRecords,
    kind: Kind,
    folders: Sequence[RecordFolder],
    wanted: Sequence[Key],
    encode: Callable[[Sequence[Key]], None],
    options: config.TrainingOptions,
    accelerator: accelerate.Accelerator,
) -> None:
    """Bring all wanted records into `cached`; those that no file has are computed first, by all processes.

    encode(keys) computes records and writes them; each process gets its share. UserError if the disk is full.
    """
    workers, cache = config.num_workers(options), config.cache_dir(options)
    missing: list[Key] = []
    if accelerator.is_main_process:
        for folder in (cache / kind.folder).glob("*"):  # of any rule
            remove_dead_temporary_files(folder)
        damaged = cached.add_files(folders, workers)
        missing = [key for key in wanted if key not in cached]
        itemsize = {folder.group: folder.record.itemsize for folder in folders}
        needed = sum(itemsize[group] for _, group in missing)
        require_free_space(cache, needed, f"a cache of {len(missing)} {kind.name}", kind.hint)
        print(status_line(kind, len(wanted), len(missing), damaged))
    (missing,) = accelerate.utils.broadcast_object_list([missing])
    if missing:
        began = time.monotonic()
        encode(missing[accelerator.process_index :: accelerator.num_processes])
        accelerator.wait_for_everyone()
        seconds = time.monotonic() - began
        speed = f"{len(missing) / seconds:.1f} {kind.unit}/s"
        accelerator.print(f"{kind.name}: {len(missing)} encoded in {seconds:.1f} s, {speed}")
    if missing or not accelerator.is_main_process:
        cached.add_files(folders, workers)
    if any(key not in cached for key in wanted):
        raise UserError(f"what was just written to {cache / kind.folder} is damaged: {kind.hint}")


def status_line(kind: Kind, count: int, missing: int, damaged: int) -> str:
    """One line on the state of the cache: numbers of records, and of damaged files."""
    line = f"{kind.name}: {count - missing} of {count} {kind.unit} are in the cache"
    if damaged:
        line += f", {damaged} damaged file{'s' * (damaged > 1)} deleted"
    return f"{line}; {missing} to encode" if missing else line


class RecordWriter:
    """Collects records of a folder, and writes them when there are `per_file` or when 30 s have passed.

    As a context manager: on leaving it, also by an error or Ctrl-C, what is left is written.
    """

    def __init__(self, folder: RecordFolder, per_file: int, hint: str):
        self.folder, self.per_file, self.hint = folder, per_file, hint
        self.records: list[tuple[str, np.ndarray]] = []
        self.written = time.monotonic()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.write()

    def add(self, content: str, numbers: np.ndarray) -> None:
        """A record: hash of what it was made from, and its numbers."""
        self.records.append((content, numbers))
        if len(self.records) >= self.per_file or time.monotonic() - self.written > SAVE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the records to a file that is named by the hash of its bytes."""
        if self.records:
            buffer = io.BytesIO()
            np.save(buffer, np.array(self.records, self.folder.record))
            name = hashlib.blake2b(buffer.getbuffer(), digest_size=16).hexdigest()
            with atomic_write(self.folder.path / f"{name}.npy", self.hint) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        self.records, self.written = [], time.monotonic()
