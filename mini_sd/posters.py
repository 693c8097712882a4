"""The training data of mini: posters drawn by code, with captions, and sheets of lettering for its autoencoder.

    image, caption = poster(row)     # 128 x 192, RGB; a function of (SEED, row) alone
    image = sheet(row)

A poster shows one motif in the colours that its caption names, mostly without letters. A share of them (PLACARDS),
captioned with another word, has bands of lettering. No demo cover is among them: those have scenes, palettes for each
genre, title and author. They share the words of genres, the drawing tools (demo_data) and the font bundled with Pillow.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence

from PIL import Image

from demo_data.canvas import Art, Palette, mix
from demo_data.jacket import LOOKS, TextStyle, letter_mask
from mini_sd.motifs import MOTIFS
from typesetting.colour import RGB, Colour
from typesetting.lines import LEADING, break_lines

SEED = "posters 1"
SIZE = (128, 192)  # pixels
PLACARDS = 0.35  # share of the posters with lettering

COLOURS = {  # word: (dark, plain, light)
    "red": ("#3d0508", "#c1121f", "#ff8a7a"),
    "crimson": ("#4a0d23", "#b5173f", "#f2a0b0"),
    "pink": ("#7a1f4d", "#f06a9a", "#ffdbe6"),
    "orange": ("#6b2a08", "#f3722c", "#ffd3a3"),
    "golden": ("#5a4208", "#e0a820", "#ffe9a6"),
    "yellow": ("#66590a", "#ffd60a", "#fff6b8"),
    "green": ("#12351c", "#4caf50", "#cdeebb"),
    "teal": ("#05302f", "#179a96", "#b3ece4"),
    "blue": ("#0b1f4d", "#2f74d0", "#bfe0ff"),
    "navy": ("#020614", "#10275c", "#7f9ad0"),
    "violet": ("#1d0b3d", "#7d45b8", "#ddc3f5"),
    "brown": ("#26150b", "#7a4a26", "#d8b48a"),
    "parchment": ("#5b4a2c", "#cfb17c", "#f3e6c6"),
    "grey": ("#171c1e", "#6f7c7c", "#d3d9d6"),
    "black": ("#000000", "#121014", "#55505a"),
    "white": ("#a8a8a0", "#f2f0ea", "#ffffff"),
}

# ---------------------------------------------------------------------------------------------------------------------
# Backgrounds and lettering


def vary(rng: random.Random, colour: str, amount: float = 0.035) -> RGB:
    """A random colour near the given one ('#rrggbb')."""
    hue, light, saturation = colorsys.rgb_to_hls(*(v / 255 for v in bytes.fromhex(colour[1:])))
    light = min(1, max(0, light + rng.uniform(-amount, amount) * 1.5))
    saturation = min(1, max(0, saturation + rng.uniform(-amount, amount) * 2))
    return tuple(
        round(255 * v) for v in colorsys.hls_to_rgb((hue + rng.uniform(-0.4, 0.4) * amount) % 1, light, saturation)
    )


def palette(rng: random.Random, ground: str, accent: str) -> Palette:
    """The palette of a poster whose caption has the colours `ground` and `accent`, two keys of COLOURS."""
    (dark, plain, light), (dark2, plain2, light2) = (map(lambda c: vary(rng, c), COLOURS[w]) for w in (ground, accent))
    sky, low = rng.choice(((plain, plain), (plain, light), (dark, plain), (light, plain), (light, light), (dark, dark)))
    return Palette(sky, low, light2, plain2, dark2)


def background(art: Art, rng: random.Random, p: Palette) -> None:
    """Fills the canvas: plain, a gradient, rays, stripes, hills or a frame; sometimes with a glow."""
    art.sky(p.sky, p.low)
    other = mix(p.sky, p.light, 0.25)
    kind = rng.choice(("plain", "plain", "glow", "glow", "rays", "stripes", "hills", "frame", "dots", "ridge"))
    y = rng.uniform(0.35, 0.65)
    if kind == "glow":
        art.glow(rng.uniform(0.3, 0.7), y, rng.uniform(0.5, 1), p.light, rng.uniform(0.4, 0.9))
    elif kind == "rays":
        for k in range(12):
            t = math.tau * k / 12
            ends = [(2 * math.cos(t + d), 2 * math.sin(t + d)) for d in (-0.13, 0.13)]
            art.pen(0.5, y, 1).poly([(0, 0), *ends], other)
    elif kind == "stripes":
        count = rng.randint(4, 12)
        for k in range(0, count, 2):
            art.fill([(0, k / count), (1, k / count), (1, (k + 1) / count), (0, (k + 1) / count)], other)
    elif kind == "hills":
        art.hill(rng.uniform(0.6, 0.8), 0.04, p.far)
        art.hill(rng.uniform(0.8, 0.95), 0.03, p.near)
    elif kind == "ridge":
        art.ridge(rng.uniform(0.6, 0.85), 0.2, mix(p.low, p.near, 0.6), rng.randint(3, 6))
    elif kind == "frame":
        art.frame(rng.uniform(0.02, 0.06), rng.uniform(0.01, 0.04), p.far)
    elif kind == "dots":
        art.stars(rng.randint(20, 90), p.light)


WORDS = (
    "the|of|and|a|in|an|end|sea|wind|road|gate|last|first|long|small|new|old|north|hour|year|name|sleep|dust|ink|"
    "paper|field|mill|stone|bridge|apple|winter|market|music|candle|engine|valley|letter|window|thunder|harvest|"
    "copper|morning|shadowed|lighthouse|travellers|wandering|quarrel|jumble|vexing|puzzle|fixed"
)


def some_words(rng: random.Random, count: int) -> str:
    """Random words in upper, lower or title case; sometimes the first one is an initial."""
    words = [rng.choice(WORDS.split("|")) for _ in range(count)]
    if rng.random() < 0.2:
        words[0] = rng.choice("ABCDEFGHJKLMNOPRSTUVWZ") + "."
    text = " ".join(words) + rng.choice(("", "", "", "", ",", "!", "’s"))
    return rng.choice((text.upper(), text.upper(), text.title(), text))


def lettering(
    art: Art,
    rng: random.Random,
    zone: tuple[float, float],
    largest: float,
    count: int,
    ink: Colour,
    plate: Colour | None = None,
) -> None:
    """Sets `count` random words into zone = (top, bottom), in fractions of the height.

    largest: maximal font size, in fractions of the width; plate: colour of a label behind the letters.
    """
    tracking = rng.choice((0.0, 0.03, 0.06, 0.12))
    bounce, weight = rng.choice((0.0, 0.0, 0.04)), rng.choice((0.0, 0.015, 0.03))
    style = TextStyle(tracking + weight, weight, slant=rng.choice((0.0, 0.0, 0.0, 0.2)), bounce=bounce)
    margin = rng.uniform(0.08, 0.13)
    width, height = (1 - 2 * margin) * art.w, (zone[1] - zone[0]) * art.h
    lines, size = break_lines(some_words(rng, count), width, height, style.tracking, round(largest * art.w))
    if size < 6:
        return
    top = zone[0] * art.h + (height - LEADING * size * len(lines)) / 2
    mask = letter_mask(art, lines, size, top, style, rng.choice((None, None, None, margin * art.w)))
    if plate is not None and (box := mask.getbbox()):
        pad = round(0.03 * art.w)
        corners = (box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad)
        art.draw.rounded_rectangle(corners, radius=pad, fill=plate)
    art.image.paste(ink, (0, 0), mask)


def contrasting(rng: random.Random, p: Palette, ground: Sequence[int]) -> Colour:
    """A random ink that is legible on a background (r, g, b): the palette's, or one near black or white."""
    light = sum(ground) > 380
    return rng.choice((p.near, (20, 16, 16), (60, 20, 20)) if light else (p.light, (255, 250, 240), (255, 226, 140)))


