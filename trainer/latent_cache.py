"""Cached latents: the autoencoder encodes each cover once, and training reads the result instead of images.

    <cache_dir>/latents/512x768-<key>/<hash>.npy    records of many covers: hash of the image file, and its posterior

What is cached is not a sample but the posterior's mean and standard deviation, in half precision: each epoch samples it
anew, with the noise that belongs to the sample index, so the result differs from training on images by rounding alone.

The key is a hash of everything else that the numbers depend on: size, resizing rule, the autoencoder's weights and
settings, precision, kind of device, libraries. So whatever changed, and nothing else, is encoded again. (Another number
of threads may round a few numbers differently, and is not in the key.) A file's name is the hash of its bytes: a
damaged one no longer matches its name, and its covers are encoded again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import pathlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import accelerate
import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

import config
import dataset
from common.errors import UserError, first_line
from common.files import atomic_write, remove, remove_dead_temporary_files, require_free_space
from common.hashing import content_hash
from common.prefetch import read_ahead
from data.book import Book
from data.images import INDEX_VERSION
from diffusion import encoding
from diffusion.architecture import network_settings
from diffusion.parts import Parts
from diffusion.placement import DTYPES, on_device
from diffusion.weights import networks_hash

VERSION = 1  # raise it when the same image, size, autoencoder and precision would give other numbers
LIBRARIES = ("torch", "diffusers", "pillow")
COVERS_PER_FILE = 500  # at most; at 512x768, 98 KB each
SAVE_SECONDS = 30  # a killed process loses at most this much work
HINT = "free some space there, choose another folder with --cache_dir, or leave --cache_latents out"

# What NumPy raises for a file that is gone, empty, or not what it should be
READ_ERRORS = (OSError, ValueError, LookupError, EOFError, OverflowError, MemoryError)

Size = tuple[int, int]  # (width, height) in pixels
LatentKey = tuple[str, Size]  # (hash of the image file: Book.content, size)


@dataclass(frozen=True)
class LatentFolder:
    """The folder with the posteriors of covers of one size, and what a record in its files holds."""

    path: pathlib.Path
    size: Size
    record: np.dtype  # content: hash of the image file; moments: float16 (2, 4, H/8, W/8), mean and std


class CachedLatents:
    """latents[content, (W, H)] -> float16 (2, 4, H/8, W/8): mean and std of the posterior, unscaled, of the image with
    that hash at that size. UserError if they can't be read, or are not finite: the files were sound when added.

    Memory-mapped: what is not read takes no memory. A map takes a file handle, of which a process has few, so a file is
    opened for each read, which takes a fifth of a millisecond. It can be pickled.
    """

    def __init__(self) -> None:
        self.locations: dict[LatentKey, tuple[pathlib.Path, int]] = {}  # (file, index of the record in it)

    def __contains__(self, key: LatentKey) -> bool:
        return key in self.locations

    def __getitem__(self, key: LatentKey) -> torch.Tensor:
        path, index = self.locations[key]
        try:
            moments = torch.from_numpy(open_records(path)["moments"][index].copy())
            if not moments.isfinite().all():
                raise ValueError("its numbers are not finite")
        except READ_ERRORS as problem:
            raise UserError(
                f"the cached latents in {path} can't be used any more: {first_line(problem)}; delete that file, if it "
                "still exists, and go on with --run_id: they are encoded again"
            ) from None
        return moments

    def add_files(self, folders: Iterable[LatentFolder], workers: int) -> int:
        """Add every sound file in the folders that is not known yet. Returns how many were damaged: they are deleted.

        Each file is read as a whole, which takes a slow core 6 s a GB: damage is found while the autoencoder is at hand
        to mend it, and the first epoch finds the files in the disk's cache. UserError for a file that exists but can't
        be read: it may be sound.
        """
        home = {path: folder for folder in folders for path in sorted(folder.path.glob("*.npy"))}
        known = {path for path, _ in self.locations.values()}
        paths = [path for path in home if path not in known]
        hashes = tqdm(read_ahead(content_hash, paths, workers), "checking latents", len(paths), unit=" files", delay=3)
        damaged = 0
        for path, file_hash in zip(paths, hashes, strict=True):
            contents = read_contents(path, home[path].record) if file_hash == path.stem else None
            if contents is not None:
                for index, content in enumerate(contents):
                    self.locations.setdefault((content, home[path].size), (path, index))
            elif file_hash:
                damaged += 1
                remove(path)
            elif path.exists():
                raise UserError(f"can't read {path}: start again, or choose another folder with --cache_dir")
        return damaged


def open_records(path: pathlib.Path) -> np.ndarray:
    """The records of a file, memory-mapped."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def read_contents(path: pathlib.Path, record: np.dtype[Any]) -> list[str] | None:
    """The hashes of the images whose latents are in a file. None if it does not hold such records: its name may be the
    hash of its bytes, and these still something else."""
    try:
        records = open_records(path)
        if records.dtype != record or records.ndim != 1:
            return None
        return records["content"].astype(str).tolist()
    except READ_ERRORS:  # also for Python objects, which are never unpickled
        return None


