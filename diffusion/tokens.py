"""How many tokens of a prompt are read, and how a long one is cut into chunks for the text encoder.

CLIP reads 77 positions: start, 75 tokens, end. A longer prompt is cut into chunks of 75 tokens, each with its own start
and end, and the encoder reads them one by one; the UNet attends to all their hidden states in a row. This is how
A1111's web UI (and ComfyUI) draw long prompts: each chunk keeps its start and end, so N chunks are N * 77 states.
(kohya's scripts leave the inner starts and ends out: N * 75 + 2 states, which those programs never show a model.)

A prompt always gets all its chunks: what it does not fill is padding, as in training, and the empty prompt of guidance
is as long as the others. Text is cut after exactly 75 tokens, also within a word.

Only the standard library is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

ONE_CHUNK = 77  # --max_tokens of what the text encoder reads at once
CHUNK = 75  # tokens of a prompt in one chunk of CLIP, its start and end not included


def num_chunks(max_tokens: int) -> int:
    """Chunks that --max_tokens stands for: 1 for 77 (and 75), 2 for 150, 3 for 225.

    A model whose tokenizer has another length (mini: 40 positions, so 38 tokens a chunk) gets as many of its own.
    """
    return max_tokens // CHUNK


def token_limit(tokenizer: CLIPTokenizer, max_tokens: int) -> int:
    """Tokens of a prompt that are read, one start and one end included, as data.prompts.count_tokens counts them."""
    return num_chunks(max_tokens) * (tokenizer.model_max_length - 2) + 2


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str], max_tokens: int) -> list[Any]:
    """Ids of each text: a list of 77, or with several chunks N lists of 77. What is beyond the limit is cut off."""
    length = tokenizer.model_max_length
    if num_chunks(max_tokens) == 1:
        return tokenizer(list(texts), padding="max_length", truncation=True, max_length=length)["input_ids"]
    return [cut(tokenizer, text, length, num_chunks(max_tokens)) for text in texts]


def cut(tokenizer: CLIPTokenizer, text: str, length: int, chunks: int) -> list[list[int]]:
    """The ids of a text in `chunks` lists of `length`, each with its start, its end and padding."""
    start, *inner, end = tokenizer(text, truncation=False, verbose=False)["input_ids"]
    pieces = [inner[i * (length - 2) :][: length - 2] for i in range(chunks)]
    return [[start, *piece, end, *[tokenizer.pad_token_id] * (length - 2 - len(piece))] for piece in pieces]
