"""OCR of many covers, each read once: what was read is kept on disk.

readings = read_covers(images, total=len(books), cache_folder=folder, desc="reading covers")
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import sys
import threading
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.files import atomic_write
from common.prefetch import read_ahead
from ocr.engine import Line, engine_hash, read_text

CHECKSUM = b', "crc32": '  # stands between a result and its checksum
CACHE_HINT = "free some space there or choose another --cache_dir"


def read_covers(
    images: Iterable[np.ndarray],
    total: int,
    cache_folder: str | pathlib.Path,
    desc: str = "reading covers",
    workers: int | None = None,
) -> list[list[Line]]:
    """The lines on each of `images`, `total` covers uint8 (H, W, 3), in their order; with a progress bar.

    Results are cached in cache_folder, so no cover is read twice. workers: covers read at a time, None = one per core,
    at most 8. OCRUnavailable if OCR does not work here, UserError if the folder can't be written.
    """
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    cache = ReadingsCache(pathlib.Path(cache_folder).expanduser() / f"readings-{engine_hash()}.jsonl")
    readings = read_ahead(cache.read, images, workers)
    with tqdm(readings, desc=desc, total=total, unit=" covers") as bar:
        return list(bar)


class ReadingsCache:
    """A JSON Lines file of OCR results: {"cover": key, "lines": [[text, score, corners, slant], ...], "crc32": of what
    stands before it}. The key tells the cover: for `read` the hash of its pixels.

    A result is appended as soon as a cover was read. Damaged lines (the last one of a killed process, say, or one of
    before there were checksums) are dropped, and their covers read again.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self.known: dict[str, bytes] = {}  # key: its line of the file, which takes a tenth of the memory of its Lines
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            if content and not content.endswith(b"\n"):
                self.append(b"\n")
        except OSError as problem:
            raise self.write_error(problem) from None
        texts = content.splitlines()
        sound = [text for text in texts if self.take(text)]
        if len(sound) < len(texts):  # what another process appends just now is lost with them, and read again
            print(
                f"{path}: lines damaged or without a checksum, whose covers are read again: {len(texts) - len(sound)}",
                file=sys.stderr,
            )
            with atomic_write(path, CACHE_HINT) as temporary:
                temporary.write_bytes(b"".join(text + b"\n" for text in sound))

    def take(self, text: bytes) -> bool:
        """Make the result in a line of the file known. False if the line is damaged."""
        body, _, checksum = text.rpartition(CHECKSUM)
        if checksum != b"%d}" % zlib.crc32(body):
            return False
        self.known[body.split(b'"', 4)[3].decode()] = text
        return True

    def __contains__(self, key: str) -> bool:
        return key in self.known

    def __getitem__(self, key: str) -> list[Line]:
        """The lines on the cover of this key. KeyError if it was not read."""
        lines = json.loads(self.known[key])["lines"]
        return [Line(text, score, tuple(map(tuple, corners)), slant) for text, score, corners, slant in lines]

    def add(self, key: str, lines: Sequence[Line]) -> None:
        """Keep the lines on a cover, in the file, too. UserError if it can't be written."""
        body = json.dumps({"cover": key, "lines": lines}).encode()[:-1]
        text = body + CHECKSUM + b"%d}" % zlib.crc32(body)
        with self.lock:
            self.append(text + b"\n")
            self.known[key] = text

    def read(self, image: np.ndarray) -> list[Line]:
        """The lines on a cover uint8 (H, W, 3), cached or read now."""
        key = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        if key not in self:
            self.add(key, read_text(image))
        return self[key]

    def append(self, content: bytes) -> None:
        """Append to the file. UserError if it can't be written."""
        try:
            with open(self.path, "ab", buffering=0) as file:
                file.write(content)
        except OSError as problem:
            raise self.write_error(problem) from None

    def write_error(self, problem: OSError) -> UserError:
        """The UserError for a failed write."""
        return UserError(f"can't cache OCR results in {self.path}: {problem.strerror or problem}; {CACHE_HINT}")
