"""Scenes for the brighter genres of the demo covers: romance, children's, history, poetry, adventure, cooking.

A scene is a function of (art, rng, palette, y) that paints the whole canvas, with its main motif around height y. Parts
of scenes are drawn by a pen, in its coordinates.
"""

from __future__ import annotations

import math
import random

from demo_data.canvas import HEART, LEAF, Art, Palette, Pen, mix, star
from typesetting.colour import Colour

BRIGHT = ("#ff595e", "#ffca3a", "#8ac926", "#1982c4", "#9b5de5", "#ff924c")  # a box of crayons


def rose(pen: Pen, colour: Colour, dark: Colour) -> None:
    pen.both([(0.1, 0.3), (0.9, 0.2), (1.5, 0.7), (0.8, 0.9)], "#5d8a5a")
    for k in range(5):
        t = math.tau * k / 5
        pen.disc(0.55 * math.cos(t), 0.55 * math.sin(t), 0.6, mix(colour, dark, 0.12 * (k % 3)))
    for k, r in enumerate((0.7, 0.52, 0.36, 0.2)):
        pen.disc(0.06 * k, -0.05 * k, r, mix(colour, dark, 0.25 + 0.2 * k))


def romance(art: Art, rng: random.Random, p: Palette, y: float) -> None:
    art.sky(p.sky, p.low)
    motif = rng.choice(("sea", "roses", "hearts"))
    if motif == "sea":
        sea = y + 0.1
        art.glow(0.5, sea, 0.9, p.light, 0.9)
        art.pen(0.5, sea - 0.02, rng.uniform(0.22, 0.3)).poly([(u, v - 0.55) for u, v in HEART], p.far)
        art.sky(mix(p.low, p.far, 0.55), mix(p.far, p.near, 0.75), top=sea)
        for k in range(14):
            half = rng.uniform(0.04, 0.2) * (1 - k / 20)
            art.pen(0.5 + rng.uniform(-0.06, 0.06), sea + 0.012 + 0.022 * k, 1).box(-half, 0, half, 0.008, p.light)
    elif motif == "roses":
        art.glow(0.5, y, 0.6, p.light, 0.8)
        for k in range(9):
            x, s = 0.5 + 0.3 * math.sin(2.4 * k) * math.sqrt(k / 8), rng.uniform(0.08, 0.115)
            pen = art.pen(x, y + 0.2 * math.cos(2.4 * k) * math.sqrt(k / 8), s, rng.random() * math.tau)
            rose(pen, mix(p.far, p.light, rng.choice((0, 0.2, 0.5))), p.near)
    else:
        art.glow(0.5, y, 0.7, p.light, 0.9)
        art.pen(0.5, y, rng.uniform(0.3, 0.36), rng.uniform(-0.15, 0.15)).poly(HEART, p.far)
        small = art.pen(0.5 + rng.uniform(-0.14, 0.14), y + 0.03, rng.uniform(0.15, 0.22), rng.uniform(-0.3, 0.3))
        small.poly(HEART, mix(p.far, p.light, 0.6))
    for _ in range(rng.randint(8, 16)):
        x, at, s = rng.random(), rng.random(), rng.uniform(0.015, 0.04)
        art.pen(x, at, s, rng.uniform(-0.6, 0.6)).poly(HEART, mix(p.far, p.light, rng.uniform(0.2, 0.8)))


def balloon(pen: Pen, rng: random.Random) -> None:
    main, other = rng.choice(BRIGHT), rng.choice(("#ffffff", "#ffe66d"))
    for side in (-1, 1):
        pen.line([(0.5 * side, 0.7), (0.15 * side, 1.45)], 0.03, "#6b4226")
    pen.poly([(-0.97, 0.25), (0.97, 0.25), (0.3, 1.05), (-0.3, 1.05)], main)
    for half, shade in ((1, main), (0.72, other), (0.4, main)):
        pen.oval(0, 0, half, 1, shade)
    pen.box(-0.2, 1.4, 0.2, 1.7, "#8d5a34")


def house(pen: Pen, rng: random.Random) -> None:
    pen.box(-0.75, -1.1, 0.75, 0, rng.choice(("#fff1d0", "#ffd6e0", "#d0ebff")))
    pen.box(0.3, -1.8, 0.52, -1.2, "#b5523b")
    pen.poly([(-1, -1.05), (0, -1.9), (1, -1.05)], rng.choice(("#e63946", "#d1495b", "#457b9d", "#f77f00")))
    pen.box(-0.18, -0.6, 0.18, 0, "#8d5a34")
    for u in (-0.5, 0.5):
        pen.box(u - 0.15, -0.8, u + 0.15, -0.5, "#5bc0eb")