def cache_latents(
    books: Sequence[Book],
    sizes: Sequence[Size],
    parts: Parts,
    options: config.TrainingOptions,
    accelerator: accelerate.Accelerator,
) -> CachedLatents:
    """Latents of all these books at their sizes; those not in the cache are computed first, by all processes.

    parts.vae is cast to the precision of the accelerator, is on the device only while it works, and is left on the CPU.
    UserError if an image can't be read, the disk is full, or a value is too large for half precision.
    """
    parts.vae.to("cpu", DTYPES[accelerator.mixed_precision])
    folders = latent_folders(set(sizes), parts, options, accelerator)
    wanted = {(book.content, size): book for book, size in zip(books, sizes, strict=True)}  # equal images once a size
    workers = config.num_workers(options)
    latents, missing = CachedLatents(), []
    if accelerator.is_main_process:
        for folder in (config.cache_dir(options) / "latents").glob("*"):  # of any size and autoencoder
            remove_dead_temporary_files(folder)
        damaged = latents.add_files(folders.values(), workers)
        missing = [key for key in wanted if key not in latents]
        needed = sum(folders[size].record.itemsize for _, size in missing)
        require_free_space(config.cache_dir(options), needed, f"a cache of {len(missing)} latents", HINT)
        print(status_line(len(wanted), len(missing), damaged))
    (missing,) = accelerate.utils.broadcast_object_list([missing])
    if missing:
        own = missing[accelerator.process_index :: accelerator.num_processes]
        began = time.monotonic()
        encode_covers([(wanted[key], key[1]) for key in own], folders, parts.vae, options, accelerator)
        accelerator.wait_for_everyone()
        seconds = time.monotonic() - began
        accelerator.print(f"latents: {len(missing)} encoded in {seconds:.1f} s, {len(missing) / seconds:.1f} images/s")
    if missing or not accelerator.is_main_process:
        latents.add_files(folders.values(), workers)
    if any(key not in latents for key in wanted):
        raise UserError(f"what was just written to {config.cache_dir(options) / 'latents'} is damaged: {HINT}")
    return latents


