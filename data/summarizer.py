"""Long descriptions -> short ones, by a sequence-to-sequence model of transformers; remembered in the cache folder."""

from __future__ import annotations

import hashlib
import json
import pathlib
import time

import torch
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import config
from common.errors import UserError
from common.files import write_text
from data.book import tidy
from data.image_index import CACHE_HINT
from data.prompts import TEMPLATES, build_prompt

BATCH_SIZE = 8
MAX_LENGTH = 64  # tokens of a summary: title and author leave about this much room
SAVE_SECONDS = 30  # a killed run loses at most this much


def summarize(books, count_tokens, max_tokens, options):
    """{row: text} for each book: its description where that fits into every template's prompt, else its summary.

    count_tokens(text) is the prompt's; summaries may still have to be shortened. Summaries are kept in the cache, one
    file for each options.summarizer, and made only once. UserError if the summarizer can't be had.
    """
    texts = {book.row: tidy(book.desc) for book in books}

    def fits(book):
        words = len(texts[book.row].split())  # a word has at least one token: spares counting most
        prompts = (build_prompt(book, template, desc=texts[book.row]) for template in TEMPLATES)
        return words <= max_tokens and all(count_tokens(prompt) <= max_tokens for prompt in prompts)

    long = {book.row: key_of(texts[book.row]) for book in books if texts[book.row] and not fits(book)}
    folder = pathlib.Path(options.summarizer).expanduser()
    source = str(folder.resolve()) if folder.is_dir() else options.summarizer
    path = config.cache_dir(options) / "summaries" / f"{key_of(source)}.json"
    known = read_known(path)
    due = {key: texts[row] for row, key in long.items() if key not in known}
    if due:
        tokenizer, model = load(source)
        saved = time.monotonic()
        bar = tqdm(desc="summarizing", total=len(due), unit=" texts")
        try:
            for keys, batch in batches(due):
                known.update(zip(keys, generate(tokenizer, model, batch), strict=True))
                bar.update(len(keys))
                if time.monotonic() - saved > SAVE_SECONDS:
                    write_text(path, json.dumps(known), CACHE_HINT)
                    saved = time.monotonic()
        finally:
            bar.close()
            write_text(path, json.dumps(known), CACHE_HINT)
    return texts | {row: known[key] or texts[row] for row, key in long.items()}


def key_of(text):
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_known(path):
    """{key: summary} from the cache; empty if there is none or it is damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) and all(isinstance(text, str) for text in known.values()) else {}


def batches(due):
    """[(keys, texts), ...] of BATCH_SIZE, texts of like length together, so that little is padding."""
    keys = sorted(due, key=lambda key: (-len(due[key]), key))
    starts = range(0, len(keys), BATCH_SIZE)
    return [(keys[i : i + BATCH_SIZE], [due[key] for key in keys[i : i + BATCH_SIZE]]) for i in starts]


def load(source):
    """(tokenizer, model) of a hub id or folder, on the GPU if there is one. UserError if they can't be had."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForSeq2SeqLM.from_pretrained(source).eval()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as problem:
        raise UserError(
            f"can't get the summarizer '{source}': tried it as a folder, in the Hugging Face cache and on the hub: "
            f"{' '.join(str(problem).split())[:300]} -- on a machine with internet run `hf download {source} "
            "--local-dir DIR`, bring DIR here and give --summarizer DIR; or leave out --summarize_desc"
        ) from None
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def generate(tokenizer, model, texts):
    """One summary (str) for each text, by beam search, which has no randomness."""
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
    return [tidy(text) for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
