"""mini's tokenizer: a small byte-level BPE in CLIP's format, learned from captions and the words of the demo books."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterable, Sequence

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from data import prompts
from demo_data.books import FIRST, GENRES, LAST, PLACES, TITLES

VOCABULARY = 1600  # tokens at most, including the 512 of bytes and the 2 of start and end; mini has 1,529
MAX_LENGTH = 40  # tokens; CLIP's 77 would mostly be padding, which costs attention and time


def corpus(captions: Iterable[str]) -> list[str]:
    """All texts whose words should have few tokens: captions of posters, and the words of book prompts."""
    lists = [FIRST, LAST, PLACES, TITLES, *GENRES]
    lists += [words for entry in GENRES.values() for words in entry[:3]]
    return [*captions, *(word for words in lists for word in words.split("|")), *prompts.TEMPLATES]


def learn_merges(texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """The first `count` merges of byte-pair encoding (Sennrich et al., arXiv:1508.07909), most frequent pair first."""
    words = collections.Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    splits = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    for _ in range(count):
        pairs = collections.Counter()
        for word, parts in splits.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append((left, right))
        for parts in splits.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == (left, right):
                    parts[i : i + 2] = [left + right]
                i += 1
    return merges


def build_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """Learns a CLIPTokenizer from these captions and the corpus."""
    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges = learn_merges(corpus(captions), VOCABULARY - len(tokens) - 2)
    tokens += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)
