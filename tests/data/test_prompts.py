import random
import time

import pytest

from data.book import Book, normalize_whitespace
from data.prompts import TEMPLATES, build_prompt, title_first

LE_GUIN = Book(0, "A Wizard of Earthsea", ("Ursula K. Le Guin",), ("Fantasy", "Young Adult", "Fiction", "Classics"))


def count_words(text):
    """A stand-in for a tokenizer: one token for each word, and start and end."""
    return len(text.split()) + 2


def count_bytes(text):
    """Like a byte-level tokenizer that knows no words."""
    return len("".join(text.split()).encode()) + 2


def test_the_canonical_prompt():
    expected = "A fantasy, young adult, fiction book cover with author Ursula K. Le Guin, title A Wizard of Earthsea"
    assert build_prompt(LE_GUIN) == expected


@pytest.mark.parametrize(
    ("book", "expected"),
    [
        (Book(0, "Emma"), "A book cover with title Emma"),
        (Book(0, "Emma", ("Jane Austen",)), "A book cover with author Jane Austen, title Emma"),
        (Book(0, "Emma", (), ("Romance",)), "A romance book cover with title Emma"),
        (Book(0, "Ice", (), ("Adventure",)), "An adventure book cover with title Ice"),
        (Book(0, "Ice", (), ("Utopia",)), "A utopia book cover with title Ice"),
        (Book(0, "Ice", (), ("Art", "art", " ")), "An art book cover with title Ice"),
        (Book(0, "Ice", ("A B", "C D", "E F"), ()), "A book cover with author A B, C D and E F, title Ice"),
        (Book(0, "{genres} [x] {0}", ("{an}",), ()), "A book cover with author {an}, title {genres} [x] {0}"),
        (Book(0, " Two\r\n\tlines\u00a0\u200bhere ", ("A\nB",)), "A book cover with author A B, title Two lines here"),
        (Book(0, "NA", ("nan",)), "A book cover with author nan, title NA"),
    ],
)
def test_prompts_of_odd_rows(book, expected):
    assert build_prompt(book) == expected


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("authors", [(), ("Ann Lee",), ("Ann Lee", "Bo Ray")])
@pytest.mark.parametrize("genres", [(), ("Horror",)])
def test_every_template_reads_well_with_missing_fields(template, authors, genres):
    text = build_prompt(Book(0, "Dune", authors, genres), template)
    assert "Dune" in text and all(name in text for name in authors) and all(genre.lower() in text for genre in genres)
    assert text == normalize_whitespace(text) and not any(mark in text for mark in "[]{}")
    assert " ," not in text and ",," not in text and not text.endswith((",", "by", "author", "with"))


def test_templates_differ():
    assert len({build_prompt(LE_GUIN, template) for template in TEMPLATES}) == len(TEMPLATES) >= 5


def test_the_description_follows_and_is_cut_first_on_a_word_boundary():
    book = Book(0, "Emma", ("Jane Austen",), ("Romance",))
    start = "A romance book cover with author Jane Austen, title Emma"  # 10 words
    desc = "Handsome, clever,\nand rich."
    assert build_prompt(book, desc=desc) == start + ". Handsome, clever, and rich."
    assert build_prompt(book, count_tokens=count_words, max_tokens=16, desc=desc).endswith("clever, and rich.")
    assert build_prompt(book, count_tokens=count_words, max_tokens=14, desc=desc) == start + ". Handsome, clever"
    assert build_prompt(book, count_tokens=count_words, max_tokens=12, desc=desc) == start
    assert build_prompt(book, desc=" \n ") == start
    assert build_prompt(Book(0, "Who?"), desc="Me.") == "A book cover with title Who? Me."


def test_then_genres_go_one_by_one_then_authors_then_words():
    book = Book(0, "One Two Three", ("Ann Lee", "Bo Ray"), ("A", "B", "C"))

    def shortened(max_tokens):
        return build_prompt(book, count_tokens=count_words, max_tokens=max_tokens, desc="gone")

    assert shortened(19) == "An a, b, c book cover with author Ann Lee and Bo Ray, title One Two Three"
    assert shortened(18) == "An a, b book cover with author Ann Lee and Bo Ray, title One Two Three"
    assert shortened(17) == "An a book cover with author Ann Lee and Bo Ray, title One Two Three"
    assert shortened(16) == "A book cover with author Ann Lee and Bo Ray, title One Two Three"
    assert shortened(15) == "A book cover with author Ann Lee, title One Two Three"
    assert shortened(12) == "A book cover with author Ann Lee, title One Two"  # the longer of the two gives way


