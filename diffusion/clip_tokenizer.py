"""The tokenizer of Stable Diffusion 1.x and 2.x, CLIP's, bundled: a single file has weights alone."""

from __future__ import annotations

import pathlib

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

MERGES = pathlib.Path(__file__).parent / "clip_bpe" / "merges.txt"  # MIT licence, beside it
START, END = "<|startoftext|>", "<|endoftext|>"


def build(pad_token: str = END) -> CLIPTokenizer:
    """CLIP's byte-level BPE tokenizer of 49,408 tokens, arXiv:2103.00020; 77 tokens to a prompt.

    pad_token: 1.x pads with its end token, 2.x with '!'.
    """
    lines = MERGES.read_text(encoding="utf-8").splitlines()[1:]  # the first says #version
    merges = [tuple(line.split(" ")) for line in lines]
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges), START, END]
    vocab = {token: number for number, token in enumerate(tokens)}
    special = dict(bos_token=START, eos_token=END, unk_token=END, pad_token=pad_token)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, **special)