# ---------------------------------------------------------------------------------------------------------------------
# Posters and sheets

POSTER_CAPTIONS = (
    "A {genre} poster with {a} {motif} in {ground} and {accent}",
    "A {ground} and {accent} poster of {a} {motif}",
    "{motif}, {genre}, {ground} poster",
    "The {ground} poster of {a} {accent} {motif}, {genre}",
    "{genre} poster, {motif}",
)
PLACARD_CAPTIONS = (
    "A {genre} placard with {a} {motif} in {ground} and {accent}, lettering above and below",
    "A {ground} placard with {accent} letters and {a} {motif}",
    "{motif}, {genre}, {ground} placard with letters",
    "The {genre} book, {ground} placard with {a} {motif}, letters",
    "{genre} placard with {motif}, title and author in letters",
)


def poster(row: int) -> tuple[Image.Image, str]:
    """(RGB image of SIZE, caption) of one row."""
    rng = random.Random(f"{SEED}/{row}")
    word = rng.choice(sorted(MOTIFS))
    motif, genres = MOTIFS[word]
    ground, accent = rng.sample(sorted(COLOURS), 2)
    placard = rng.random() < PLACARDS
    p = palette(rng, ground, accent)
    art = Art(SIZE, rng)
    background(art, rng, p)
    y = rng.uniform(0.42, 0.58)
    size = rng.uniform(0.2, 0.34) if placard else rng.uniform(0.26, 0.45)
    if placard:
        y = rng.choice((0.4, 0.5, 0.6)) + rng.uniform(-0.04, 0.04)
    motif(art, art.pen(0.5 + rng.uniform(-0.08, 0.08), y, size, rng.uniform(-0.25, 0.25)), rng, p)
    if placard:
        large = (0.05, 0.3) if y > 0.5 else (0.68, 0.93)
        small = rng.choice(((0.89, 0.95), (0.86, 0.94))) if y > 0.5 else rng.choice(((0.05, 0.1), (0.05, 0.13)))
        plates = rng.random() < 0.4
        for zone, largest, count in ((large, 0.2, rng.randint(1, 5)), (small, 0.08, rng.randint(2, 3))):
            plate = mix(p.low, rng.choice(("#ffffff", "#000000")), 0.6) if plates else None
            ground_rgb = plate or mix(p.sky, p.low, sum(zone) / 2)
            lettering(art, rng, zone, largest, count, contrasting(rng, p, ground_rgb), plate)
    article = "" if word in ("stars",) else "an" if word[0] in "aeiou" else "a"
    words = dict(genre=rng.choice(genres.split("|")), motif=word, ground=ground, accent=accent, a=article)
    template = rng.choice(PLACARD_CAPTIONS if placard else POSTER_CAPTIONS)
    return art.image.reduce(2), " ".join(template.format(**words).split()).replace("A a", "An a")


