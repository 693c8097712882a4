"""Cached text embeddings: a frozen text encoder reads each prompt once, and training reads the result instead.

    <cache_dir>/text/77x768-<key>/<hash>.npy    records of many prompts: hash of the prompt, and its hidden states

They are kept in the precision that training computes in, to which the UNet's cross-attention rounds them first of all:
losses are those without the cache. (On a GPU the encoder reads several prompts at once, here and in training, and
matrix products round differently with the number of them; on a CPU they have not been seen to.)

The key is a hash of everything else that the numbers depend on: the text encoder's weights and settings, the tokenizer,
--clip_skip, --max_tokens, precision, kind of device, libraries. Equal prompts are kept once. Files and folders:
record_cache.py.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import textwrap
from collections.abc import Sequence
from typing import Any

import accelerate
import numpy as np
import torch
from tqdm import tqdm

import config
from common.errors import UserError
from common.files import GIB
from dataset import BookCoverDataset
from diffusion import encoding
from diffusion.architecture import network_settings
from diffusion.parts import Parts
from diffusion.placement import DTYPES, on_device
from diffusion.tokens import num_chunks
from diffusion.weights import networks_hash
from trainer.record_cache import CachedRecords, Kind, RecordFolder, RecordWriter, complete

VERSION = 1  # raise it when the same prompt, tokenizer, text encoder and precision would give other numbers
LIBRARIES = ("torch", "transformers", "tokenizers")
PROMPTS_PER_FILE = 500  # at most; for Stable Diffusion 1.x in half precision 118 KB each
BATCH_SIZE = 32  # prompts that a GPU reads at once
TEXT = Kind("text embeddings", "text", "prompts", "--cache_text")
# NumPy's type of a file, which has the bytes of torch's
FILE_TYPES = {torch.float32: "<f4", torch.float16: "<f2", torch.bfloat16: "<u2"}


class CachedText:
    """text[prompt] -> encoder_hidden_states (N * 77, C). It can be pickled."""

    def __init__(self, records: CachedRecords):
        self.records = records

    def __getitem__(self, prompt: str) -> torch.Tensor:
        return self.records[prompt_hash(prompt), ""]


def prompt_hash(prompt: str) -> str:
    """Name of a prompt in the cache."""
    return hashlib.blake2b(prompt.encode(), digest_size=16).hexdigest()


@torch.no_grad()
def cache_text(
    train_set: BookCoverDataset,
    val_set: BookCoverDataset,
    parts: Parts,
    options: config.TrainingOptions,
    accelerator: accelerate.Accelerator,
) -> CachedText:
    """The hidden states of every prompt that training and validation can ask for; those not in the cache are computed
    first, by all processes.

    parts.text_encoder is cast to the precision of the accelerator, is on the device only while it works, and is left on
    the CPU. UserError if the disk is full, or a value is not finite in that precision.
    """
    dtype = DTYPES[accelerator.mixed_precision]
    parts.text_encoder.to("cpu", dtype)
    folder = text_folder(parts, options, accelerator)
    prompts = itertools.chain(train_set.training_prompts(), map(val_set.prompt, val_set.books))
    quiet = not accelerator.is_main_process
    bar = tqdm(prompts, "building prompts", unit=" prompts", delay=3, disable=quiet)
    wanted = {(prompt_hash(prompt), ""): prompt for prompt in bar}  # equal prompts once
    size, place = folder.record.itemsize, folder.path.parent
    accelerator.print(
        f"{TEXT.name}: {len(wanted)} different prompts of {size / 1000:.0f} KB take "
        f"{len(wanted) * size / GIB:.2f} GiB in {place}"
    )

    def encode(keys: Sequence[tuple[str, str]]) -> None:
        encode_to_files([wanted[key] for key in keys], folder, parts, options, accelerator)

    records = CachedRecords(TEXT.name, dtype)
    complete(records, TEXT, [folder], list(wanted), encode, options, accelerator)
    return CachedText(records)


def text_folder(parts: Parts, options: config.TrainingOptions, accelerator: accelerate.Accelerator) -> RecordFolder:
    """The RecordFolder, which need not exist yet, for this text encoder and tokenizer in this precision."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    network = [networks_hash(parts.text_encoder), network_settings(parts.text_encoder)]
    precision = [accelerator.mixed_precision, accelerator.device.type]
    rule = [VERSION, tokenizer_settings(parts.tokenizer), network, options.clip_skip, options.max_tokens]
    key = hashlib.blake2b(json.dumps([rule, precision, versions], sort_keys=True).encode(), digest_size=12).hexdigest()
    shape = (
        num_chunks(options.max_tokens) * parts.tokenizer.model_max_length,
        parts.text_encoder.config.hidden_size,
    )
    record = np.dtype([("content", "S32"), ("states", FILE_TYPES[DTYPES[accelerator.mixed_precision]], shape)])
    return RecordFolder(config.cache_dir(options) / TEXT.folder / "{}x{}-{}".format(*shape, key), "", record)


def tokenizer_settings(tokenizer: Any) -> dict[str, Any]:
    """Everything that a prompt's ids depend on, ready for JSON. (How the last call padded and cut is not of it.)"""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings |= dict(truncation=None, padding=None, pad=tokenizer.pad_token_id, limit=tokenizer.model_max_length)
    return settings


def encode_to_files(
    prompts: Sequence[str],
    folder: RecordFolder,
    parts: Parts,
    options: config.TrainingOptions,
    accelerator: accelerate.Accelerator,
) -> None:
    """Encode prompts and write their hidden states. A stopped call keeps what it has encoded, a killed one what it
    wrote.

    On a CPU one prompt at a time, which costs no time there: its numbers can't depend on which others were missing.
    """
    device, dtype = accelerator.device, DTYPES[accelerator.mixed_precision]
    batch_size = 1 if device.type == "cpu" else BATCH_SIZE
    bar = tqdm(total=len(prompts), desc="encoding prompts", unit=" prompts", disable=not accelerator.is_main_process)
    writer = RecordWriter(folder, PROMPTS_PER_FILE, TEXT.hint)
    with bar, on_device(parts.text_encoder, device), writer:
        for first in range(0, len(prompts), batch_size):
            batch = prompts[first : first + batch_size]
            with accelerator.autocast():
                states = encoding.encode_prompts(
                    parts.tokenizer, parts.text_encoder, batch, options.max_tokens, options.clip_skip
                )
            for prompt, each in zip(batch, states.to("cpu", dtype), strict=True):
                writer.add(prompt_hash(prompt), to_array(each, prompt))
            bar.update(len(batch))


def to_array(states: torch.Tensor, prompt: str) -> np.ndarray:
    """Hidden states (N * 77, C) as NumPy's array for a record. UserError if they are not finite."""
    if not states.isfinite().all():
        raise UserError(
            f"prompt {textwrap.shorten(prompt, 100, placeholder=' ...')!r}: the text encoder's output is not finite in "
            f"{states.dtype}; give --mixed_precision no, leave --cache_text out, or give another --pretrained_model"
        )
    return (states.view(torch.uint16) if states.dtype == torch.bfloat16 else states).numpy()
