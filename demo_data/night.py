"""Scenes for the darker genres of the demo covers: fantasy, mystery, science fiction, horror.

A scene is a function of (art, rng, palette, y) that paints the whole canvas, with its main motif around height y. Parts
of scenes are drawn by a pen, in its coordinates.
"""

from __future__ import annotations

import math
import random

from demo_data.canvas import BAT, Art, Palette, Pen, mix
from typesetting.colour import Colour


def fantasy(art: Art, rng: random.Random, p: Palette, y: float) -> None:
    art.sky(p.sky, p.low)
    art.stars(50, p.light, y)
    motif, r = rng.choice(("castle", "dragon", "sword")), rng.uniform(0.15, 0.24)
    moon = 0.5 if motif != "castle" else rng.uniform(0.25, 0.75)
    art.glow(moon, y - 0.1, 2.6 * r, p.light, 0.7)
    art.pen(moon, y - 0.1, r).disc(0, 0, 1, p.light)
    for k in range(3):
        art.ridge(y + 0.08 + 0.09 * k, 0.2 - 0.04 * k, mix(p.far, p.near, k / 2), 4 + k)
    if motif == "castle":
        pen = art.pen(1 - moon, y + 0.15, rng.uniform(0.26, 0.36))
        pen.box(-0.75, -0.45, 0.75, 0.6, p.near)
        for x, half, top in ((-0.65, 0.13, 0.8), (-0.25, 0.12, 1.1), (0.15, 0.17, 1.4), (0.62, 0.14, 0.9)):
            pen.box(x - half, -top, x + half, 0.6, p.near)
            pen.poly([(x - 1.5 * half, -top), (x, -top - 4 * half), (x + 1.5 * half, -top)], mix(p.near, p.far, 0.3))
            pen.box(x - 0.03, -top + 0.12, x + 0.03, -top + 0.25, p.light)
    elif motif == "dragon":
        pen = art.pen(0.5, y - 0.06, rng.uniform(0.3, 0.38), rng.uniform(-0.3, 0.3))
        pen.both(
            [(0, 0), (0.3, -0.5), (1, -0.75), (0.85, -0.25), (0.65, -0.35), (0.5, 0.05), (0.3, -0.05), (0.1, 0.3)],
            p.near,
        )
        neck = [(-0.13, 0), (-0.08, -0.3), (0, -0.52), (-0.12, -0.72), (0.02, -0.62), (0.1, -0.62), (0.32, -0.47)]
        chest = [
            (0.3, -0.42),
            (0.12, -0.42),
            (0.1, -0.2),
            (0.15, 0.1),
            (0.08, 0.4),
            (0.16, 0.7),
            (0.32, 0.8),
            (0.2, 0.98),
        ]
        pen.poly([*neck, *chest, (0.14, 0.82), (0, 0.72), (-0.08, 0.45)], p.near)
    else:
        pen = art.pen(0.5, y, rng.uniform(0.34, 0.42))
        pen.both([(0, -1), (0.09, -0.85), (0.09, 0.35), (0, 0.35)], mix(p.light, p.far, 0.25))
        pen.poly([(0, -1), (0.09, -0.85), (0.09, 0.35), (0, 0.35)], mix(p.light, p.far, 0.6))
        pen.box(-0.34, 0.35, 0.34, 0.44, p.near)
        pen.box(-0.05, 0.44, 0.05, 0.75, p.near)
        pen.disc(0, 0.8, 0.09, p.light)


def walker(pen: Pen, colour: Colour) -> None:
    """A figure in hat and long coat, feet at the origin, about 1 high."""
    pen.box(-0.17, -0.87, 0.17, -0.84, colour)
    pen.box(-0.09, -0.97, 0.09, -0.85, colour)
    pen.disc(0, -0.79, 0.075, colour)
    pen.poly([(-0.16, -0.7), (0.16, -0.7), (0.23, -0.22), (-0.23, -0.22)], colour)
    pen.box(-0.12, -0.25, -0.03, 0, colour)
    pen.box(0.03, -0.25, 0.12, 0, colour)