def sheet(row: int) -> Image.Image:
    """An RGB image of SIZE for the autoencoder only: a scene or motifs in random colours under much lettering."""
    rng = random.Random(f"{SEED}/sheet/{row}")
    p = palette(rng, *rng.sample(sorted(COLOURS), 2))
    art = Art(SIZE, rng)
    scene = rng.random()
    if scene < 0.6:
        look = LOOKS[rng.choice(sorted(LOOKS))]
        mixed = [vary(rng, rng.choice(COLOURS[w])) for w in rng.choices(sorted(COLOURS), k=5)]
        look.scene(art, rng, Palette(*mixed) if scene < 0.3 else p, rng.uniform(0.3, 0.65))
    else:
        background(art, rng, p)
        for _ in range(rng.randint(1, 5)):
            motif = MOTIFS[rng.choice(sorted(MOTIFS))][0]
            pen = art.pen(rng.random(), rng.random(), rng.uniform(0.08, 0.4), rng.uniform(-0.5, 0.5))
            motif(art, pen, rng, palette(rng, *rng.sample(sorted(COLOURS), 2)))
    top = 0.04
    while top < 0.9 and rng.random() < 0.9:
        height = rng.uniform(0.05, 0.3)
        if rng.random() < 0.7:
            plate = tuple(rng.choices(range(256), k=3)) if rng.random() < 0.3 else None
            ground = plate or art.image.getpixel((art.w // 2, round((top + height / 2) * art.h) % art.h))
            zone = (top, min(0.97, top + height))
            lettering(art, rng, zone, rng.uniform(0.04, 0.22), rng.randint(1, 6), contrasting(rng, p, ground), plate)
        top += height
    return art.image.reduce(2)
