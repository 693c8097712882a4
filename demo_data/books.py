"""Invented books: title, authors, genres and description of each row, as functions of (SEED, row)."""

from __future__ import annotations

import random

NUM_BOOKS = 2600
SEED = "demo 1"
COLUMNS = (
    *("book_authors", "book_desc", "book_edition", "book_format", "book_isbn", "book_pages", "book_rating"),
    *("book_rating_count", "book_review_count", "book_title", "genres", "image_url"),
)

# ---------------------------------------------------------------------------------------------------------------------
# Words: lists joined by |

FIRST = (
    "Ada|Agnes|Alistair|Ambrose|Beatrice|Benedict|Cecily|Clement|Cordelia|Edmund|Edith|Elias|Eleanor|Flora|Frances|"
    "Gideon|Harriet|Hugo|Imogen|Ivor|Jasper|Josephine|Lavinia|Leopold|Mabel|Magnus|Marian|Nathaniel|Octavia|Oswin|"
    "Philippa|Quentin|Rosalind|Rupert|Silas|Sybil|Tobias|Ursula|Wilfred|Winifred"
)
LAST = (
    "Abernethy|Ashdown|Barlow|Blackwood|Calloway|Carver|Dunmore|Eastlake|Fairchild|Fenwick|Garrick|Greaves|Hallam|"
    "Harrow|Hathersage|Holloway|Ingram|Kestrel|Langford|Larkspur|Loveday|Marchbanks|Mallory|Merriweather|Moncrieff|"
    "Netherby|O'Hara|Pemberton|Penhallow|Quill|Ravenscroft|Redfern|Sallow|Stanhope|Tremayne|Thistlewood|Underhill|"
    "Vane|Wetherby|Winterbourne|Wren|Yarrow"
)
PLACES = (
    "Ashcombe|Blackwater|Coldharbour|Dunmere|Eastmarch|Fallow Hill|Greyport|Harrowgate|Kingsmere|Larkfield|"
    "Marlow Lane|Northwick|Oldcastle|Ravenshore|Saltmarsh|Thornbury|Whitby Sands|Winterfold"
)
MOODS = "tender|funny|wise|dark|generous|strange|gripping|warm|restless|honest"