def mystery(art: Art, rng: random.Random, p: Palette, y: float) -> None:
    art.sky(p.sky, p.low, mix(p.sky, p.near, 0.6))
    motif = rng.choice(("lamp", "keyhole", "lens"))
    x = rng.choice((0.3, 0.7)) + rng.uniform(-0.05, 0.05)
    if motif == "lamp":
        for k in range(7):  # houses in the fog
            wall = mix(p.low, p.near, rng.uniform(0.1, 0.3))
            art.pen(k / 6, y + 0.2, 1).box(-0.07, -rng.uniform(0.15, 0.5), 0.08, 0.3, wall)
        art.fill([(0, y + 0.24), (1, y + 0.24), (1, 1), (0, 1)], mix(p.sky, p.near, 0.7))
        art.glow(x, y - 0.12, 0.55, p.light, 0.85)
        art.glow(x, y + 0.27, 0.5, p.light, 0.55, flat=0.22)
        pen = art.pen(x, y + 0.27, 0.62)
        pen.box(-0.018, -0.85, 0.018, 0, p.near)
        pen.box(-0.05, -0.06, 0.05, 0, p.near)
        pen.poly([(-0.09, -1.05), (0.09, -1.05), (0.055, -0.85), (-0.055, -0.85)], mix(p.light, "#ffffff", 0.5))
        pen.poly([(-0.12, -1.05), (0, -1.15), (0.12, -1.05)], p.near)
        walker(art.pen(1 - x, y + 0.29, rng.uniform(0.36, 0.46)), p.near)
    elif motif == "keyhole":
        pen = art.pen(0.5, y, rng.uniform(0.3, 0.36))
        pen.poly([(-0.62, -1), (0.62, -1), (0.62, 1.1), (-0.62, 1.1)], mix(p.far, p.near, 0.4))
        pen.box(-0.56, -0.94, 0.56, 1.04, mix(p.far, p.low, 0.35))
        pen.disc(0, -0.3, 0.32, p.light)
        pen.poly([(-0.12, -0.2), (0.12, -0.2), (0.27, 0.8), (-0.27, 0.8)], p.light)
        art.glow(0.5, y, 0.6, p.light, 0.5)
        walker(art.pen(0.5, y + 0.15, 0.26), p.near)
    else:
        for _ in range(6):  # footprints
            pen = art.pen(rng.random(), rng.random(), 0.03, rng.uniform(-0.5, 0.5))
            pen.oval(0, 0, 0.6, 1.3, mix(p.sky, p.near, 0.5))
        pen = art.pen(0.5 - 0.06, y - 0.04, rng.uniform(0.27, 0.32), -0.7)
        pen.box(-0.1, 1.0, 0.1, 2.1, p.near)
        pen.disc(0, 0, 1.13, p.near)
        pen.disc(0, 0, 1, mix(p.light, p.low, 0.25))
        for k in range(1, 7):  # the lines of a finger
            pen.arc(0.04 * k, 0.1, 0.12 * k, 0.135 * k, 0.5 - 0.3, 1.0 + 0.2 - 0.02 * k, 0.05, mix(p.far, p.near, 0.7))
    for _ in range(6):
        fog = mix(p.low, "#ffffff", 0.25)
        art.glow(rng.random(), rng.uniform(y - 0.2, 1), rng.uniform(0.4, 0.8), fog, 0.4, flat=0.2)


def planet(art: Art, x: float, y: float, r: float, colour: Colour, dark: Colour, ring: Colour | None = None) -> None:
    """A ball lit from the upper left, perhaps with a ring around it."""
    pen = art.pen(x, y, r, -0.35)
    if ring:
        pen.arc(0, 0, 1.75, 0.42, 0.5, 1.0, 0.13, ring)
    pen.disc(0, 0, 1, dark)
    for k in range(8):  # lit caps, each smaller and brighter
        pen.disc(-0.03 * k, -0.05 * k, 1 - 0.08 * k, mix(dark, colour, (k + 1) / 8))
    if ring:
        pen.arc(0, 0, 1.75, 0.42, 0.0, 0.5, 0.13, ring)


def science_fiction(art: Art, rng: random.Random, p: Palette, y: float) -> None:
    art.sky(p.sky, p.low)
    art.glow(rng.random(), rng.random(), 0.8, p.far, 0.35)
    art.stars(110, mix("#ffffff", p.low, 0.4))
    motif, side = rng.choice(("planet", "rocket", "city")), rng.choice((-1, 1))
    if motif == "planet":
        planet(art, 0.5 + 0.04 * side, y, rng.uniform(0.2, 0.27), p.far, p.near, p.light)
        planet(art, 0.5 - 0.34 * side, y - 0.17, rng.uniform(0.05, 0.08), p.light, p.near)
    elif motif == "rocket":
        planet(art, 0.5 + 0.4 * side, y + 0.3, 0.45, p.far, p.near)
        pen = art.pen(0.5, y, rng.uniform(0.27, 0.33), -0.5 * side + rng.uniform(-0.2, 0.2))
        pen.poly([(-0.2, 0.6), (0, 1.6), (0.2, 0.6)], "#ff7a1a")
        pen.poly([(-0.1, 0.6), (0, 1.15), (0.1, 0.6)], "#ffe27a")
        pen.both([(0.2, 0.15), (0.55, 0.8), (0.2, 0.6)], p.light)
        body = [(0, -1), (0.17, -0.7), (0.26, -0.2), (0.24, 0.3), (0.15, 0.65), (0, 0.65)]
        pen.both(body, "#e6ebf2")
        pen.poly(body, "#b4bfd0")
        pen.both([(0, -1), (0.17, -0.7), (0.2, -0.55), (0, -0.55)], p.light)
        pen.disc(0, -0.15, 0.12, p.near)
    else:
        ground = y + 0.16
        art.pen(0.5, ground, rng.uniform(0.3, 0.38)).disc(0, -0.35, 1, p.light)
        for k in range(5):
            art.pen(0.5, ground - 0.03 - 0.035 * k, 1).box(-0.5, 0, 0.5, 0.016 - 0.002 * k, mix(p.low, p.far, 0.2))
        for _ in range(14):
            x, tall, half = rng.random(), rng.uniform(0.08, 0.42), rng.uniform(0.02, 0.05)
            tower = [(-half, 0), (-half, -tall), (half, -tall - half), (half, 0)]
            art.pen(x, ground, 1).poly(tower, mix(p.near, p.low, rng.random()))
        art.fill([(0, ground), (1, ground), (1, 1), (0, 1)], p.near)
        for k in range(-9, 10):
            art.pen(0.5, ground, 1).line([(0.06 * k, 0), (0.3 * k, 0.8)], 0.006, p.far)
        for k in range(7):
            art.pen(0, ground + 0.004 + 0.008 * k * k, 1).box(0, 0, 1, 0.006, p.far)


