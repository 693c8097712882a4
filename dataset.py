"""The torch dataset of book covers with prompts: images as tensors, prompts as token ids.

As a script it checks a data folder and prints a summary:  python -m dataset --data_root DIR
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import config
from cli import launch, parser
from common.errors import UserError
from data.prompts import TEMPLATES, build_prompt, count_tokens
from diffusion.tokens import token_ids, token_limit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import CLIPTokenizer

    from data.book import Book
    from data.buckets import Size

    class CachedText(Protocol):
        """{prompt: its hidden states (N * 77, C)}."""

        def __getitem__(self, prompt: str) -> torch.Tensor: ...

    class Pages(Protocol):
        """(book, (W, H)) -> the glyph page of its cover, uint8 (H, W), 255 = letter."""

        def __call__(self, book: Book, size: Size) -> np.ndarray: ...


def load_image(path: str | pathlib.Path, size: Size) -> torch.Tensor:
    """Reads the cover at `path`, resized to size (W, H) without cropping: float32 (3, H, W) in [-1, 1].

    Each value is k / 127.5 - 1 for an integer k in 0..255. UserError (data.images.BadImage) names an unusable file.
    """
    import numpy as np
    import torch

    from data.images import read_cover

    pixels = np.ascontiguousarray(read_cover(path, size).transpose(2, 0, 1), np.float32)
    return torch.from_numpy(pixels / np.float32(127.5) - np.float32(1))


def load_cover(book: Book, size: Size) -> torch.Tensor:
    """load_image of a book's cover; a UserError also names its row, or its file in a folder of pictures."""
    try:
        return load_image(book.image, size)
    except UserError as problem:
        raise type(problem)(f"{book.name}: {problem}") from None


class BookCoverDataset:
    """dict(pixel_values float32 (3, H, W) in [-1, 1], input_ids int64 (77,), row int) for each book.

    With --max_tokens 150 and more, input_ids are (N, 77): N chunks, see diffusion/tokens.py.

    size: (W, H) of all covers, or with buckets a list with one for each. With cached latents, a mapping from (hash of
    the image file, size) as trainer.latent_cache makes it, no image is read: instead of pixel_values there are moments,
    float16 (2, 4, H/8, W/8), mean and standard deviation of the autoencoder's posterior. With cached text embeddings
    (self.text, as trainer.text_cache makes it) there are hidden_states (N * 77, C) instead of input_ids. For a model
    with lettering (self.pages) there is also page, uint8 (1, H, W), which is blank where the prompt is empty.

    dataset[i] uses the canonical template: for validation and reference. dataset[i, sample_index] is for training:
    template and caption dropout (an empty prompt) are functions of (options.seed, sample_index) alone. Picklable.
    """

    def __init__(
        self,
        books: Sequence[Book],
        size: Size | list[Size],
        tokenizer: CLIPTokenizer,
        options: config.DataOptions,
        latents: Mapping[tuple[str, Size], torch.Tensor] | None = None,
    ):
        self.books, self.tokenizer, self.options, self.latents = books, tokenizer, options, latents
        self.text: CachedText | None = None
        self.pages: Pages | None = None
        self.sizes = size if isinstance(size, list) else [size] * len(books)
        self.limit = token_limit(tokenizer, options.max_tokens)
        self.descriptions = load_descriptions(books, tokenizer, options)

    def __len__(self) -> int:
        return len(self.books)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor | int]:
        import torch

        index, sample_index = key if isinstance(key, tuple) else (key, None)
        book = self.books[index]
        if self.latents is None:
            image = dict(pixel_values=load_cover(book, self.sizes[index]))
        else:
            image = dict(moments=self.latents[book.content, self.sizes[index]])
        text = self.prompt(book) if sample_index is None else self.training_prompt(book, sample_index)
        if self.pages is not None:
            image |= dict(page=self.page(book, self.sizes[index], blank=not text))
        if self.text is not None:
            return dict(**image, hidden_states=self.text[text], row=book.row)
        (ids,) = token_ids(self.tokenizer, [text], self.options.max_tokens)
        return dict(**image, input_ids=torch.tensor(ids, dtype=torch.int64), row=book.row)

    def page(self, book: Book, size: Size, blank: bool) -> torch.Tensor:
        """The glyph page of a book's cover, uint8 (1, H, W); blank: all 0, as guidance without a prompt has it."""
        import torch

        width, height = size
        if blank or self.pages is None:
            return torch.zeros(1, height, width, dtype=torch.uint8)
        return torch.tensor(self.pages(book, size))[None]

    def prompt(self, book: Book, template: str = TEMPLATES[0]) -> str:
        """The prompt of a book, shortened to the tokens that are read."""
        count = functools.partial(count_tokens, self.tokenizer)
        return build_prompt(book, template, count, self.limit, self.descriptions.get(book.row, ""))

    def training_prompt(self, book: Book, sample_index: int) -> str:
        """The prompt of a training sample: a random template, or an empty prompt (caption dropout)."""
        from common import randomness

        random = randomness.rng(self.options.seed, randomness.CAPTION, sample_index)
        template = TEMPLATES[random.integers(len(TEMPLATES))]
        return "" if random.random() < self.options.caption_dropout else self.prompt(book, template)

    def training_prompts(self) -> Iterator[str]:
        """Every prompt that training_prompt can return; equal ones are not left out."""
        if self.options.caption_dropout > 0:
            yield ""
        if self.options.caption_dropout < 1:
            yield from (self.prompt(book, template) for book in self.books for template in TEMPLATES)


def load_descriptions(books: Sequence[Book], tokenizer: CLIPTokenizer, options: config.DataOptions) -> dict[int, str]:
    """{row: text} that prompts may end with: empty, or with --include_desc the description or its summary."""
    if not options.include_desc:
        return {}
    if not options.summarize_desc:
        return {book.row: book.desc for book in books}

    from data import summarizer

    limit = token_limit(tokenizer, options.max_tokens)
    return summarizer.summarize(books, functools.partial(count_tokens, tokenizer), limit, options)


def main(argv: list[str] | None = None) -> int:
    """Check a data folder and print a summary of its contents."""
    options, _ = parser.parse(config.DatasetOptions, argv)

    from data.folder import open_data
    from data.summary import summarize
    from diffusion import pipeline

    data = open_data(options)
    tokenizer = pipeline.load_tokenizer(options.pretrained_model)
    limit = token_limit(tokenizer, options.max_tokens)
    print(summarize(data, functools.partial(count_tokens, tokenizer), limit))
    return 0


if __name__ == "__main__":
    launch.run_script(main)
