"""The training images of mini, drawn once into files that are read through memory maps."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from common.files import atomic_write, write_json
from mini_sd import posters

WIDTH, HEIGHT = posters.SIZE
CHUNK = 100  # images that a process draws at once


def draw_posters(first: int) -> tuple[np.ndarray, list[str]]:
    """(uint8 (CHUNK, H, W, 3), captions) of CHUNK posters, from row `first` on."""
    pairs = [posters.poster(row) for row in range(first, first + CHUNK)]
    return np.stack([np.asarray(image) for image, _ in pairs]), [caption for _, caption in pairs]


def draw_sheets(first: int) -> tuple[np.ndarray, list[str]]:
    """(uint8 (CHUNK, H, W, 3), empty captions) of CHUNK sheets, from row `first` on."""
    return np.stack([np.asarray(posters.sheet(row)) for row in range(first, first + CHUNK)]), [""] * CHUNK


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Images uint8 (N, H, W, 3) as float32 (N, 3, H, W) in [-1, 1], channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def ensure_images(
    folder: pathlib.Path, name: str, draw: Callable[[int], tuple[np.ndarray, list[str]]], count: int
) -> tuple[np.ndarray, list[str]]:
    """(images uint8 (count, H, W, 3) as a memory map, captions) from <folder>/<name>-<count>.npy, drawn if missing.

    draw: draw_posters or draw_sheets; count: a multiple of CHUNK.
    """
    path, texts = folder / f"{name}-{count}.npy", folder / f"{name}-{count}.json"
    if not path.exists():
        shape, captions = (count, HEIGHT, WIDTH, 3), []
        with atomic_write(path) as temporary, concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
            pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            jobs = pool.map(draw, range(0, count, CHUNK))
            for k, (images, words) in enumerate(tqdm(jobs, f"drawing {name}", count // CHUNK, unit=f"x{CHUNK}")):
                pixels[k * CHUNK : (k + 1) * CHUNK] = images
                captions += words
            pixels.flush()
            write_json(texts, captions)  # first: images that exist always have captions
    return np.load(path, mmap_mode="r"), json.loads(texts.read_text(encoding="utf-8"))