def bear(pen: Pen, rng: random.Random) -> None:
    fur, dark = rng.choice(("#9c6644", "#6b4f3f", "#b08968", "#8d99ae", "#e0a458")), "#22181c"
    pen.oval(0, 1.35, 0.8, 0.9, fur)
    for side in (-1, 1):
        pen.disc(0.7 * side, -0.7, 0.36, fur)
        pen.disc(0.7 * side, -0.7, 0.2, "#f2c6b4")
    pen.disc(0, 0, 1, fur)
    pen.oval(0, 0.35, 0.5, 0.4, "#f5e0cc")
    for side in (-1, 1):
        pen.disc(0.36 * side, -0.12, 0.13, dark)
        pen.disc(0.36 * side + 0.04, -0.16, 0.04, "#ffffff")
    pen.oval(0, 0.18, 0.17, 0.12, dark)
    pen.arc(0, 0.36, 0.2, 0.16, 0.05, 0.45, 0.05, dark)


def childrens(art: Art, rng: random.Random, p: Palette, y: float) -> None:
    art.sky(p.sky, p.low)
    motif, side = rng.choice(("balloon", "house", "bear")), rng.choice((-1, 1))
    sun = art.pen(0.5 + 0.33 * side, y - 0.2, 0.13)
    sun.poly(star(12, 1.05, 1.6), p.light)
    sun.disc(0, 0, 0.9, mix(p.light, "#ffffff", 0.35))
    for _ in range(4):
        cloud = art.pen(rng.random(), rng.uniform(y - 0.3, y + 0.05), rng.uniform(0.05, 0.08))
        for u, r in ((-1.1, 0.6), (0, 0.95), (1.1, 0.65)):
            cloud.disc(u, -r / 3, r, "#ffffff")
    if rng.random() < 0.4:
        for k in range(5):
            art.pen(0.5, y + 0.2, 0.62 - 0.045 * k).arc(0, 0, 1, 1, 0.5, 1.0, 0.08, BRIGHT[k])
    art.hill(y + 0.14, 0.04, p.far)
    art.hill(y + 0.22, 0.03, p.near, waves=1.5)
    if motif == "balloon":
        places = ((0, -0.04, 0.24), (-0.32, 0.05, 0.11), (0.3, 0.12, 0.09))
        for dx, dy, s in places[: rng.randint(1, 3)]:
            balloon(art.pen(0.5 + dx, y + dy, s * rng.uniform(0.9, 1.1)), rng)
    elif motif == "house":
        house(art.pen(0.5 - 0.1 * side, y + 0.23, rng.uniform(0.2, 0.26)), rng)
        tree = art.pen(0.5 + 0.32 * side, y + 0.24, 0.16)
        tree.box(-0.12, -1, 0.12, 0, "#8d5a34")
        for u, v in ((-0.4, -1.1), (0.4, -1.1), (0, -1.6)):
            tree.disc(u, v, 0.6, mix(p.near, "#1b4d2b", 0.35))
    else:
        bear(art.pen(0.5, y + 0.06, rng.uniform(0.25, 0.31)), rng)
    for _ in range(14):
        flower, colour = art.pen(rng.random(), rng.uniform(y + 0.27, 1), 0.022), rng.choice(BRIGHT)
        for k in range(5):
            flower.disc(math.cos(math.tau * k / 5), math.sin(math.tau * k / 5), 0.6, colour)
        flower.disc(0, 0, 0.5, "#ffffff")


