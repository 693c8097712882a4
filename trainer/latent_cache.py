"""What the autoencoder makes of each cover, computed once: training then reads it instead of pictures.

    <cache_dir>/latents/512x768-<key>/<hash>.npy    many covers each: the hash of the picture's file, and its posterior

Kept is not a sample but the posterior's mean and standard deviation, in half precision: each epoch draws from it anew,
with the noise that belongs to the place, so that nothing differs from training on pictures but the rounding.

The key stands for all that the numbers depend on besides the picture: size, rule of resizing, the autoencoder with its
settings, precision, kind of device, libraries. What changes is thus never found, and just that is computed; what did
not change is. (Another number of threads may round a few numbers to the other side, and is not in the key.) A file's
name is the hash of its bytes: one that was damaged no longer fits its name, and is computed again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import time
from dataclasses import dataclass

import accelerate
import numpy as np
import torch
from tqdm import tqdm

import config
import dataset
from common.errors import UserError
from common.files import atomic_write, remove, require_free_space
from common.hashing import content_hash
from common.prefetch import read_ahead
from data.images import INDEX_VERSION
from diffusion import architecture, encoding, weights
from diffusion.placement import DTYPES, on_device

VERSION = 1  # raise it when the same picture, size, autoencoder and precision would give other numbers
LIBRARIES = ("torch", "diffusers", "pillow")
BLOCK = 500  # covers in a file at most; at 512x768, 98 KB each
SAVE_SECONDS = 30  # a kill loses at most this much work
WAY_OUT = "make room there, choose another folder with --cache_dir, or leave --cache_latents out"


@dataclass(frozen=True)
class Shelf:
    """Where the posteriors of covers of one size lie, and what each record of the files holds."""

    folder: object  # pathlib.Path
    size: tuple[int, int]  # (width, height) in pixels
    record: np.dtype  # content: hash of the picture's file; moments: float16 (2, 4, H/8, W/8), mean and deviation


class Latents:
    """latents[content, (W, H)] -> float16 (2, 4, H/8, W/8): mean and deviation of the picture with that hash at that
    size, unscaled.

    Memory-mapped: what is not read takes no memory. A map takes a file handle, of which a process has few: each is
    gone after the read, which takes a fifth of a millisecond. It can be pickled.
    """

    def __init__(self):
        self.places = {}  # (content, size) -> (path, index in that file)

    def __contains__(self, key):
        return key in self.places

    def __getitem__(self, key):
        path, index = self.places[key]
        return torch.from_numpy(records_of(path)["moments"][index].copy())

    def read(self, shelves, workers):
        """Take in every sound file that is on the shelves and not known yet. Returns how many were damaged: deleted.

        UserError for one that is there and can't be read: it may be sound.
        """
        sizes = {path: shelf.size for shelf in shelves for path in sorted(shelf.folder.glob("*.npy"))}
        known = {path for path, _ in self.places.values()}
        paths = [path for path in sizes if path not in known]
        hashes = tqdm(read_ahead(content_hash, paths, workers), "checking latents", len(paths), unit=" files", delay=3)
        damaged = 0
        for path, name in zip(paths, hashes, strict=True):
            if name == path.stem:
                for index, content in enumerate(records_of(path)["content"].astype(str)):
                    self.places.setdefault((content, sizes[path]), (path, index))
            elif name:
                damaged += 1
                remove(path)
            elif path.exists():
                raise UserError(f"can't read {path}: start again, or choose another folder with --cache_dir")
        return damaged


def records_of(path):
    """The records of a file: a memory map."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def cache_latents(books, sizes, parts, options, accelerator):
    """Latents of all these books at their sizes (W, H); what the cache lacks is computed first, by all processes.

    parts.vae is cast to the precision of the accelerator, needs the device only while it works, and is left on the
    CPU. options: TrainingOptions. UserError if a picture can't be read, the disk is full, or half precision too small.
    """
    parts.vae.to("cpu", DTYPES[accelerator.mixed_precision])
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    vae = [weights.networks_hash(parts.vae), architecture.network_settings(parts.vae), versions]
    vae += [accelerator.mixed_precision, accelerator.device.type]
    shelves = {size: make_shelf(vae, size, encoding.latent_shape(parts, size), options) for size in sorted(set(sizes))}
    wanted = {(book.content, size): book for book, size in zip(books, sizes, strict=True)}  # each picture once a size
    workers = config.num_workers(options)
    latents, due = Latents(), []
    if accelerator.is_main_process:
        damaged = latents.read(shelves.values(), workers)
        due = [key for key in wanted if key not in latents]
        needed = sum(shelves[size].record.itemsize for _, size in due)
        require_free_space(config.cache_dir(options), needed, f"a cache of {len(due)} latents", WAY_OUT)
        print(cache_status(len(wanted), len(due), damaged))
    (due,) = accelerate.utils.broadcast_object_list([due])
    if due:
        own = due[accelerator.process_index :: accelerator.num_processes]
        began = time.monotonic()
        encode_missing(
            [(wanted[content, size], size) for content, size in own], shelves, parts.vae, options, accelerator
        )
        accelerator.wait_for_everyone()
        seconds = time.monotonic() - began
        accelerator.print(f"latents: {len(due)} encoded in {seconds:.1f} s, {len(due) / seconds:.1f} images/s")
    if due or not accelerator.is_main_process:
        latents.read(shelves.values(), workers)
    if any(key not in latents for key in wanted):
        raise UserError(f"what was just written to {config.cache_dir(options) / 'latents'} is damaged: {WAY_OUT}")
    return latents