def branch(
    pen: Pen,
    rng: random.Random,
    x: float,
    y: float,
    angle: float,
    length: float,
    width: float,
    colour: Colour,
    depth: int,
) -> None:
    """A bare tree, grown branch by branch."""
    u, v = x + length * math.sin(angle), y - length * math.cos(angle)
    pen.line([(x, y), (u, v)], width, colour)
    if depth:
        for turn in (-0.5, 0.45) if rng.random() < 0.75 else (-0.6, 0.05, 0.6):
            bend = angle + turn + rng.uniform(-0.25, 0.25)
            branch(pen, rng, u, v, bend, length * rng.uniform(0.62, 0.82), width * 0.62, colour, depth - 1)


def horror(art: Art, rng: random.Random, p: Palette, y: float) -> None:
    art.sky(p.sky, p.low)
    motif, x = rng.choice(("tree", "house", "eye")), rng.uniform(0.3, 0.7)
    if motif == "eye":
        pen = art.pen(0.5, y, rng.uniform(0.36, 0.42))
        art.glow(0.5, y, 0.7, p.far, 0.7)
        lid = [(u, -0.5 * math.cos(u * math.pi / 2)) for u in (k / 10 - 1 for k in range(21))]
        pen.poly([*lid, *((u, -v) for u, v in reversed(lid))], mix(p.light, "#ffffff", 0.55))
        pen.disc(0, 0, 0.46, p.far)
        for k in range(18):
            t = math.tau * k / 18
            pen.line([(0.2 * math.cos(t), 0.2 * math.sin(t)), (0.44 * math.cos(t), 0.44 * math.sin(t))], 0.025, p.near)
        pen.oval(0, 0, rng.choice((0.1, 0.2)), 0.34, p.near)
    else:
        art.glow(x, y - 0.12, 0.75, p.far, 0.8)
        art.pen(x, y - 0.12, rng.uniform(0.2, 0.27)).disc(0, 0, 1, p.light)
        art.hill(y + 0.24, 0.02, p.near)
        if motif == "tree":
            branch(art.pen(1 - x, y + 0.28, 0.4), rng, 0, 0, rng.uniform(-0.2, 0.2), 0.55, 0.13, p.near, 6)
        else:
            pen = art.pen(0.5, y + 0.27, rng.uniform(0.32, 0.4))
            pen.box(-0.6, -0.7, 0.6, 0, p.near)
            pen.poly([(-0.75, -0.65), (-0.2, -1.15), (0.75, -0.65)], p.near)
            pen.box(0.2, -1.15, 0.52, -0.5, p.near)
            pen.poly([(0.1, -1.1), (0.36, -1.7), (0.62, -1.1)], p.near)
            for u, v in ((-0.4, -0.5), (-0.1, -0.5), (0.36, -0.95), (0.36, -0.45)):
                pen.box(u - 0.06, v - 0.1, u + 0.06, v + 0.08, "#ffb52e")
        for k in range(4):  # graves
            pen = art.pen(
                0.12 + 0.25 * k + rng.uniform(-0.06, 0.06),
                y + 0.29 + rng.uniform(0, 0.04),
                0.055,
                rng.uniform(-0.2, 0.2),
            )
            pen.box(-0.7, -1.2, 0.7, 1, mix(p.near, p.low, 0.6))
            pen.disc(0, -1.2, 0.7, mix(p.near, p.low, 0.6))
    for _ in range(rng.randint(3, 6)):
        pen = art.pen(rng.random(), rng.uniform(y - 0.3, y + 0.05), rng.uniform(0.04, 0.08), rng.uniform(-0.4, 0.4))
        pen.both(BAT, p.near)