def history(art: Art, rng: random.Random, p: Palette, y: float) -> None:
    art.sky(p.sky, p.low)
    for _ in range(12):  # stains of age
        art.glow(rng.random(), rng.random(), rng.uniform(0.15, 0.45), mix(p.low, p.near, 0.4), 0.3)
    motif = rng.choice(("temple", "shield", "compass"))
    pen = art.pen(0.5, y, rng.uniform(0.31, 0.36))
    if motif == "temple":
        columns = rng.choice((4, 5, 6))
        pen.poly([(-1.1, -0.55), (0, -1.05), (1.1, -0.55)], p.far)
        pen.poly([(-0.75, -0.62), (0, -0.94), (0.75, -0.62)], mix(p.far, p.low, 0.45))
        pen.box(-1.05, -0.55, 1.05, -0.42, p.near)
        for k in range(columns):
            u = -0.88 + 1.76 * k / (columns - 1)
            pen.box(u - 0.11, -0.42, u + 0.11, 0.62, p.far)
            pen.box(u - 0.02, -0.36, u + 0.02, 0.56, mix(p.far, p.low, 0.4))
            pen.box(u - 0.15, -0.42, u + 0.15, -0.34, p.near)
        for k in range(3):
            pen.box(-1.05 - 0.1 * k, 0.62 + 0.1 * k, 1.05 + 0.1 * k, 0.72 + 0.1 * k, mix(p.near, p.far, 0.3 * k))
    elif motif == "shield":
        for side in (-1, 1):
            blade = pen.part(0, 0, 1.35, 0.7 * side)
            blade.poly([(-0.06, 0.75), (-0.06, -0.95), (0, -1.1), (0.06, -0.95), (0.06, 0.75)], p.near)
            blade.box(-0.25, 0.7, 0.25, 0.77, p.light)
            blade.box(-0.05, 0.77, 0.05, 1.0, p.near)
        for s, colour in ((1, p.near), (0.9, p.light), (0.82, p.far)):
            edge = [(0, -0.85), (0.75, -0.75), (0.72, 0.05), (0.5, 0.55), (0, 0.95)]
            pen.both([(s * u, s * v) for u, v in edge], colour)
        pen.poly([(0, -0.7), (0.62, -0.62), (0.6, 0.04), (0, 0.04)], p.light)
        pen.poly([(0, 0.04), (-0.6, 0.04), (-0.41, 0.45), (0, 0.78)], p.light)
    else:
        for k in range(12):  # meridians of an old chart
            t = math.tau * k / 12
            pen.line([(0, 0), (4 * math.cos(t), 4 * math.sin(t))], 0.012, mix(p.low, p.near, 0.45))
        for r, colour in ((1, p.near), (0.94, p.sky), (0.8, p.near), (0.77, p.low)):
            pen.disc(0, 0, r, colour)
        pen.poly(star(8, 0.19, 0.62), p.light)
        for k in range(4):
            point = pen.part(0, 0, 1, k * math.pi / 2)
            point.poly([(0, -0.95), (0.16, -0.16), (0, 0)], p.far)
            point.poly([(0, -0.95), (-0.16, -0.16), (0, 0)], p.near)
    art.frame(0.035, 0.016, p.far)
    art.frame(0.062, 0.005, p.far)


def poetry(art: Art, rng: random.Random, p: Palette, y: float) -> None:
    art.sky(p.sky, p.low)
    motif = rng.choice(("branch", "circle", "waves"))
    if motif == "branch":
        art.glow(0.5, y, 0.5, p.light, 0.8)
        lean, leaves = rng.uniform(-0.5, 0.5), rng.randint(7, 11)
        pen = art.pen(0.5 - 0.2 * lean, y + 0.22, 0.62)
        stem = [(lean * t * t, -t) for t in (k / 12 for k in range(13))]
        pen.line(stem, 0.016, p.near)
        for k in range(leaves):
            t, side = 0.15 + 0.85 * k / leaves, 1 if k % 2 else -1
            turn = side * rng.uniform(0.7, 1.1) + lean * t
            leaf = pen.part(lean * t * t, -t, rng.uniform(0.24, 0.34) * (1.2 - 0.5 * t), turn)
            leaf.poly(LEAF, mix(p.far, p.near, rng.uniform(0, 0.6)))
    elif motif == "circle":
        start, r = rng.random(), rng.uniform(0.28, 0.34)
        pen = art.pen(0.5, y, r)
        for k in range(7):  # one turn of a drying brush
            end = start + 0.93 - 0.04 * k * rng.random()
            pen.arc(0, 0, 1 - 0.03 * k, 1 - 0.03 * k, start + 0.01 * k, end, 0.04, mix(p.near, p.far, k / 7))
        pen.disc(0.1, 0.1, 0.34, p.light)
        for _ in range(rng.randint(2, 5)):
            bird = art.pen(0.5 + rng.uniform(-0.3, 0.3), y - rng.uniform(0, 0.14), rng.uniform(0.03, 0.05))
            bird.both([(0, 0), (0.5, -0.5), (1.1, -0.35), (0.5, -0.32)], p.near)
    else:
        art.pen(rng.uniform(0.3, 0.7), y - 0.1, rng.uniform(0.12, 0.18)).disc(0, 0, 1, p.light)
        for k in range(6):
            shade = mix(p.sky, mix(p.far, p.near, 0.3), 0.25 + 0.12 * k)
            art.hill(y + 0.06 * k, 0.035, shade, waves=rng.uniform(0.6, 1.3))


