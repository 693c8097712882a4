"""Book -> prompt: the templates, and what is shortened when a prompt has more tokens than the text encoder reads.

The templates follow the original experiment ("A fantasy book cover with author Ursula K. Le Guin, title ...").
"""

from __future__ import annotations

import re

from data.book import tidy

# A part in [brackets] is left out when its field is empty; {an}/{An} is the article of what follows it.
TEMPLATES = (
    "{An}[ {genres}] book cover with [author {authors}, ]title {title}",  # the canonical one
    "{An}[ {genres}] book cover, title {title}[, author {authors}]",
    "The cover of the[ {genres}] book {title}[ by {authors}]",
    "Book cover of {title}[ by {authors}][, {genres}]",
    "{title}[ by {authors}], {an}[ {genres}] book cover",
)
MAX_GENRES = 3
MAX_TOKENS = 77  # what CLIP's text encoder reads, start and end included


def build_prompt(book, template=TEMPLATES[0], count_tokens=None, max_tokens=MAX_TOKENS, desc=""):
    """The prompt for a Book, at most `max_tokens` long by count_tokens(text), which includes start and end tokens.

    What must go goes in this order, on a word boundary: the end of `desc`, the last genre and so on, the last authors,
    then the ends of the author's name and the title, the longer first. Without count_tokens nothing is shortened.
    """
    title, authors = tidy(book.title), [name for name in map(tidy, book.authors) if name]
    genres = list(dict.fromkeys(genre for genre in (tidy(genre).lower() for genre in book.genres) if genre))
    genres = genres[:MAX_GENRES]
    if count_tokens is not None:  # a word has at least one token, so what lies beyond that many words can't fit
        title, *authors = (" ".join(text.split()[:max_tokens]) for text in [title, *authors[:max_tokens]])

    def fits(text):
        return count_tokens is None or count_tokens(text) <= max_tokens

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

    words = tidy(desc).split()
    if not words or text != whole:
        return text
    return longest_start(text + (" " if text[-1:] in ".!?" else ". "), words, max_tokens, fits) or text


def fill(template, title, authors, genres):
    """The template with its fields, less the bracketed parts whose field is empty."""
    an = "an" if genres and re.match(r"(?!eu|uni|us|ut|uk)[aeiou]", genres[0]) else "a"
    names = " and ".join(filter(None, [", ".join(authors[:-1]), *authors[-1:]]))
    fields = dict(An=an.capitalize(), an=an, title=title, authors=names, genres=", ".join(genres))

    def keep(part):
        return part[1] if all(fields[name] for name in re.findall(r"{(\w+)}", part[1])) else ""

    return re.sub(r"\[([^][]*)\]", keep, template).format(**fields).strip()


def drop_last_word(text):
    """The text less its last word; of a single word, less its last quarter."""
    head, space, _ = text.rpartition(" ")
    return head if space else text[: len(text) * 3 // 4]


def longest_start(start, words, max_tokens, fits):
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


def count_tokens(tokenizer, text):
    """How many tokens the text has, start and end included; it may be more than the model reads."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