def test_more_room_never_means_less_description():
    book, desc = Book(0, "Emma"), " ".join(f"w{i}" for i in range(200))
    lengths = [
        len(build_prompt(book, count_tokens=count_words, max_tokens=limit, desc=desc)) for limit in range(9, 260)
    ]
    assert lengths == sorted(lengths)
    assert build_prompt(book, count_tokens=count_words, max_tokens=77, desc=desc).endswith(" w67 w68")  # all 77 used


@pytest.mark.parametrize("count", [count_words, count_bytes])
def test_the_limit_holds_for_any_book(count):
    chance = random.Random(0)
    alphabet = "aZ é文字я.,;-  \n{}[]|"

    def text(most):
        return "".join(chance.choice(alphabet) for _ in range(chance.randrange(most)))

    for _ in range(300):
        book = Book(0, text(400), tuple(text(60) for _ in range(chance.randrange(9))), tuple(text(9) for _ in range(5)))
        limit = chance.choice([2, 3, 8, 20, 77])
        prompt = build_prompt(book, chance.choice(TEMPLATES), count, limit, desc=text(900))
        assert count(prompt) <= limit and prompt == normalize_whitespace(prompt)


def test_huge_fields_take_no_time():
    book = Book(0, "word " * 20_000, ("name " * 20_000,) * 50, ("genre",) * 100)
    start = time.monotonic()
    assert count_words(build_prompt(book, count_tokens=count_words, desc="x " * 100_000)) <= 77
    assert count_bytes(build_prompt(Book(0, "文" * 50_000), count_tokens=count_bytes)) <= 77
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("words", ["b" * 200_000, "bb " * 70_000])
def test_what_can_not_fit_is_not_counted(words):
    """Counting takes time: with CLIP's tokenizer more than a second for 200,000 letters, and each prompt has several
    counts. The prompts are those that counting everything gives."""
    counted = []

    def count(text):
        counted.append(len(text))
        return count_bytes(text)

    wanted = "A book cover with author Ann, title Emma"
    described = wanted + (". " + "bb " * 20).rstrip() if " " in words else wanted
    assert build_prompt(Book(0, "Emma", ("Ann",)), count_tokens=count, desc=words) == described
    assert build_prompt(Book(0, "Emma", ("Ann",), (words, words)), count_tokens=count) == wanted
    for book in (Book(0, words, ("Ann",)), Book(0, "Emma", (words,) * 30)):
        assert 50 < count_bytes(build_prompt(book, count_tokens=count)) <= 77
    assert max(counted) <= 77 * 64


def test_a_caption_is_the_prompt_whatever_the_template():
    book = Book(0, "A title", ("Ann",), ("Fantasy",), "A tale.", caption="sks, a red {cover} [of] trees")
    for template in TEMPLATES:
        assert build_prompt(book, template, desc="A tale.") == "sks, a red {cover} [of] trees"
    assert build_prompt(book, TEMPLATES[0], lambda text: len(text.split()) + 2, 6) == "sks, a red {cover}"
    assert build_prompt(book, TEMPLATES[0], lambda text: len(text.split()) + 2, 4) == "sks, a"


def test_a_caption_without_spaces_is_cut_within():
    def count(text):
        return len(text) + 2

    caption = "\u66f8" * 200
    prompt = build_prompt(Book(0, "", caption=caption), count_tokens=count, max_tokens=77)
    assert 50 < len(prompt) <= 75 and caption.startswith(prompt)
    long = build_prompt(Book(0, "", caption="x" * 2**16 + " end"), count_tokens=count, max_tokens=77)
    assert long and set(long) == {"x"}


def test_the_title_stands_before_the_genres():
    book = Book(
        row=0, title=" The  Gates ", authors=("Ada F.",), genres=("Fantasy", "fantasy ", "Space Opera", "a", "b")
    )
    text, title, genres = title_first(book)
    assert text == "The Gates, fantasy, space opera, a"
    assert text[slice(*title)] == "The Gates" and text[slice(*genres)] == "fantasy, space opera, a"
    assert title_first(Book(row=1, title="The Gates")) is title_first(Book(row=2, title="", genres=("a",))) is None