def ship(pen: Pen, rng: random.Random) -> None:
    wood, cloth = "#4a2c1a", rng.choice(("#fff6e0", "#f4e4c1", "#f7ede2"))
    for u, top in ((-0.45, 1.0), (0.05, 1.25), (0.5, 0.9)):
        pen.box(u - 0.02, -top, u + 0.02, 0, wood)
        for low, high, half in ((0.2, 0.55, 0.25), (0.58, 0.85, 0.19)):
            v, w = -high * top, -low * top
            pen.poly([(u - half, v), (u + half, v), (u + 1.2 * half, w), (u - 0.8 * half, w)], cloth)
        pen.poly([(u, -top), (u + 0.2, -top + 0.05), (u, -top + 0.1)], "#c1121f")
    pen.poly([(-0.85, -0.2), (-0.6, -0.08), (0.6, -0.08), (1, -0.25), (0.68, 0.25), (-0.62, 0.25)], wood)
    pen.line([(0.9, -0.2), (1.2, -0.35)], 0.03, wood)


def island(pen: Pen, rng: random.Random, rock: Colour) -> None:
    pen.oval(0, 0.1, 1, 0.28, "#f2d492")
    pen.poly([(-0.2, 0), (0.35, -0.75), (0.55, -0.6), (0.95, 0.05)], rock)
    lean = rng.choice((-0.2, 0.2))
    pen.line([(-0.35, 0.05), (-0.35 + lean / 2, -0.5), (-0.3 + lean, -0.95)], 0.07, "#6b4226")
    for k in range(7):
        pen.part(-0.3 + lean, -0.95, 0.55, (k - 3) * 0.62 + 0.1).poly(LEAF, "#2f6b3a")


def whale(pen: Pen, colour: Colour) -> None:
    """The flukes of a diving whale: each edge a curve from the stem to the tip and back to the notch."""
    turns = [k / 10 for k in range(11)]
    stem = [(0.3 - 0.2 * math.sin(1.5 * t), 0.4 - 0.8 * t) for t in turns]
    out = [(0.1 + 0.9 * t, -0.4 - 0.5 * t**1.6 - 0.12 * math.sin(math.pi * t)) for t in turns]
    back = [(1 - t, -0.9 + 0.34 * t + 0.12 * math.sin(math.pi * t)) for t in turns]
    pen.both([(0, 0.4), *stem, *[(u, v + 0.15) for u, v in out[1:-1]], *back, (0, -0.5)], colour)


def adventure(art: Art, rng: random.Random, p: Palette, y: float) -> None:
    sea, x = y + 0.12, rng.uniform(0.3, 0.7)
    art.sky(p.sky, p.low, bottom=sea)
    for k in range(12):  # rays
        t = math.pi * (k + 0.5 * rng.random()) / 12
        ends = [(2 * math.cos(t + d), -2 * math.sin(t + d)) for d in (-0.06, 0.06)]
        art.pen(x, sea, 1).poly([(0, 0), *ends], mix(p.sky, p.low, 0.5))
    art.pen(x, sea - 0.03, rng.uniform(0.16, 0.22)).disc(0, 0, 1, p.light)
    art.sky(p.far, p.near, top=sea)
    motif = rng.choice(("ship", "island", "whale"))
    if motif == "ship":
        ship(art.pen(0.5, sea + 0.03, rng.uniform(0.33, 0.4), rng.uniform(-0.08, 0.08)), rng)
    elif motif == "island":
        island(art.pen(0.5, sea + 0.07, rng.uniform(0.36, 0.44)), rng, mix("#3c6e47", p.near, 0.3))
    else:
        whale(art.pen(0.5, sea + 0.02, rng.uniform(0.3, 0.37)), mix(p.near, "#0b1f2e", 0.6))
    for k in range(7):
        step = 0.02 + 0.045 * k
        art.hill(sea + step + 0.02, 0.006 + 0.001 * k, mix(p.far, p.near, k / 6), waves=3.0)
        for _ in range(3 if k < 3 else 0):
            art.pen(rng.random(), sea + step + 0.035, 1).box(0, 0, 0.08, 0.006, mix(p.far, "#ffffff", 0.6))


