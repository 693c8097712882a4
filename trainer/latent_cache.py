"""Cached latents: the autoencoder encodes each cover once, and training reads the result instead of images.

    <cache_dir>/latents/512x768-<key>/<hash>.npy    records of many covers: hash of the image file, and its posterior

What is cached is not a sample but the posterior's mean and standard deviation, in half precision: each epoch samples it
anew, with the noise that belongs to the sample index, so the result differs from training on images by rounding alone.

The key is a hash of everything else that the numbers depend on: size, resizing rule, the autoencoder's weights and
settings, precision, kind of device, libraries. (Another number of threads may round a few numbers differently, and is
not in the key.) Files and folders: record_cache.py.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from typing import Any

import accelerate
import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

import config
import dataset
from common.errors import UserError
from common.hashing import content_hash
from common.prefetch import read_ahead
from data.book import Book
from data.images import INDEX_VERSION
from diffusion import encoding
from diffusion.architecture import network_settings
from diffusion.parts import Parts
from diffusion.placement import DTYPES, on_device
from diffusion.weights import networks_hash
from trainer.record_cache import CachedRecords, Kind, RecordFolder, RecordWriter, complete

VERSION = 1  # raise it when the same image, size, autoencoder and precision would give other numbers
LIBRARIES = ("torch", "diffusers", "pillow")
COVERS_PER_FILE = 500  # at most; at 512x768, 98 KB each
LATENTS = Kind("latents", "latents", "covers", "--cache_latents")

Size = tuple[int, int]  # (width, height) in pixels


def cache_latents(
    books: Sequence[Book],
    sizes: Sequence[Size],
    parts: Parts,
    options: config.TrainingOptions,
    accelerator: accelerate.Accelerator,
) -> CachedRecords:
    """{(hash of the image file: Book.content, size): float16 (2, 4, H/8, W/8)}: mean and std of the posterior,
    unscaled, of these books at their sizes; those not in the cache are computed first, by all processes.

    parts.vae is cast to the precision of the accelerator, is on the device only while it works, and is left on the CPU.
    UserError if an image can't be read, the disk is full, or a value is too large for half precision.
    """
    parts.vae.to("cpu", DTYPES[accelerator.mixed_precision])
    folders = latent_folders(set(sizes), parts, options, accelerator)
    wanted = {(book.content, size): book for book, size in zip(books, sizes, strict=True)}  # equal images once a size

    def encode(keys: Sequence[tuple[str, Size]]) -> None:
        encode_covers([(wanted[key], key[1]) for key in keys], folders, parts.vae, options, accelerator)

    latents = CachedRecords(LATENTS.name, torch.float16)
    complete(latents, LATENTS, list(folders.values()), list(wanted), encode, options, accelerator)
    return latents


def latent_folders(
    sizes: Iterable[Size], parts: Parts, options: config.TrainingOptions, accelerator: accelerate.Accelerator
) -> dict[Size, RecordFolder]:
    """{size: its RecordFolder}, which need not exist yet, for this autoencoder in this precision on this device."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    vae = [networks_hash(parts.vae), network_settings(parts.vae), versions]
    vae += [accelerator.mixed_precision, accelerator.device.type]
    folders = {}
    for size in sorted(sizes):
        rule = json.dumps([VERSION, INDEX_VERSION, size, vae], sort_keys=True)
        key = hashlib.blake2b(rule.encode(), digest_size=12).hexdigest()
        path = config.cache_dir(options) / "latents" / "{}x{}-{}".format(*size, key)
        record = np.dtype([("content", "S32"), ("moments", "<f2", (2, *encoding.latent_shape(parts, size)))])
        folders[size] = RecordFolder(path, size, record)
    return folders


def encode_covers(
    covers: Sequence[tuple[Book, Size]],
    folders: dict[Size, RecordFolder],
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
            with RecordWriter(folder, COVERS_PER_FILE, LATENTS.hint) as writer:
                for book, pixel_values in zip(books, images, strict=True):
                    with accelerator.autocast():
                        writer.add(book.content, half_moments(vae, pixel_values.to(device), folder.record, book))
                    bar.update()


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
