"""Features of many images, computed once and cached in files of at most BLOCK images, named by a hash of their inputs.

A changed image, network, weights file or resize method changes the name, so only the blocks it affects are computed
again; an interrupted call loses one block. Memory is that of one block, for any number of images.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from tqdm import tqdm

import config
from common.files import atomic_write
from common.hashing import file_sha256
from common.png import png_paths, read_png
from common.prefetch import read_ahead
from data.images import INDEX_VERSION, read_cover

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from data.book import Book
    from evaluation.features import Extractor

BLOCK = 500  # images; 500 x 2048 float32 are 4 MB
VERSION = 2  # raise it when the same images would get other features
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
    """Yield float32 (B, D), B <= BLOCK: the features of all items in their order.

    names: a text for each item that identifies its picture; read(item) -> uint8 (H, W, 3), called by `workers` threads
    ahead of the network, and only for items of blocks that are not in `cache_folder` yet.
    """
    network = [VERSION, extractor.name, extractor.weights_hash, extractor.resize, extractor.batch_size]
    with tqdm(total=len(names), desc=desc, unit=" images") as bar:
        for first in range(0, len(names), BLOCK):
            chunk = slice(first, first + BLOCK)
            key = hashlib.sha256(json.dumps([network, names[chunk]]).encode()).hexdigest()[:32]
            path = cache_folder / f"{extractor.name}-{key}.npy"
            block = read_block(path, len(names[chunk]), extractor.dims)
            if block is None:
                images = read_ahead(read, items[chunk], workers)
                block = compute_features(extractor, images, bar)
                with atomic_write(path) as temporary, open(temporary, "wb") as file:
                    np.save(file, block)
            else:
                bar.update(len(block))
            yield block


def read_block(path: pathlib.Path, count: int, dims: int) -> np.ndarray | None:
    """The features float32 (count, dims) in a file, or None if there is no such file or it is damaged."""
    try:
        block = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return block if block.shape == (count, dims) and block.dtype == np.float32 else None


def compute_features(extractor: Extractor, images: Iterable[np.ndarray], bar: tqdm) -> np.ndarray:
    """Features float32 (N, D) of N images uint8 (H, W, 3) of one size; `bar` counts them."""
    remaining, parts = iter(images), []
    while batch := list(itertools.islice(remaining, extractor.batch_size)):
        parts.append(extractor(np.stack(batch)).astype(np.float32))  # the networks compute in float32: nothing is lost
        bar.update(len(batch))
    return np.concatenate(parts)