def pot(pen: Pen, p: Palette) -> None:
    for u in (-0.4, 0, 0.4):
        steam = [(u + 0.09 * math.sin(9 * t + 5 * u), -0.75 - 0.9 * t) for t in (k / 12 for k in range(13))]
        pen.line(steam, 0.07, "#ffffff")
    for u in (-1.02, 1.02):
        pen.disc(u, -0.15, 0.2, p.near)
        pen.disc(u, -0.15, 0.1, p.low)
    pen.poly([(-0.95, -0.4), (0.95, -0.4), (0.85, 0.6), (0.65, 0.75), (-0.65, 0.75), (-0.85, 0.6)], p.near)
    pen.box(-0.95, -0.05, 0.95, 0.08, mix(p.near, p.light, 0.6))
    pen.box(-1.02, -0.5, 1.02, -0.36, mix(p.near, "#000000", 0.25))
    pen.poly([(-0.9, -0.5), (-0.5, -0.72), (0.5, -0.72), (0.9, -0.5)], p.near)
    pen.disc(0, -0.78, 0.11, p.light)


def fruit_bowl(pen: Pen, rng: random.Random, p: Palette) -> None:
    for u, v, r in ((-0.5, -0.25, 0.34), (0.5, -0.28, 0.36), (0, -0.6, 0.36), (-0.25, -0.1, 0.3), (0.25, -0.1, 0.3)):
        colour = rng.choice(("#d62828", "#f77f00", "#fcbf49", "#6a994e", "#7b2cbf", "#a7c957"))
        pen.disc(u, v, r, colour)
        pen.disc(u - 0.3 * r, v - 0.3 * r, 0.3 * r, mix(colour, "#ffffff", 0.45))
        pen.line([(u, v - r), (u + 0.05, v - 1.3 * r)], 0.04, "#4a2c1a")
        pen.part(u + 0.05, v - 1.2 * r, 0.22, 1.2).poly(LEAF, "#4f772d")
    pen.poly([(0.95 * math.cos(t), 0.9 * math.sin(t) - 0.05) for t in (math.pi * k / 20 for k in range(21))], p.near)
    pen.box(-0.4, 0.78, 0.4, 0.9, mix(p.near, "#000000", 0.25))
    pen.box(-0.95, -0.05, 0.95, 0.08, mix(p.near, p.light, 0.6))


def plate(pen: Pen, rng: random.Random, p: Palette) -> None:
    for r, colour in ((1, "#d9d2c5"), (0.97, "#ffffff"), (0.68, "#e9e4da"), (0.65, "#fbfaf6")):
        pen.disc(0, 0, r, colour)
    food = rng.choice(("#d7263d", "#e09f3e", "#588157"))
    for k in range(9):
        t = math.tau * k / 9
        pen.disc(0.36 * math.cos(t), 0.36 * math.sin(t), 0.16, mix(food, p.light, 0.25 * (k % 2)))
    pen.disc(0, 0, 0.24, mix(food, "#000000", 0.2))
    pen.poly(star(5, 0.12, 0.3), "#7fa650")
    fork, knife = pen.part(-1.2, 0, 1), pen.part(1.2, 0, 1)
    for u in (-0.1, -0.035, 0.03, 0.095):
        fork.box(u - 0.018, -0.9, u + 0.018, -0.4, p.near)
    fork.poly([(-0.12, -0.45), (0.115, -0.45), (0.05, -0.15), (0.06, 0.9), (-0.06, 0.9), (-0.05, -0.15)], p.near)
    knife.poly([(-0.08, 0), (-0.08, -0.5), (0.06, -0.95), (0.06, 0.9), (-0.06, 0.9), (-0.05, 0)], p.near)


def cooking(art: Art, rng: random.Random, p: Palette, y: float) -> None:
    art.sky(p.sky, p.low)
    table, cells = y + 0.14, rng.choice((6, 8, 10))
    art.fill([(0, table), (1, table), (1, 1), (0, 1)], "#fffaf0")
    side = art.w / cells / art.h
    for j in range(math.ceil((1 - table) / side)):
        for k in range(j % 2, cells, 2):
            art.pen(k / cells, table + j * side, 1 / cells).box(0, 0, 1, 1, p.far)
    motif, s = rng.choice(("pot", "fruit", "plate")), rng.uniform(0.3, 0.36)
    if motif == "pot":
        pot(art.pen(0.5, y + 0.08, s), p)
    elif motif == "fruit":
        fruit_bowl(art.pen(0.5, y + 0.08, s), rng, p)
    else:
        plate(art.pen(0.5, y + 0.06, s), rng, p)
