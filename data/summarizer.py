"""Summarizes long descriptions with a sequence-to-sequence model of transformers; summaries are cached on disk."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import config
from common.errors import UserError
from common.files import remove_dead_temporary_files, write_text
from common.library_errors import LIBRARY_ERRORS, short_reason
from data.book import Book, normalize_whitespace
from data.image_index import CACHE_HINT
from data.prompts import TEMPLATES, TokenCounter, build_prompt

BATCH_SIZE = 8
MAX_LENGTH = 64  # tokens of a summary: about what title and author leave of CLIP's 77
SAVE_SECONDS = 30  # a run that is killed loses at most this much work


def summarize(
    books: Sequence[Book], count_tokens: TokenCounter, max_tokens: int, options: config.DataOptions
) -> dict[int, str]:
    """{row: text} for each book: its description if that fits into the prompt of every template, else its summary.

    count_tokens(text) counts a prompt's tokens; a summary may still have to be shortened to fit. Each summary is
    computed once and cached, in one file for each options.summarizer. UserError if the summarizer is not available.
    """
    texts = {book.row: normalize_whitespace(book.desc) for book in books}

    def fits(book: Book) -> bool:
        words = len(texts[book.row].split())  # a word has at least one token: avoids counting most of them
        prompts = (build_prompt(book, template, desc=texts[book.row]) for template in TEMPLATES)
        return words <= max_tokens and all(count_tokens(prompt) <= max_tokens for prompt in prompts)

    long = {book.row: key_of(texts[book.row]) for book in books if texts[book.row] and not fits(book)}
    folder = os.path.expanduser(options.summarizer)  # of os, as below: it raises nothing for what can't be a path
    source = str(pathlib.Path(folder).resolve()) if os.path.isdir(folder) else options.summarizer
    path = config.cache_dir(options) / "summaries" / f"{key_of(source)}.json"
    remove_dead_temporary_files(path.parent)
    summaries = read_cached(path)
    missing = {key: texts[row] for row, key in long.items() if key not in summaries}
    if missing:
        tokenizer, model = load_summarizer(source)
        last_save = time.monotonic()
        bar = tqdm(desc="summarizing", total=len(missing), unit=" texts")
        try:
            for keys, batch in make_batches(missing):
                summaries.update(zip(keys, generate(tokenizer, model, batch), strict=True))
                bar.update(len(keys))
                if time.monotonic() - last_save > SAVE_SECONDS:
                    write_cached(path, summaries)
                    last_save = time.monotonic()
        finally:
            bar.close()
            write_cached(path, summaries)
    return texts | {row: summaries[key] or texts[row] for row, key in long.items()}


def key_of(text: str) -> str:
    """Cache key of a text: its hash (hex)."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_cached(path: pathlib.Path) -> dict[str, str]:
    """{key: summary} from the cache file, without damaged ones; empty if it is missing or damaged as a whole."""
    try:
        cached = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    summaries = {}
    for key, value in cached.items() if isinstance(cached, dict) else ():
        match value:
            case [str(text), sum_of_text] if sum_of_text == checksum(key, text):
                summaries[key] = text
            case str(text):  # of releases without checksums
                summaries[key] = text
    return summaries


def write_cached(path: pathlib.Path, summaries: Mapping[str, str]) -> None:
    """Writes the cache file: {key: [summary, checksum]}."""
    write_text(path, json.dumps({key: [text, checksum(key, text)] for key, text in summaries.items()}), CACHE_HINT)


def checksum(key: str, summary: str) -> str:
    """Checksum (8 hex digits) of an entry of the cache."""
    return key_of(json.dumps([key, summary]))[:8]


def make_batches(texts: Mapping[str, str]) -> list[tuple[list[str], list[str]]]:
    """[(keys, texts), ...] of BATCH_SIZE from {key: text}, the longest first: similar lengths need little padding."""
    keys = sorted(texts, key=lambda key: (-len(texts[key]), key))
    starts = range(0, len(keys), BATCH_SIZE)
    return [(keys[i : i + BATCH_SIZE], [texts[key] for key in keys[i : i + BATCH_SIZE]]) for i in starts]


def load_summarizer(source: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """(tokenizer, model) of a hub id or folder, on the GPU if there is one. UserError if it is not available.

    No code that comes with a model is run, and no pickle read but by torch's weights_only.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        safely: Any = dict(trust_remote_code=False, weights_only=True)
        model, info = AutoModelForSeq2SeqLM.from_pretrained(source, output_loading_info=True, **safely)
        if missing := sorted(info["missing_keys"]):  # transformers would make them up
            raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    except LIBRARY_ERRORS as problem:
        if "trust_remote_code" in str(problem):
            raise UserError(
                f"the summarizer '{source}' needs code that comes with it, and such code is not run here: give another "
                "--summarizer, such as facebook/bart-large-cnn, or leave out --summarize_desc"
            ) from None
        raise UserError(
            f"can't get the summarizer '{source}': tried it as a folder, in the Hugging Face cache and on the hub: "
            f"{short_reason(problem)} -- on a machine with internet run `hf download {source} "
            "--local-dir DIR`, bring DIR here and give --summarizer DIR; or leave out --summarize_desc"
        ) from None
    return tokenizer, model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def generate(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, texts: list[str]) -> list[str]:
    """A summary for each text, by beam search, which is deterministic."""
    limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
    inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=limit)
    tokens = model.generate(
        input_ids=inputs["input_ids"].to(model.device),
        attention_mask=inputs["attention_mask"].to(model.device),
        max_length=MAX_LENGTH,
        min_length=0,
        num_beams=4,
        do_sample=False,
    )
    return [normalize_whitespace(text) for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
