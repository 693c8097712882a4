"""Features of many images, computed once and cached in files of at most BLOCK images, named by a hash of their inputs.

A changed image, network, weights file or resize method changes the name, so only the blocks it affects are computed
again; an interrupted call loses one block. Memory is that of one block, for any number of images.

A file is an .npy file with the BLAKE2b hash of its bytes after the array, where NumPy does not look: a single flipped
bit would be another distance. Files without it, damaged or of before it was written, are computed again.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import pathlib
import sys
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from tqdm import tqdm

import config
from common.errors import UserError
from common.files import atomic_write, remove_dead_temporary_files
from common.hashing import file_sha256
from common.png import png_paths, read_png
from common.prefetch import read_ahead
from data.images import INDEX_VERSION, read_cover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from data.book import Book
    from evaluation.features import Extractor

BLOCK = 500  # images; 500 x 2048 float32 are 4 MB
VERSION = 2  # raise it when the same images would get other features
DIGEST_BYTES = 16  # of the hash at the end of a file
Item = TypeVar("Item")


def drawn_features(folder: pathlib.Path, rows: Sequence[int], extractor: Extractor) -> Iterator[np.ndarray]:
    """Features of <folder>/<row>.png for each of `rows`, cached in <folder>/features; yields blocks as cached_blocks.

    UserError before the first image if one is missing, not a PNG or of a different size; on reaching it if it is
    damaged.
    """
    paths = png_paths(folder, rows)
    names = [file_sha256(path) for path in paths]
    return cached_blocks(extractor, names, paths, read_png, folder / "features", f"features of {folder.name}")


def real_features(
    books: Sequence[Book], options: config.DataOptions, extractor: Extractor, desc: str
) -> Iterator[np.ndarray]:
    """Features of the real covers of `books` at options.resolution, cached in --cache_dir; yields as cached_blocks.

    desc: label of the progress bar.
    """
    size = config.size(options)
    names = [f"{book.content} {options.resolution} {INDEX_VERSION}" for book in books]
    workers = config.num_workers(options)
    cache_folder = config.cache_dir(options) / "features"
    return cached_blocks(
        extractor, names, books, lambda book: read_cover(book.image, size), cache_folder, desc, workers
    )


def cached_blocks(
    extractor: Extractor,
    names: Sequence[str],
    items: Sequence[Item],
    read: Callable[[Item], np.ndarray],
    cache_folder: pathlib.Path,
    desc: str,
    workers: int = 4,
) -> Iterator[np.ndarray]:
    """Yield float32 (B, D), B <= BLOCK: the features of all items in their order, all finite.

    items: paths or books, see describe; names: a text for each that identifies its picture; read(item) -> uint8
    (H, W, 3), called by `workers` threads ahead of the network, and only for items of blocks that are not in
    `cache_folder` yet. UserError names the first whose features are not finite; they are not kept.
    """
    remove_dead_temporary_files(cache_folder)
    network = [VERSION, extractor.name, extractor.weights_hash, extractor.resize, extractor.batch_size]
    damaged = 0
    with tqdm(total=len(names), desc=desc, unit=" images") as bar:
        for first in range(0, len(names), BLOCK):
            chunk = slice(first, first + BLOCK)
            key = hashlib.sha256(json.dumps([network, names[chunk]]).encode()).hexdigest()[:32]
            path = cache_folder / f"{extractor.name}-{key}.npy"
            block = read_block(path, len(names[chunk]), extractor.dims)
            if block is None:
                damaged += path.exists()
                images = read_ahead(read, items[chunk], workers)
                block = compute_features(extractor, images, bar, [describe(item) for item in items[chunk]])
                write_block(path, block)
            else:
                bar.update(len(block))
            yield block
    if damaged:
        files = "file was" if damaged == 1 else "files were"
        print(f"{desc}: {damaged} {files} damaged or without a checksum, and computed again", file=sys.stderr)


def write_block(path: pathlib.Path, block: np.ndarray) -> None:
    """Write features and their hash."""
    buffer = io.BytesIO()
    np.save(buffer, block)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue() + digest(buffer.getbuffer()))


def read_block(path: pathlib.Path, count: int, dims: int) -> np.ndarray | None:
    """The features float32 (count, dims) in a file, or None if there is no such file or it is damaged."""
    try:
        content = memoryview(path.read_bytes())
        array, found = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
        if found != digest(array):
            return None
        block = np.load(io.BytesIO(array), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    sound = block.shape == (count, dims) and block.dtype == np.float32 and np.isfinite(block).all()
    return block if sound else None


def digest(content: bytes | memoryview) -> bytes:
    """The hash at the end of a file: BLAKE2b of all that stands before it."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def describe(item: object) -> str:
    """Which image an item is, for a message: the path of a drawn cover, <version>/<row>.png, or the row of a book."""
    return str(item) if isinstance(item, pathlib.Path) else str(getattr(item, "name", "row ?"))


def compute_features(
    extractor: Extractor, images: Iterable[np.ndarray], bar: tqdm, descriptions: Sequence[str] = ()
) -> np.ndarray:
    """Features float32 (N, D) of N images uint8 (H, W, 3) of one size; `bar` counts them.

    descriptions: what the images are, for the UserError if features are not finite.
    """
    remaining, parts, done = iter(images), [], 0
    while batch := list(itertools.islice(remaining, extractor.batch_size)):
        part = extractor(np.stack(batch)).astype(np.float32)  # the networks compute in float32: nothing is lost
        for index in np.flatnonzero(~np.isfinite(part).all(axis=1)).tolist():
            what = descriptions[done + index] if descriptions else f"image {done + index}"
            raise UserError(
                f"{what}: its features by {extractor.score_name} are not finite, and are not kept: get a new copy of "
                "the network's weights (--fid_weights, --clip_model), or try without the GPU (CUDA_VISIBLE_DEVICES=-1)"
            )
        parts.append(part)
        done += len(batch)
        bar.update(len(batch))
    return np.concatenate(parts)