def latent_folders(
    sizes: Iterable[Size], parts: Parts, options: config.TrainingOptions, accelerator: accelerate.Accelerator
) -> dict[Size, LatentFolder]:
    """{size: its LatentFolder}, which need not exist yet, for this autoencoder in this precision on this device."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    vae = [networks_hash(parts.vae), network_settings(parts.vae), versions]
    vae += [accelerator.mixed_precision, accelerator.device.type]
    folders = {}
    for size in sorted(sizes):
        rule = json.dumps([VERSION, INDEX_VERSION, size, vae], sort_keys=True)
        key = hashlib.blake2b(rule.encode(), digest_size=12).hexdigest()
        path = config.cache_dir(options) / "latents" / "{}x{}-{}".format(*size, key)
        record = np.dtype([("content", "S32"), ("moments", "<f2", (2, *encoding.latent_shape(parts, size)))])
        folders[size] = LatentFolder(path, size, record)
    return folders


def status_line(count: int, missing: int, damaged: int) -> str:
    """One line on the state of the cache: numbers of covers, and of damaged files."""
    line = f"latents: {count - missing} of {count} covers are in the cache"
    if damaged:
        line += f", {damaged} damaged file{'s' * (damaged > 1)} deleted"
    return f"{line}; {missing} to encode" if missing else line


def encode_covers(
    covers: Sequence[tuple[Book, Size]],
    folders: dict[Size, LatentFolder],
    vae: AutoencoderKL,
    options: config.TrainingOptions,
    accelerator: accelerate.Accelerator,
) -> None:
    """Encode covers and write their posteriors. A stopped call keeps what it has encoded, a killed one what it wrote.

    One cover at a time: matrix products round differently with the batch size, and a cover's numbers must not depend on
    which others were missing.
    """
    device = accelerator.device
    bar = tqdm(total=len(covers), desc="encoding covers", unit=" covers", disable=not accelerator.is_main_process)
    with bar, on_device(vae, device):
        for size, folder in folders.items():
            books = [book for book, its_size in covers if its_size == size]
            images = read_ahead(functools.partial(read_cover, size=size), books, config.num_workers(options))
            records: list[tuple[str, np.ndarray]] = []
            written = time.monotonic()
            try:
                for book, pixel_values in zip(books, images, strict=True):
                    with accelerator.autocast():
                        records.append((book.content, half_moments(vae, pixel_values.to(device), folder.record, book)))
                    bar.update()
                    if len(records) >= COVERS_PER_FILE or time.monotonic() - written > SAVE_SECONDS:
                        write_records(records, folder)
                        records, written = [], time.monotonic()
            finally:
                if records:
                    write_records(records, folder)


def read_cover(book: Book, size: Size) -> torch.Tensor:
    """dataset.load_cover of a book: float32 (3, H, W) in [-1, 1].

    UserError if the file has changed since it was hashed: its latents would be cached under another image's hash.
    """
    image = dataset.load_cover(book, size)
    if content_hash(book.image) != book.content:
        raise UserError(f"{book.name}: {book.image} was changed just now: start again when it stays as it is")
    return image


def half_moments(vae: AutoencoderKL, pixel_values: torch.Tensor, record: np.dtype[Any], book: Book) -> np.ndarray:
    """float16 (2, 4, H/8, W/8): mean and std of the posterior of a book's image (3, H, W), for such a record.

    UserError if the shape is not the record's, or a value is not finite in half precision.
    """
    moments = torch.cat(encoding.posterior(vae, pixel_values[None])).half().cpu()
    expected = record["moments"].shape
    if moments.shape != expected:
        made, taken = ("x".join(map(str, shape[1:])) for shape in (moments.shape, expected))
        raise UserError(f"the autoencoder's latents are {made} and the UNet takes {taken}: they are not of one model")
    if not moments.isfinite().all():
        raise UserError(
            f"{book.name}: the autoencoder's latents are not finite in half precision; leave --cache_latents out, "
            "or give another --pretrained_model"
        )
    return moments.numpy()


def write_records(records: Sequence[tuple[str, np.ndarray]], folder: LatentFolder) -> None:
    """Write a file of (content, moments) records, named by the hash of its bytes."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(records, folder.record))
    name = hashlib.blake2b(buffer.getbuffer(), digest_size=16).hexdigest()
    with atomic_write(folder.path / f"{name}.npy", HINT) as temporary:
        temporary.write_bytes(buffer.getbuffer())
