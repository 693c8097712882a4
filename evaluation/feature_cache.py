"""Features of many images, computed once: files of at most BLOCK images each, named by what is in them.

What changes (an image, the network, its weights, how images are shrunk) changes the name, and just the blocks that it
is in are computed anew; a stop loses one block. Memory is that of a block, however many images there are.
"""

from __future__ import annotations

import hashlib
import itertools
import json

import numpy as np
from tqdm import tqdm

import config
from common.files import atomic_write
from common.hashing import file_sha256
from common.png import png_paths, read_png
from common.prefetch import read_ahead
from data.images import INDEX_VERSION, read_cover

BLOCK = 500  # images; 500 x 2048 float32 are 4 MB
VERSION = 2  # raise it when the same images would get other features


def of_drawn(folder, rows, extractor):
    """Features of <folder>/<row>.png for each of `rows`, block by block; kept in <folder>/features. See blocks.

    UserError, before the first image, if one is missing, no PNG, or of another size; on reaching it, if it is damaged.
    """
    paths = png_paths(folder, rows)
    names = [file_sha256(path) for path in paths]
    return blocks(extractor, names, paths, read_png, folder / "features", f"features of {folder.name}")


def of_books(books, options, extractor, desc):
    """Features of the covers of `books` at options.resolution, block by block; kept in the cache folder. See blocks."""
    size = config.size(options)
    names = [f"{book.content} {options.resolution} {INDEX_VERSION}" for book in books]
    workers = config.num_workers(options)
    home = config.cache_dir(options) / "features"
    return blocks(extractor, names, books, lambda book: read_cover(book.image, size), home, desc, workers)


def blocks(extractor, names, items, read, home, desc, workers=4):
    """Yield float32 (B, D), B <= BLOCK: the features of all items in their order.

    names: for each item a text that is another if its picture is another; read(item) -> uint8 (H, W, 3), called by
    `workers` threads ahead of the network, and for no item of a block that is kept in the folder `home`.
    """
    network = [VERSION, extractor.name, extractor.weights_hash, extractor.resize, extractor.batch_size]
    with tqdm(total=len(names), desc=desc, unit=" images") as bar:
        for first in range(0, len(names), BLOCK):
            chunk = slice(first, first + BLOCK)
            key = hashlib.sha256(json.dumps([network, names[chunk]]).encode()).hexdigest()[:32]
            path = home / f"{extractor.name}-{key}.npy"
            block = read_block(path, len(names[chunk]), extractor.dims)
            if block is None:
                images = read_ahead(read, items[chunk], workers)
                block = compute(extractor, images, bar)
                with atomic_write(path) as temporary, open(temporary, "wb") as file:
                    np.save(file, block)
            else:
                bar.update(len(block))
            yield block


def read_block(path, count, dims):
    """The features in a file, or None if there is no such file or it is damaged."""
    try:
        block = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return block if block.shape == (count, dims) and block.dtype == np.float32 else None


def compute(extractor, images, bar):
    """float32 (N, D) of images, an iterable of N uint8 (H, W, 3) of one size."""
    images, parts = iter(images), []
    while batch := list(itertools.islice(images, extractor.batch_size)):
        parts.append(extractor(np.stack(batch)).astype(np.float32))  # the networks are float32: nothing is lost
        bar.update(len(batch))
    return np.concatenate(parts)
