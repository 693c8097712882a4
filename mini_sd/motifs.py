"""The motifs of posters, and the genres that captions combine them with.

Each motif is a function of (art, pen, rng, palette) that draws in a square of about -1 ... 1 around the pen's origin.
"""

from __future__ import annotations

import math
import random

from demo_data import day, night
from demo_data.canvas import BAT, HEART, LEAF, Art, Palette, Pen, mix, star


def castle(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.box(-0.8, -0.1, 0.8, 0.9, p.near)
    for x, half, top in ((-0.7, 0.18, 0.5), (0, 0.22, 0.95), (0.7, 0.18, 0.45)):
        pen.box(x - half, -top, x + half, 0.9, p.near)
        for k in (-1, 0, 1):
            pen.box(x + half * (0.8 * k - 0.25), -top - 0.12, x + half * (0.8 * k + 0.25), -top, p.near)
        pen.box(x - 0.05, -top + 0.2, x + 0.05, -top + 0.4, p.light)
    pen.box(-0.15, 0.4, 0.15, 0.9, p.light)


def sword(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.poly([(0, -1.1), (0.12, -0.9), (0.12, 0.4), (-0.12, 0.4), (-0.12, -0.9)], p.light)
    pen.poly([(0, -1.1), (0.12, -0.9), (0.12, 0.4), (0, 0.4)], mix(p.light, p.near, 0.35))
    pen.box(-0.45, 0.38, 0.45, 0.5, p.far)
    pen.box(-0.07, 0.5, 0.07, 0.9, p.near)
    pen.disc(0, 0.95, 0.13, p.far)


def dragon(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.both([(0, 0.1), (0.35, -0.6), (1.1, -0.7), (0.8, -0.1), (0.55, -0.2), (0.35, 0.25)], p.far)
    pen.oval(0, 0.2, 0.24, 0.62, p.near)
    pen.poly([(-0.1, -0.3), (-0.05, -0.8), (0.45, -0.65), (0.12, -0.5), (0.15, -0.2)], p.near)
    pen.poly([(0, 0.7), (0.5, 1.0), (0.75, 0.75), (0.45, 0.85), (0.1, 0.5)], p.near)
    pen.disc(0.08, -0.67, 0.05, p.light)


def heart(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.poly(HEART, p.far)
    if rng.random() < 0.5:
        pen.poly([(0.6 * u, 0.6 * v) for u, v in HEART], mix(p.far, p.light, 0.5))


def rose(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for k in range(rng.choice((1, 3, 5))):
        t = 2.4 * k
        day.rose(pen.part(0.6 * math.sin(t) * min(k, 1), 0.6 * math.cos(t) * min(k, 1), 0.45), p.far, p.near)


def sun(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.poly(star(rng.choice((8, 12, 16)), 0.6), p.far)
    pen.disc(0, 0, 0.55, p.light)


def moon(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.disc(0, 0, 0.85, p.light)
    if rng.random() < 0.6:
        pen.disc(0.35, -0.1, 0.72, mix(p.sky, p.low, 0.5))


def stars(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for _ in range(rng.randint(4, 12)):
        part = pen.part(rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.1, 0.35))
        part.poly(star(5, 0.42), rng.choice((p.light, p.far)))


def planet(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    if rng.random() < 0.6:
        pen.arc(0, 0, 1.2, 0.35, 0.5, 1.0, 0.1, p.light)
        pen.disc(0, 0, 0.7, p.far)
        pen.arc(0, 0, 1.2, 0.35, 0.0, 0.5, 0.1, p.light)
    else:
        for k in range(6):
            pen.disc(-0.05 * k, -0.06 * k, 0.85 - 0.1 * k, mix(p.near, p.far, (k + 1) / 6))


def rocket(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.poly([(-0.2, 0.6), (0, 1.2), (0.2, 0.6)], "#ff9a2a")
    pen.both([(0.2, 0.1), (0.55, 0.7), (0.2, 0.55)], p.far)
    pen.both([(0, -1), (0.2, -0.6), (0.27, 0), (0.2, 0.62), (0, 0.62)], p.light)
    pen.disc(0, -0.2, 0.13, p.near)


def bear(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    day.bear(pen.part(0, 0, 0.75), rng)


def balloon(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    day.balloon(pen.part(0, -0.2, 0.75), rng)


def house(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.box(-0.7, -0.2, 0.7, 0.8, p.light)
    pen.poly([(-0.95, -0.15), (0, -1), (0.95, -0.15)], p.far)
    pen.box(-0.15, 0.25, 0.15, 0.8, p.near)
    for u in (-0.45, 0.45):
        pen.box(u - 0.14, 0.05, u + 0.14, 0.32, p.near)


def tree(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    if rng.random() < 0.5:
        night.branch(pen.part(0, 0.9, 0.9), rng, 0, 0, rng.uniform(-0.2, 0.2), 0.55, 0.13, p.near, 4)
        return
    pen.box(-0.1, 0.1, 0.1, 0.95, p.near)
    for u, v in ((-0.4, 0), (0.4, 0), (0, -0.5)):
        pen.disc(u, v, 0.5, p.far)


def leaf(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.line([(0, 1), (0, -0.6)], 0.05, p.near)
    for k in range(rng.randint(4, 8)):
        turn = (1 if k % 2 else -1) * rng.uniform(0.6, 1.1)
        pen.part(0, 0.8 - 0.2 * k, rng.uniform(0.5, 0.8), turn).poly(LEAF, mix(p.far, p.near, rng.uniform(0, 0.5)))


def mountain(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.poly([(-1.2, 0.8), (-0.3, -0.9), (0.7, 0.8)], p.far)
    pen.poly([(-0.3, -0.9), (-0.52, -0.5), (-0.3, -0.6), (-0.1, -0.5)], p.light)
    pen.poly([(-0.2, 0.8), (0.55, -0.4), (1.2, 0.8)], p.near)


def ship(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for u, top in ((-0.4, 0.8), (0.15, 1.0)):
        pen.box(u - 0.03, -top, u + 0.03, 0.4, p.near)
        pen.poly([(u + 0.05, -top + 0.05), (u + 0.5, 0.1), (u + 0.05, 0.15)], p.light)
        pen.poly([(u - 0.05, -top + 0.2), (u - 0.35, 0.1), (u - 0.05, 0.15)], p.light)
    pen.poly([(-1, 0.35), (1, 0.35), (0.7, 0.8), (-0.7, 0.8)], p.near)


def island(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.oval(0, 0.6, 1, 0.25, "#f2d492")
    pen.line([(0, 0.5), (0.1, 0), (0.3, -0.5)], 0.09, p.near)
    for k in range(6):
        pen.part(0.3, -0.5, 0.7, (k - 2.5) * 0.7).poly(LEAF, p.far)


def wave(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for k in range(5):
        crest = [(u / 8, -0.6 + 0.35 * k + 0.12 * math.sin(u * 0.8 + 2 * k)) for u in range(-12, 13)]
        pen.poly([*crest, (1.5, 1.1), (-1.5, 1.1)], mix(p.far, p.near, k / 5))


def whale(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.oval(-0.1, 0.1, 0.85, 0.45, p.near)
    pen.poly([(0.6, 0.1), (1.1, -0.5), (0.85, -0.45), (0.65, -0.6), (0.5, -0.1)], p.near)
    pen.disc(-0.55, 0, 0.05, p.light)
    pen.oval(-0.35, 0.35, 0.5, 0.18, p.light)


def eye(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    lid = [(k / 10 - 1, -0.5 * math.cos((k / 10 - 1) * math.pi / 2)) for k in range(21)]
    pen.poly([*lid, *((u, -v) for u, v in reversed(lid))], p.light)
    pen.disc(0, 0, 0.42, p.far)
    pen.disc(0, 0, 0.2, p.near)


def bat(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for k in range(rng.choice((1, 3, 5))):
        pen.part(rng.uniform(-0.5, 0.5), 0.5 * k - 0.9, rng.uniform(0.4, 0.9)).both(BAT, p.near)


def key(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.disc(0, -0.6, 0.36, p.far)
    pen.disc(0, -0.6, 0.2, p.low)
    pen.box(-0.07, -0.3, 0.07, 0.95, p.far)
    for v in (0.6, 0.8):
        pen.box(0, v, 0.32, v + 0.1, p.far)


def lantern(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    art.glow(pen.x / art.w, pen.y / art.h, 0.5, p.light, 0.8)
    pen.poly([(-0.35, -0.4), (0.35, -0.4), (0.28, 0.5), (-0.28, 0.5)], mix(p.light, "#ffffff", 0.4))
    pen.poly([(-0.45, -0.4), (0, -0.8), (0.45, -0.4)], p.near)
    pen.box(-0.38, 0.5, 0.38, 0.65, p.near)
    pen.box(-0.03, -0.4, 0.03, 0.5, p.near)


def crown(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    points = [(-0.9, 0.5), (-0.9, -0.4), (-0.45, 0.05), (0, -0.6), (0.45, 0.05), (0.9, -0.4), (0.9, 0.5)]
    pen.poly(points, p.far)
    for u, v in ((-0.9, -0.45), (0, -0.65), (0.9, -0.45)):
        pen.disc(u, v, 0.11, p.light)
    pen.box(-0.9, 0.5, 0.9, 0.65, p.near)


def shield(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for s, colour in ((1, p.near), (0.86, p.far)):
        pen.both([(0, -s), (0.8 * s, -0.8 * s), (0.75 * s, 0.2 * s), (0, s)], colour)
    pen.box(-0.1, -0.75, 0.1, 0.75, p.light)
    pen.box(-0.6, -0.25, 0.6, -0.05, p.light)


def temple(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.poly([(-1, -0.4), (0, -0.95), (1, -0.4)], p.far)
    for k in range(4):
        pen.box(-0.85 + 0.5 * k, -0.4, -0.65 + 0.5 * k, 0.65, p.far)
    pen.box(-1, -0.42, 1, -0.3, p.near)
    pen.box(-1.05, 0.65, 1.05, 0.8, p.near)


def compass(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for r, colour in ((1, p.near), (0.9, p.low), (0.72, p.near), (0.68, p.low)):
        pen.disc(0, 0, r, colour)
    pen.poly(star(4, 0.2, 0.85), p.far)
    pen.part(0, 0, 0.6, math.pi / 4).poly(star(4, 0.25), p.near)


def pot(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.poly([(-0.9, -0.3), (0.9, -0.3), (0.7, 0.7), (-0.7, 0.7)], p.far)
    pen.box(-1, -0.42, 1, -0.28, p.near)
    for u in (-0.4, 0, 0.4):
        pen.line([(u, -0.55), (u + 0.1, -0.75), (u, -0.95)], 0.07, p.light)


def plate(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for r, colour in ((1, "#ddd8cc"), (0.95, "#ffffff"), (0.62, "#eeebe2")):
        pen.disc(0, 0, r, colour)
    for k in range(6):
        t = math.tau * k / 6
        pen.disc(0.32 * math.cos(t), 0.32 * math.sin(t), 0.17, mix(p.far, p.light, 0.3 * (k % 2)))


def fruit(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for u, v in ((-0.45, 0.2), (0.45, 0.2), (0, -0.35)):
        pen.disc(u, v, 0.45, p.far)
        pen.disc(u - 0.14, v - 0.14, 0.12, p.light)
        pen.part(u, v - 0.4, 0.3, 0.9).poly(LEAF, "#4f772d")


def bird(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for _ in range(rng.randint(1, 5)):
        part = pen.part(rng.uniform(-0.7, 0.7), rng.uniform(-0.6, 0.6), rng.uniform(0.3, 0.7))
        part.both([(0, 0), (0.5, -0.5), (1.1, -0.35), (0.5, -0.25)], p.near)


def circle(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for k in range(rng.randint(1, 4)):
        pen.arc(0, 0, 1 - 0.2 * k, 1 - 0.2 * k, rng.random(), 1.6, 0.08, mix(p.far, p.near, 0.25 * k))
    pen.disc(0, 0, 0.25, p.light)


def lens(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    pen.line([(0.4, 0.4), (1, 1)], 0.2, p.near)
    pen.disc(0, 0, 0.7, p.near)
    pen.disc(0, 0, 0.58, p.light)


def city(art: Art, pen: Pen, rng: random.Random, p: Palette) -> None:
    for _ in range(10):
        u, tall, half = rng.uniform(-1.1, 1), rng.uniform(0.4, 1.6), rng.uniform(0.08, 0.2)
        pen.box(u - half, 0.9 - tall, u + half, 0.9, mix(p.near, p.far, rng.random()))


# word: (motif, genres of captions with it)
MOTIFS = {
    "castle": (castle, "fantasy|history|magic"),
    "sword": (sword, "fantasy|adventure|history"),
    "dragon": (dragon, "fantasy|magic|children"),
    "heart": (heart, "romance|love story|poetry"),
    "rose": (rose, "romance|love story|poetry"),
    "sun": (sun, "childrens|adventure|nature"),
    "moon": (moon, "horror|fantasy|poetry"),
    "stars": (stars, "space|science fiction|childrens"),
    "planet": (planet, "science fiction|space"),
    "rocket": (rocket, "science fiction|space"),
    "bear": (bear, "childrens|animals|picture books"),
    "balloon": (balloon, "childrens|picture books"),
    "house": (house, "childrens|horror|fiction"),
    "tree": (tree, "horror|nature|gothic"),
    "leaf": (leaf, "poetry|nature|verse"),
    "mountain": (mountain, "fantasy|adventure"),
    "ship": (ship, "adventure|sea stories|history"),
    "island": (island, "adventure|sea stories"),
    "wave": (wave, "poetry|sea stories|adventure"),
    "whale": (whale, "adventure|animals|sea stories"),
    "eye": (eye, "horror|supernatural|mystery"),
    "bat": (bat, "horror|gothic|ghosts"),
    "key": (key, "mystery|crime|detective"),
    "lantern": (lantern, "mystery|crime|thriller"),
    "crown": (crown, "history|fantasy|biography"),
    "shield": (shield, "history|politics|fantasy"),
    "temple": (temple, "history|world history|classics"),
    "compass": (compass, "history|adventure|biography"),
    "pot": (pot, "cooking|cookbooks|food"),
    "plate": (plate, "cooking|food|how to"),
    "fruit": (fruit, "cooking|food|cookbooks"),
    "bird": (bird, "poetry|nature|animals"),
    "circle": (circle, "poetry|literature|speculative fiction"),
    "lens": (lens, "mystery|detective|crime"),
    "city": (city, "science fiction|contemporary|thriller"),
}