# genre: its further shelves (genre labels); adjectives; nouns; people; what they do
GENRES = {
    "Fantasy": (
        "Fiction|Magic|Young Adult|High Fantasy|Adventure",
        "Glass|Silver|Forgotten|Enchanted|Ember|Winter|Moonlit|Ninth",
        "Crown|Dragon|Tower|Kingdom|Sword|Spell|Castle|Mountain",
        "an exiled prince|a hedge witch|the last dragon rider|a locksmith's daughter",
        "break an ancient curse|win back a stolen throne|wake the sleeping dragon|close the door between two worlds",
    ),
    "Romance": (
        "Fiction|Contemporary|Love Story|Historical Romance",
        "Tender|Secret|Crimson|Summer|Unwritten|Second|Scarlet|Sweet",
        "Heart|Promise|Kiss|Rose|Letter|Wedding|Garden|Sunset",
        "a shy florist|a widowed captain|a runaway bride|the new schoolteacher",
        "trust again|answer a letter that came ten years late|choose between duty and love|save the old rose garden",
    ),
    "Mystery": (
        "Fiction|Crime|Detective|Thriller",
        "Silent|Missing|Locked|Foggy|Hidden|Thirteenth|Vanishing|Midnight",
        "Witness|Key|Alibi|Lantern|Stranger|Clue|Corridor|Inheritance",
        "a retired inspector|a young lady detective|the night porter|a sceptical coroner",
        "find who lied at the inquest|follow a trail of false names|open a locked room|clear a friend's name",
    ),
    "Science Fiction": (
        "Fiction|Space|Speculative Fiction|Classics",
        "Distant|Electric|Orbital|Last|Quantum|Hollow|Infinite|Solar",
        "Star|Machine|Colony|Signal|Rocket|Planet|Engine|Horizon",
        "a ship's engineer|the only astronomer left|a stowaway|a mapmaker of dead stars",
        "answer a signal from beyond Saturn|restart a stranded ark|outrun a dying sun|teach a machine to remember",
    ),
    "Horror": (
        "Fiction|Gothic|Supernatural|Ghosts",
        "Blood|Dead|Crooked|Haunted|Screaming|Rotten|Black|Nameless",
        "House|Grave|Bone|Shadow|Scream|Cellar|Tree|Hunger",
        "a young gravedigger|the new tenant|a village priest|an orphaned heiress",
        "leave before the moon turns red|bury what will not stay buried|learn what breathes behind the wall|keep awake",
    ),
    "Childrens": (
        "Fiction|Picture Books|Animals|Juvenile",
        "Little|Merry|Upside-Down|Rainbow|Sleepy|Curious|Jolly|Biggest",
        "Bear|Balloon|Picnic|Puddle|Treehouse|Birthday|Cloud|Pancake",
        "a small brown bear|a girl with red boots|a boy who collects clouds|a very polite goose",
        "find the end of the rainbow|bake the biggest cake in the land|bring a lost star home|learn to share",
    ),
    "History": (
        "Nonfiction|Politics|Biography|World History",
        "Imperial|Ancient|Broken|Royal|Northern|Glorious|Besieged|Forgotten",
        "Empire|Siege|Crown|Republic|Voyage|Treaty|Dynasty|Frontier",
        "a minor clerk|an unlucky general|the queen's cartographer|a merchant family",
        "hold a crumbling province|record forty years of war|draw the first true map of the coast|survive a revolution",
    ),
    "Poetry": (
        "Verse|Literature|Classics|Nature",
        "Quiet|Pale|Slow|Evening|Green|Unsaid|Borrowed|Autumn",
        "Leaves|Water|Hours|Birds|Silence|Rain|Light|Field",
        "a solitary walker|a daughter|an old gardener|a traveller",
        "name the weather of grief|listen to the river|count small mercies|watch the leaves turn",
    ),
    "Adventure": (
        "Fiction|Classics|Action|Sea Stories",
        "Golden|Southern|Stormy|Lost|Salt|Roaring|Uncharted|Coral",
        "Island|Voyage|Whale|Treasure|Harbour|Sail|Tide|Compass",
        "a cabin boy|a disgraced captain|a whaler's widow|the ship's cook",
        "reach the island before the pirates do|sail round the cape in winter|find the golden wreck|come home alive",
    ),
    "Cooking": (
        "Nonfiction|Cookbooks|Food|How To",
        "Hearty|Sunday|Golden|Simple|Seasonal|Country|Generous|Rustic",
        "Kitchen|Table|Supper|Harvest|Pantry|Loaf|Soup|Orchard",
        "a village baker|a harbour cook|a grandmother of nine|a market gardener",
        "make supper from five things|bake bread that keeps a week|cook with the seasons|feed a crowd without fuss",
    ),
}
TITLES = (
    "The {adj} {noun}|The {noun} of {place}|{noun} and {noun2}|{name}'s {noun}|A {noun} for {name}|The {adj} {noun}|"
    "{adj} {noun}|{noun}, {noun2}, and {noun3}|The {noun} at the End of {place}|{noun}|The {noun} in the {adj} {noun2}|"
    "The Curious History of {name} {last} and the {adj} {noun}|The {adj} {noun}, or, The {noun2} of {place}"
)
# The first sentence of a description, by genre ("": all other genres), then some of the others.
OPENINGS = {
    "Poetry": "In {count} poems {who} sets out to {task}.|Poems about {noun}, {noun2} and the wish to {task}.",
    "Cooking": "Here are {count} recipes from {place}, where {who} showed the author how to {task}.|"
    "This is how to {task}, with {count} dishes that {who} would be proud of.",
    "History": "How {who} came to {task}, told from the letters found at {place}.|"
    "The story of {place}, where in a single year {who} had to {task}.",
    "": "When {name} comes to {place}, nobody expects {who} to {task}.|In {place}, {who} has one night to {task}.|"
    "{name} is {who} with one wish: to {task}.",
}
OTHERS = (
    "The {adj} {noun} holds the answer, but it will not wait for long.|Nothing in {place} is quite what it seems.|"
    "Nobody who has seen the {adj} {noun} speaks of it.|It begins with the {noun2} and ends with the {noun3}.|"
    "This is the book for which readers of {last} have waited.|By turns {mood} and {mood2}, it stays with the reader.|"
    "Read it for the {noun2}, then once more for the {noun3}.|A {mood} book to be read in one sitting."
)


