"""Book covers with prompts: a data folder in the Goodreads layout -> checked books, a stable split, tensors.

As a script it checks a data folder and prints what it found:  python -m dataset --data_root DIR
"""

from __future__ import annotations

import functools

import config
from cli import launch, parser
from common.errors import UserError
from data.prompts import TEMPLATES, build_prompt, count_tokens

# ---------------------------------------------------------------------------------------------------------------------
# Books -> tensors


def load_image(path, size):
    """The cover at `path` -> torch.float32 (3, H, W) in [-1, 1] for size (W, H); nothing cropped (covers.fit).

    Each value is k / 127.5 - 1 for a whole k in 0..255. UserError (covers.BadImage) names a file that can't be had.
    """
    import numpy as np
    import torch

    from data.images import read_cover

    pixels = np.ascontiguousarray(read_cover(path, size).transpose(2, 0, 1), np.float32)
    return torch.from_numpy(pixels / np.float32(127.5) - np.float32(1))


def load_cover(book, size):
    """load_image of a book's cover; the UserError names its row."""
    try:
        return load_image(book.image, size)
    except UserError as problem:
        raise type(problem)(f"row {book.row}: {problem}") from None


class BookCoverDataset:
    """dict(pixel_values float32 (3, H, W) in [-1, 1], input_ids int64 (77,), row int) for each book.

    size: (W, H) of all covers, or with buckets a list with one for each. With cached latents (latents.Latents) no
    picture is read: instead of pixel_values there are moments, float16 (2, 4, H/8, W/8), mean and deviation of the
    autoencoder's posterior.

    dataset[i] has the canonical template: for validation and reference. dataset[i, position] is for training: template
    and caption dropout (an empty prompt) are functions of (options.seed, position) alone. It can be pickled.
    """

    def __init__(self, books, size, tokenizer, options, latents=None):
        self.books, self.tokenizer, self.options, self.latents = books, tokenizer, options, latents
        self.sizes = size if isinstance(size, list) else [size] * len(books)
        self.descriptions = descriptions(books, tokenizer, options)

    def __len__(self):
        return len(self.books)

    def __getitem__(self, key):
        import torch

        index, position = key if isinstance(key, tuple) else (key, None)
        book = self.books[index]
        if self.latents is None:
            picture = dict(pixel_values=load_cover(book, self.sizes[index]))
        else:
            picture = dict(moments=self.latents[book.content, self.sizes[index]])
        text = self.prompt(book) if position is None else self.training_prompt(book, position)
        limit = self.tokenizer.model_max_length
        tokens = self.tokenizer(text, padding="max_length", truncation=True, max_length=limit)
        input_ids = torch.tensor(tokens["input_ids"], dtype=torch.int64)
        return dict(**picture, input_ids=input_ids, row=book.row)

    def prompt(self, book, template=TEMPLATES[0]):
        """The prompt of a book, shortened to what the text encoder reads."""
        count = functools.partial(count_tokens, self.tokenizer)
        return build_prompt(book, template, count, self.tokenizer.model_max_length, self.descriptions.get(book.row, ""))

    def training_prompt(self, book, position):
        """The prompt of a book at a position of the training: one of the templates, or nothing (caption dropout)."""
        from common import randomness

        random = randomness.rng(self.options.seed, randomness.CAPTION, position)
        template = TEMPLATES[random.integers(len(TEMPLATES))]
        return "" if random.random() < self.options.caption_dropout else self.prompt(book, template)


def descriptions(books, tokenizer, options):
    """{row: text} that prompts may end with: nothing, or with --include_desc the description, or its summary."""
    if not options.include_desc:
        return {}
    if not options.summarize_desc:
        return {book.row: book.desc for book in books}

    from data import summarizer

    return summarizer.summarize(books, functools.partial(count_tokens, tokenizer), tokenizer.model_max_length, options)


# ---------------------------------------------------------------------------------------------------------------------


def main():
    """Check a data folder and print what it holds."""
    options, _ = parser.parse(config.DatasetOptions)

    from data.folder import open_data
    from diffusion import pipeline

    data = open_data(options)
    print(data.report(functools.partial(count_tokens, pipeline.load_tokenizer(options.pretrained_model))))


if __name__ == "__main__":
    launch.run_script(main)