def make_shelf(vae, size, shape, options):
    """The Shelf for covers of one size, whose latents have this shape. vae: what tells one autoencoder from another."""
    rule = [VERSION, INDEX_VERSION, size, vae]
    key = hashlib.blake2b(json.dumps(rule, sort_keys=True).encode(), digest_size=12).hexdigest()
    folder = config.cache_dir(options) / "latents" / "{}x{}-{}".format(*size, key)
    return Shelf(folder, size, np.dtype([("content", "S32"), ("moments", "<f2", (2, *shape))]))


def cache_status(count, due, damaged):
    """One line on the state of the cache."""
    found = f"latents: {count - due} of {count} covers are in the cache"
    if damaged:
        found += f", {damaged} damaged file{'s' * (damaged > 1)} deleted"
    return f"{found}; {due} to encode" if due else found


def encode_missing(wanted, shelves, vae, options, accelerator):
    """Compute and publish the posteriors of these [(book, size)]. What a stopped call has computed stays, and of a
    killed one what it has published.

    Each by itself: matrix products round differently with the number of rows, and a cover's numbers must not depend on
    which others were missing.
    """
    device = accelerator.device
    bar = tqdm(total=len(wanted), desc="encoding covers", unit=" covers", disable=not accelerator.is_main_process)
    with bar, on_device(vae, device):
        for size, shelf in shelves.items():
            books = [book for book, its_size in wanted if its_size == size]
            read = functools.partial(read_cover, size=size)
            images = read_ahead(read, books, config.num_workers(options))
            records, published = [], time.monotonic()
            try:
                for book, pixel_values in zip(books, images, strict=True):
                    with accelerator.autocast():
                        records.append((book.content, half_moments(vae, pixel_values.to(device), shelf.record, book)))
                    bar.update()
                    if len(records) >= BLOCK or time.monotonic() - published > SAVE_SECONDS:
                        write_records(np.array(records, shelf.record), shelf.folder)
                        records, published = [], time.monotonic()
            finally:
                if records:
                    write_records(np.array(records, shelf.record), shelf.folder)


def read_cover(book, size):
    """dataset.load_cover of a book. UserError if its file is no longer the one that the hash `content` is of: what was
    kept under that hash would be another picture's."""
    image = dataset.load_cover(book, size)
    if content_hash(book.image) != book.content:
        raise UserError(f"row {book.row}: {book.image} was changed just now: start again when it stays as it is")
    return image


def half_moments(vae, pixel_values, record, book):
    """float16 (2, 4, H/8, W/8), numpy: mean and deviation of a book's image (3, H, W). UserError if they can't be."""
    moments = torch.cat(encoding.posterior(vae, pixel_values[None])).half().cpu()
    if moments.shape != record["moments"].shape:
        made, taken = ("x".join(map(str, shape[1:])) for shape in (moments.shape, record["moments"].shape))
        raise UserError(f"the autoencoder's latents are {made} and the UNet takes {taken}: they are not of one model")
    if not moments.isfinite().all():
        raise UserError(
            f"row {book.row}: the autoencoder's latents are not finite in half precision; leave --cache_latents out, "
            "or give another --pretrained_model"
        )
    return moments.numpy()


def write_records(records, folder):
    """Write a file of records under the hash of its bytes."""
    file = io.BytesIO()
    np.save(file, records)
    name = hashlib.blake2b(file.getbuffer(), digest_size=16).hexdigest()
    with atomic_write(folder / f"{name}.npy", WAY_OUT) as temporary:
        temporary.write_bytes(file.getbuffer())