def shuffled(rng: random.Random, words: str) -> list[str]:
    """The words of a list joined by |, in random order."""
    return sorted(words.split("|"), key=lambda _: rng.random())


def vocabulary(rng: random.Random, genre: str) -> dict[str, str]:
    """A random word for every {blank} of a title: {blank: word}."""
    _, adjectives, nouns, _, _ = GENRES[genre]
    blanks = dict(zip(("noun", "noun2", "noun3"), shuffled(rng, nouns), strict=False))
    lists = {"adj": adjectives, "name": FIRST, "last": LAST, "place": PLACES}
    return blanks | {blank: rng.choice(words.split("|")) for blank, words in lists.items()}


def title_and_authors(rng: random.Random, genre: str) -> tuple[str, list[str]]:
    """Title and list of authors of a random book."""
    title = rng.choice(TITLES.split("|")).format(**vocabulary(rng, genre))
    if title.startswith("A ") and title[2] in "AEIOU":
        title = "An" + title[1:]
    authors = []
    for _ in range(2 if rng.random() < 0.07 else 1):
        first, middle = shuffled(rng, FIRST)[:2]
        given = rng.choice((first, first, first, f"{first[0]}. {middle[0]}.", f"{first} {middle[0]}."))
        authors.append(f"{given} {rng.choice(LAST.split('|'))}")
    return title, authors


def description(rng: random.Random, genre: str) -> str:
    """Two to four random sentences; empty for a few books, as in the real data."""
    if rng.random() < 0.03:
        return ""
    blanks = vocabulary(rng, genre)
    blanks |= {blank: blanks[blank].lower() for blank in ("adj", "noun", "noun2", "noun3")}
    blanks |= dict(zip(("mood", "mood2"), shuffled(rng, MOODS), strict=False))
    _, _, _, people, tasks = GENRES[genre]
    lists = {"who": people, "task": tasks, "count": "thirty|forty|fifty|sixty|eighty"}
    blanks |= {blank: rng.choice(words.split("|")) for blank, words in lists.items()}
    opening = rng.choice(OPENINGS.get(genre, OPENINGS[""]).split("|"))
    sentences = [opening, *shuffled(rng, OTHERS)[: rng.randint(1, 3)]]
    return " ".join(sentences).format(**blanks)


# ---------------------------------------------------------------------------------------------------------------------
# Books


def row_rng(row: int, purpose: str | int) -> random.Random:
    """The random generator of one row for one purpose. String seeds give the same numbers in every Python version."""
    return random.Random(f"{SEED}/{row}/{purpose}")


def text_row(row: int) -> int:
    """The row whose text this row has: itself, or for every 13th row an earlier one (of which it is an edition)."""
    return row - row_rng(row, "edition").randint(1, 12) if row % 13 == 12 else row


def genre_of(row: int) -> str:
    """The genre of a row's text: each block of ten rows has the ten genres in random order."""
    block, index = divmod(text_row(row), len(GENRES))
    return sorted(GENRES, key=lambda genre: row_rng(block, genre).random())[index]


def book_record(row: int) -> dict[str, str]:
    """One row of book_data.csv: {column: cell} for each of COLUMNS."""
    genre, text, print_run = genre_of(row), row_rng(text_row(row), "text"), row_rng(row, "print")
    title, authors = title_and_authors(text, genre)
    shelves = shuffled(text, GENRES[genre][0])[: text.randint(1, 3)]
    return dict.fromkeys(COLUMNS, "") | {
        "book_authors": "|".join(authors),
        "book_desc": description(text, genre),
        "book_edition": "" if text_row(row) == row else "Second Edition",
        "book_format": print_run.choice(("Paperback", "Paperback", "Hardcover", "ebook")),
        "book_pages": f"{print_run.randint(24, 48) if genre == 'Childrens' else print_run.randint(96, 640)} pages",
        "book_rating": "0.0",
        "book_rating_count": "0",
        "book_review_count": "0",
        "book_title": title,
        "genres": "|".join([genre, *shelves]),
    }
