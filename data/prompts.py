"""Builds prompts from books: the templates, and the shortening of prompts that exceed the text encoder's limit.

The templates follow the original experiment ("A fantasy book cover with author Ursula K. Le Guin, title ...").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from data.book import Book, normalize_whitespace

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

# A part in [brackets] is omitted when its field is empty; {an}/{An} is the article of what follows it.
TEMPLATES = (
    "{An}[ {genres}] book cover with [author {authors}, ]title {title}",  # the canonical one
    "{An}[ {genres}] book cover, title {title}[, author {authors}]",
    "The cover of the[ {genres}] book {title}[ by {authors}]",
    "Book cover of {title}[ by {authors}][, {genres}]",
    "{title}[ by {authors}], {an}[ {genres}] book cover",
)
TITLE_FIRST = "{title}[, {genres}]"  # the genres' tokens then see the title: CLIP's attention is causal
MAX_GENRES = 3
MAX_TOKENS = 77  # context length of CLIP's text encoder, start and end tokens included
LONGEST_TOKEN = 64  # characters; a generous bound
TokenCounter = Callable[[str], int]  # counts a prompt's tokens, start and end included


def build_prompt(
    book: Book,
    template: str = TEMPLATES[0],
    count_tokens: TokenCounter | None = None,
    max_tokens: int = MAX_TOKENS,
    desc: str = "",
) -> str:
    """The prompt for a book, at most `max_tokens` long by count_tokens(text), which includes start and end tokens.

    A caption is the prompt as it stands, whatever the template; what does not fit is cut off at a word boundary.
    That of a book is shortened on word boundaries, in this order: the end of `desc`, the genres from the last, the
    authors from the last, then the ends of the remaining author's name and of the title, the longer first. Without
    count_tokens nothing is shortened.
    """

    def fits(text: str) -> bool:
        if count_tokens is None:
            return True
        # Counting 200,000 letters takes more than a second, and what is so long can't fit
        return len(text) <= max_tokens * LONGEST_TOKEN and count_tokens(text) <= max_tokens

    if book.caption:
        return book.caption if fits(book.caption) else longest_caption(book.caption, max_tokens, fits)

    title = normalize_whitespace(book.title)
    authors = list(filter(None, map(normalize_whitespace, book.authors)))
    genres = genres_of(book)
    if count_tokens is not None:  # a word has at least one token, so words beyond that many can't fit
        title, *authors = (" ".join(text.split()[:max_tokens]) for text in [title, *authors[:max_tokens]])

    text = whole = fill(template, title, authors, genres)
    while not fits(text):
        if genres:
            genres.pop()
        elif len(authors) > 1:
            authors.pop()
        elif authors and len(authors[0]) > len(title):
            authors = [name for name in [drop_last_word(authors[0])] if name]
        elif title:
            title = drop_last_word(title)
        else:  # not even the bare template fits
            return longest_start("", text.split(), max_tokens, fits)
        text = fill(template, title, authors, genres)

    words = normalize_whitespace(desc).split()
    if not words or text != whole:
        return text
    return longest_start(text + (" " if text[-1:] in ".!?" else ". "), words, max_tokens, fits) or text


def genres_of(book: Book) -> list[str]:
    """The genres as a prompt names them."""
    genres = filter(None, (normalize_whitespace(genre).lower() for genre in book.genres))
    return list(dict.fromkeys(genres))[:MAX_GENRES]


class TitleFirst(NamedTuple):
    """A prompt in which a book's title stands before its genres, and which characters (start, end) these are."""

    text: str
    title: tuple[int, int]
    genres: tuple[int, int]


def title_first(book: Book) -> TitleFirst | None:
    """The prompt of TITLE_FIRST, as long as it is; None for a book without a title or without genres."""
    title, genres = normalize_whitespace(book.title), genres_of(book)
    if not (title and genres):
        return None
    text = fill(TITLE_FIRST, title, [], genres)
    return TitleFirst(text, (0, len(title)), (len(title) + len(", "), len(text)))


def titles_first(books: Iterable[Book], count: TokenCounter, limit: int) -> Iterator[tuple[Book, TitleFirst]]:
    """The books that have such a prompt of at most `limit` tokens, each with it, in their order."""
    for book in books:
        prompt = title_first(book)
        if prompt and count(prompt.text) <= limit:
            yield book, prompt


def fill(template: str, title: str, authors: Sequence[str], genres: Sequence[str]) -> str:
    """The template with its fields filled in, without the bracketed parts whose field is empty."""
    an = "an" if genres and re.match(r"(?!eu|uni|us|ut|uk)[aeiou]", genres[0]) else "a"
    names = " and ".join(filter(None, [", ".join(authors[:-1]), *authors[-1:]]))
    fields = dict(An=an.capitalize(), an=an, title=title, authors=names, genres=", ".join(genres))

    def keep(part: re.Match[str]) -> str:
        return part[1] if all(fields[name] for name in re.findall(r"{(\w+)}", part[1])) else ""

    return re.sub(r"\[([^][]*)\]", keep, template).format(**fields).strip()


def drop_last_word(text: str) -> str:
    """The text without its last word; a single word loses its last quarter."""
    head, space, _ = text.rpartition(" ")
    return head if space else text[: len(text) * 3 // 4]


def longest_caption(caption: str, max_tokens: int, fits: Callable[[str], bool]) -> str:
    """The first words of a caption, as many as fit; of a first word that is too long alone (or of a script that has no
    spaces), its start."""
    words = caption.split()
    if start := longest_start("", words, max_tokens, fits):
        return start
    word = words[0]
    while not fits(word):
        word = drop_last_word(word)
    return word


def longest_start(start: str, words: Sequence[str], max_tokens: int, fits: Callable[[str], bool]) -> str:
    """`start` with as many of the words as fit, found by bisection; '' if not even one does."""
    best, low, high = "", 1, len(words)
    while low <= high:
        # bisect among 1..max_tokens first: as a word has at least one token, more words hardly ever fit
        count = min((low + high) // 2, max(low, max_tokens))
        text = start + " ".join(words[:count])
        if count < len(words):
            text = text.rstrip(" ,;:-–—")
        if fits(text):
            best, low = text, count + 1
        else:
            high = count - 1
    return best


def count_tokens(tokenizer: CLIPTokenizer, text: str) -> int:
    """Number of tokens of the text, start and end included; it may exceed the model's limit."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
