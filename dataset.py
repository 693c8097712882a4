"""Book covers with prompts: a data folder in the Goodreads layout -> checked books, a stable split, tensors.

As a script it checks a data folder and prints what it found:  python -m dataset --data_root DIR
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib

import config
from cli import parser
from config import UserError
from data.prompts import MAX_TOKENS, TEMPLATES, Book, build_prompt

# ---------------------------------------------------------------------------------------------------------------------
# Data folder -> Data


@dataclasses.dataclass
class Data:
    """What a data folder holds. `kept` is in the stable order; `dropped` has (row, kind, reason) in row order."""

    options: config.DataOptions
    root: pathlib.Path
    cache: pathlib.Path  # where index and quarantine.csv lie
    kept: list[Book]
    dropped: list[tuple[int, str, str]]
    num_strays: int  # image files without a row
    split_rule: str

    def books(self, split):
        """The usable books of 'train', 'test' or 'all', in the stable order: any first N are a fair sample."""
        if split not in ("train", "test", "all"):
            raise ValueError(f"no split {split!r}")
        return [book for book in self.kept if split in (book.split, "all")]

    @staticmethod
    def fingerprint(books):
        """Hash (hex) of what these books contain, in this order: rows, texts, image contents; not where they lie."""
        total = hashlib.blake2b(digest_size=16)
        for book in books:
            texts = [book.row, book.title, book.authors, book.genres, book.desc, book.content]
            total.update(json.dumps(texts).encode())
        return total.hexdigest()

    def report(self, count_tokens=None):
        """A printable table of what was found. count_tokens(text) counts a prompt's tokens, start and end included."""
        return "\n".join(
            f"{label:<34}{value:>9}   {note}".rstrip()
            for label, value, note in report_rows(self)
            + report_shapes(self.kept, self.options)
            + (report_prompts(self.kept, count_tokens, self.options.include_desc) if count_tokens else [])
            + [("index", "", self.cache / "images.csv"), ("quarantine", "", self.cache / "quarantine.csv")]
        )


def open_data(options):
    """The Data of options.data_root ('demo': the bundled demo set). Decodes each new or changed image file once.

    options: any options class that has DataOptions' fields. Nothing is written outside the cache folder. UserError if
    folder, CSV, columns or images are missing or broken, or if a split would be empty.
    """
    from data import goodreads
    from data import images as data_images
    from demo_data import folder

    if options.data_root == "demo":
        root = folder.ensure(config.cache_dir(options), workers=config.num_workers(options))
    else:
        root = pathlib.Path(options.data_root).expanduser()
    table = goodreads.read_table(root)
    splits, split_rule = goodreads.read_splits(root, len(table), options)

    key = hashlib.blake2b(str(root.resolve()).encode(), digest_size=6).hexdigest()
    cache = config.cache_dir(options) / "index" / f"{root.resolve().name}-{key}"
    images = root / goodreads.IMAGES
    names = [f"{row}.jpg" for row in range(len(table))]
    entries, strays = data_images.check_folder(images, names, cache / "images.csv", config.num_workers(options))

    kept, dropped = goodreads.sort_out(table, images, entries, splits, options)
    rows = [(row, f"{goodreads.IMAGES}/{row}.jpg", reason) for row, _, reason in dropped]
    data_images.write_csv(cache / "quarantine.csv", ("row", "file", "reason"), rows)
    data = Data(options, root, cache, kept, dropped, len(strays), split_rule)
    for split in ("train", "test"):
        if not data.books(split):
            raise UserError(empty_split(data, split))
    return data


