"""Summary of a data folder as a printable table: counts, aspect ratios, prompt lengths."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

import config
from data import buckets, goodreads
from data.book import Book
from data.folder import Data
from data.images import MAX_STRETCH, fitted_size
from data.layout import CAPTIONS, GOODREADS
from data.prompts import MAX_TOKENS, TokenCounter, build_prompt

Line = tuple[str, object, object]  # label, number, note


def summarize(data: Data, count_tokens: TokenCounter | None = None, max_tokens: int = MAX_TOKENS) -> str:
    """The table, several lines of text. count_tokens(text) counts a prompt's tokens, start and end included, of which
    the model reads max_tokens.

    Without count_tokens the lines about prompt lengths are omitted.
    """
    lines = (row_lines if data.layout == GOODREADS else picture_lines)(data) + shape_lines(data.kept, data.options)
    if count_tokens:
        lines += prompt_lines(data.kept, count_tokens, max_tokens, data.options.include_desc)
    lines += [("index", "", data.index_path), ("quarantine", "", data.quarantine_path)]
    if data.layout != GOODREADS:
        lines += [("numbers of the pictures", "", data.numbers_path)]
    lines += [("note", "", note) for note in data.notes]
    return "\n".join(f"{label:<34}{value:>9}   {note}".rstrip() for label, value, note in lines)


def row_lines(data: Data) -> list[Line]:
    """Rows kept and dropped by reason, the split, editions, missing texts."""
    editions = collections.defaultdict(list)  # of one book
    for book in data.kept:
        editions[goodreads.book_key(book.title, book.authors)].append(book.split)
    several = [splits for splits in editions.values() if len(splits) > 1]
    in_both = sum(len(set(splits)) > 1 for splits in several)
    kinds = collections.Counter(row.kind for row in data.dropped).most_common()
    return [
        ("data folder", "", data.root),
        (
            "rows",
            len(data.kept) + len(data.dropped),
            "numbered by a column of the file" if data.numbered else "counted from 0",
        ),
        ("  dropped", len(data.dropped), ""),
        *((f"    {kind}", count, "") for kind, count in kinds),
        ("  kept", len(data.kept), ""),
        ("    train", len(data.books("train")), data.split_rule),
        ("    test", len(data.books("test")), ""),
        ("    books in several editions", len(several), f"{sum(map(len, several))} rows; {in_both} in both splits"),
        ("    without a description", sum(not book.desc.strip() for book in data.kept), ""),
        ("    without an author", sum(not book.authors for book in data.kept), ""),
        ("    without a genre", sum(not book.genres for book in data.kept), ""),
        ("image files without a row", data.num_unmatched_images, ""),
    ]


def picture_lines(data: Data) -> list[Line]:
    """Captioned pictures kept and left out by reason, and the split."""
    kinds = collections.Counter(row.kind for row in data.dropped if row.row >= 0).most_common()
    titled = sum(bool(book.title) for book in data.kept)
    how = ".txt captions" if data.layout == CAPTIONS else "captions in metadata.csv or metadata.jsonl"
    return [
        ("data folder", "", data.root),
        ("pictures", len(data.kept) + sum(row.row >= 0 for row in data.dropped), how),
        ("  left out", sum(count for _, count in kinds), ""),
        *((f"    {kind}", count, "") for kind, count in kinds),
        ("  kept", len(data.kept), ""),
        ("    train", len(data.books("train")), data.split_rule),
        ("    test", len(data.books("test")), ""),
        *([("    with a title", titled, "")] if titled else []),
        ("captions without a picture", sum(row.row < 0 for row in data.dropped), ""),
    ]


def shape_lines(books: Sequence[Book], options: config.BucketOptions) -> list[Line]:
    """Aspect ratios of the kept covers, covers in each bucket, and the effect of resizing."""
    sizes = buckets.cover_sizes(books, options)
    shapes = np.array([(book.width, book.height) for book in books], float)
    ratios = shapes[:, 0] / shapes[:, 1]
    bins = collections.Counter(min(int(ratio * 20), 30) for ratio in ratios)  # 0.05 wide, the last one open
    bars = [(f"  from {i / 20:.2f}", bins[i], "#" * -(-40 * bins[i] // max(bins.values()))) for i in sorted(bins)]
    inner = [fitted_size((book.width, book.height), size) for book, size in zip(books, sizes, strict=True)]
    inner = np.array(inner, float)
    stretch = (inner / shapes)[:, 0] / (inner / shapes)[:, 1]  # of width against height; 1 = shape kept
    distortion = np.maximum(stretch, 1 / stretch) - 1
    filled = 1 - inner.prod(1) / np.prod(sizes, 1)
    worst, emptiest = books[distortion.argmax()].name, books[filled.argmax()].name
    counts = collections.Counter("{}x{}".format(*size) for size in sorted(sizes)) if options.buckets else {}
    target = "the buckets" if options.buckets else options.resolution
    percentiles = ", ".join(f"{ratio:.3f}" for ratio in np.percentile(ratios, (1, 25, 50, 75, 99)))
    return [
        ("width / height", "", f"percentiles 1, 25, 50, 75, 99: {percentiles}"),
        *bars,
        *((f"  bucket {size}", count, "") for size, count in counts.items()),
        (f"resize to {target}", "", "Lanczos, antialiased; the whole cover stays visible"),
        ("  largest distortion", f"{distortion.max():.1%}", f"{worst}; the limit is {MAX_STRETCH - 1:.0%}"),
        ("  covers with filled edges", int((filled > 0).sum()), "what stretching leaves gets the colour of the edge"),
        ("  largest filled area", f"{filled.max():.1%}", emptiest if filled.max() else ""),
    ]


def prompt_lines(books: Sequence[Book], count_tokens: TokenCounter, max_tokens: int, include_desc: bool) -> list[Line]:
    """How many canonical prompts exceed the limit before shortening."""
    counts = []
    for book in tqdm(books, "counting tokens", unit=" prompts", delay=2):
        counts.append(count_tokens(build_prompt(book, desc=book.desc if include_desc else "")))
    longest = counts.index(max(counts))
    return [
        (f"prompts over {max_tokens} tokens", sum(count > max_tokens for count in counts), "before shortening"),
        ("  longest", counts[longest], books[longest].name),
    ]