def empty_split(data, split):
    """The message for a split without books."""
    if not data.kept:
        counts = collections.Counter(kind for _, kind, _ in data.dropped).most_common()
        counts = ", ".join(f"{kind} {count}" for kind, count in counts) or "book_data.csv has no rows"
        hint = "; --min_ascii 0 keeps every language" if "not English" in counts else ""
        return f"no usable book in {data.root}: {counts}; each row's reason is in {data.cache / 'quarantine.csv'}{hint}"
    if "--test_fraction" not in data.split_rule:
        return (
            f"no usable book in the {split} split, {data.split_rule}: mend these files or take them out of {data.root}"
        )
    change = "raise" if split == "test" else "lower"
    return (
        f"the {split} split is empty: all {len(data.kept)} usable books of {data.root} fall on the other side; "
        f"{change} --test_fraction (now {data.options.test_fraction}), or add books"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Data -> report: lists of (label, number, note)


def report_rows(data):
    """Kept, dropped by reason, split, editions, missing texts."""
    from data import goodreads

    editions = collections.defaultdict(list)  # of one book
    for book in data.kept:
        editions[goodreads.book_key(book.title, book.authors)].append(book.split)
    several = [splits for splits in editions.values() if len(splits) > 1]
    straddling = sum(len(set(splits)) > 1 for splits in several)
    kinds = collections.Counter(kind for _, kind, _ in data.dropped).most_common()
    return [
        ("data folder", "", data.root),
        ("rows", len(data.kept) + len(data.dropped), ""),
        ("  dropped", len(data.dropped), ""),
        *((f"    {kind}", count, "") for kind, count in kinds),
        ("  kept", len(data.kept), ""),
        ("    train", len(data.books("train")), data.split_rule),
        ("    test", len(data.books("test")), ""),
        ("    books in several editions", len(several), f"{sum(map(len, several))} rows; {straddling} in both splits"),
        ("    without a description", sum(not book.desc.strip() for book in data.kept), ""),
        ("    without an author", sum(not book.authors for book in data.kept), ""),
        ("    without a genre", sum(not book.genres for book in data.kept), ""),
        ("image files without a row", data.num_strays, ""),
    ]


def report_shapes(books, options):
    """Aspect ratios of the kept covers, how many are in each bucket, and what the resize rule does to them."""
    import numpy as np

    from data import buckets, images

    sizes = buckets.sizes_of(books, options)
    shapes = np.array([(book.width, book.height) for book in books], float)
    ratios = shapes[:, 0] / shapes[:, 1]
    bins = collections.Counter(min(int(ratio * 20), 30) for ratio in ratios)  # 0.05 wide, the last one open
    bars = [(f"  from {i / 20:.2f}", bins[i], "#" * -(-40 * bins[i] // max(bins.values()))) for i in sorted(bins)]
    inner = [images.fitted_size((book.width, book.height), size) for book, size in zip(books, sizes, strict=True)]
    inner = np.array(inner, float)
    stretch = (inner / shapes)[:, 0] / (inner / shapes)[:, 1]  # of width against height; 1 = shape kept
    distortion = np.maximum(stretch, 1 / stretch) - 1
    filled = 1 - inner.prod(1) / np.prod(sizes, 1)
    worst, emptiest = books[distortion.argmax()].row, books[filled.argmax()].row
    counts = collections.Counter("{}x{}".format(*size) for size in sorted(sizes)) if options.buckets else {}
    target = "the buckets" if options.buckets else options.resolution
    percentiles = ", ".join(f"{ratio:.3f}" for ratio in np.percentile(ratios, (1, 25, 50, 75, 99)))
    return [
        ("width / height", "", f"percentiles 1, 25, 50, 75, 99: {percentiles}"),
        *bars,
        *((f"  bucket {size}", count, "") for size, count in counts.items()),
        (f"resize to {target}", "", "Lanczos, antialiased; the whole cover stays visible"),
        ("  largest distortion", f"{distortion.max():.1%}", f"row {worst}; the limit is {images.MAX_STRETCH - 1:.0%}"),
        ("  covers with filled edges", int((filled > 0).sum()), "what stretching leaves gets the colour of the edge"),
        ("  largest filled area", f"{filled.max():.1%}", f"row {emptiest}" if filled.max() else ""),
    ]


def report_prompts(books, count_tokens, include_desc):
    """How many canonical prompts would be too long if nothing were shortened."""
    from tqdm import tqdm

    counts = []
    for book in tqdm(books, "counting tokens", unit=" prompts", delay=2):
        counts.append(count_tokens(build_prompt(book, desc=book.desc if include_desc else "")))
    longest = counts.index(max(counts))
    return [
        (f"prompts over {MAX_TOKENS} tokens", sum(count > MAX_TOKENS for count in counts), "before shortening"),
        ("  longest", counts[longest], f"row {books[longest].row}"),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Books -> tensors


def load_image(path, size):
    """The cover at `path` -> torch.float32 (3, H, W) in [-1, 1] for size (W, H); nothing cropped (covers.fit).

    Each value is k / 127.5 - 1 for a whole k in 0..255. UserError (covers.BadImage) names a file that can't be had.
    """
    import numpy as np
    import torch

    from data import images

    pixels = np.ascontiguousarray(images.read(path, size).transpose(2, 0, 1), np.float32)
    return torch.from_numpy(pixels / np.float32(127.5) - np.float32(1))


def load_cover(book, size):
    """load_image of a book's cover; the UserError names its row."""
    try:
        return load_image(book.image, size)
    except UserError as problem:
        raise type(problem)(f"row {book.row}: {problem}") from None


def count_tokens(tokenizer, text):
    """How many tokens the text has, start and end included; it may be more than the model reads."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])


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
        from diffusion import objective

        random = objective.rng(self.options.seed, objective.CAPTION, position)
        template = TEMPLATES[random.integers(len(TEMPLATES))]
        return "" if random.random() < self.options.caption_dropout else self.prompt(book, template)


def descriptions(books, tokenizer, options):
    """{row: text} that prompts may end with: nothing, or with --include_desc the description, or its summary."""
    from data import summarizer

    if not options.include_desc:
        return {}
    if not options.summarize_desc:
        return {book.row: book.desc for book in books}

    return summarizer.summarize(books, functools.partial(count_tokens, tokenizer), tokenizer.model_max_length, options)


# ---------------------------------------------------------------------------------------------------------------------


def main():
    from diffusion import pipeline

    options, _ = parser.parse(config.DatasetOptions)
    data = open_data(options)

    print(data.report(functools.partial(count_tokens, pipeline.load_tokenizer(options.pretrained_model))))


if __name__ == "__main__":
    parser.run_script(main)
