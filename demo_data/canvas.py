"""What the scenes of the demo covers are drawn with: colours, pens and the canvas.

Coordinates: x in fractions of the width, y in fractions of the height, lengths in fractions of the width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageOps

from typesetting.colour import rgb


class Palette(NamedTuple):
    sky: str  # the upper background
    low: str  # the lower background
    light: str  # what shines: moon, sun, lamp
    far: str  # objects far off, or the main accent
    near: str  # objects close by, or the darkest tone


def mix(a, b, t):
    """The colour a share t of the way from a to b."""
    return tuple(round(x + (y - x) * t) for x, y in zip(rgb(a), rgb(b), strict=True))


class Pen:
    """Draws in its own coordinates: origin at a point of the scene, unit length s pixels, turned by `turn` radians."""

    def __init__(self, draw, x, y, s, turn=0.0):
        self.draw, self.x, self.y, self.s = draw, x, y, s
        self.cos, self.sin = math.cos(turn), math.sin(turn)

    def part(self, u, v, s, turn=0.0):
        """A pen for a part of the drawing: its origin at (u, v) here, s times as large, turned on its own."""
        return Pen(self.draw, *self.place([(u, v)])[0], self.s * s, turn)

    def place(self, points):
        """Points in this pen's coordinates -> pixels."""
        return [
            (self.x + self.s * (self.cos * u - self.sin * v), self.y + self.s * (self.sin * u + self.cos * v))
            for u, v in points
        ]

    def poly(self, points, fill):
        self.draw.polygon(self.place(points), fill=rgb(fill))

    def both(self, points, fill):
        """A polygon and its mirror image."""
        self.poly(points, fill)
        self.poly([(-u, v) for u, v in points], fill)

    def box(self, left, top, right, bottom, fill):
        self.poly([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def oval(self, u, v, ru, rv, fill):
        turns = [math.tau * k / 40 for k in range(40)]
        self.poly([(u + ru * math.cos(t), v + rv * math.sin(t)) for t in turns], fill)

    def disc(self, u, v, r, fill):
        self.oval(u, v, r, r, fill)

    def line(self, points, width, fill):
        self.draw.line(self.place(points), fill=rgb(fill), width=max(1, round(width * self.s)), joint="curve")

    def arc(self, u, v, ru, rv, start, end, width, fill):
        """Part of an ellipse's rim; angles in turns, clockwise from the right."""
        turns = [math.tau * (start + (end - start) * k / 48) for k in range(49)]
        self.line([(u + ru * math.cos(t), v + rv * math.sin(t)) for t in turns], width, fill)


class Art:
    """A cover in the making, at twice its final size."""

    def __init__(self, size, rng):
        self.w, self.h = 2 * size[0], 2 * size[1]
        self.rng = rng
        self.image = Image.new("RGB", (self.w, self.h))
        self.draw = ImageDraw.Draw(self.image)

    def pen(self, x, y, s, turn=0.0):
        return Pen(self.draw, x * self.w, y * self.h, s * self.w, turn)

    def sky(self, *stops, top=0.0, bottom=1.0):
        """A vertical run through two or three colours between two heights."""
        ramp = Image.linear_gradient("L").resize((1, max(1, round((bottom - top) * self.h))))
        middle = rgb(stops[1]) if len(stops) == 3 else None
        band = ImageOps.colorize(ramp, rgb(stops[0]), rgb(stops[-1]), middle)
        self.image.paste(band.resize((self.w, band.height), Image.Resampling.NEAREST), (0, round(top * self.h)))

    def glow(self, x, y, r, colour, opacity=1.0, flat=1.0):
        """Light that fades out over radius r; flat < 1 squeezes its height (banks of fog)."""
        # Pillow's radial gradient is 0 in the middle and 181 where its circle meets the edge.
        fade = Image.radial_gradient("L").point([round(opacity * 255 * max(0, 181 - v) / 181) for v in range(256)])
        width, height = round(2 * r * self.w), round(2 * r * flat * self.w)
        mask = fade.resize((width, height), Image.Resampling.BILINEAR)
        self.image.paste(rgb(colour), (round(x * self.w) - width // 2, round(y * self.h) - height // 2), mask)

    def stars(self, count, colour, bottom=1.0):
        for _ in range(count):
            x, y, r = self.rng.random(), self.rng.random() * bottom, self.rng.choice((0.002, 0.003, 0.003, 0.006))
            self.pen(x, y, r).disc(0, 0, 1, rgb(colour))

    def ridge(self, y, rise, fill, peaks):
        """Mountains: peaks up to `rise` above y, filled to the bottom edge."""
        points = [(0, 1.0), (0, y)]
        for k in range(2 * peaks + 1):
            lift = self.rng.uniform(0.5, 1) if k % 2 else self.rng.uniform(0, 0.3)
            points.append(((k + self.rng.uniform(-0.3, 0.3)) / (2 * peaks), y - rise * lift))
        self.fill([*points, (1, y), (1, 1.0)], fill)

    def hill(self, y, rise, fill, waves=1.0):
        """A rolling line around y, filled to the bottom edge."""
        phase = self.rng.random() * math.tau
        line = [(k / 32, y - rise * math.sin(phase + waves * math.tau * k / 32)) for k in range(33)]
        self.fill([(0, 1.0), *line, (1, 1.0)], fill)

    def fill(self, points, fill):
        self.draw.polygon([(x * self.w, y * self.h) for x, y in points], fill=rgb(fill))

    def frame(self, inset, width, colour):
        edge = round(inset * self.w)
        box = (edge, edge, self.w - 1 - edge, self.h - 1 - edge)
        self.draw.rectangle(box, outline=rgb(colour), width=max(1, round(width * self.w)))


HEART = [
    (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
    for t in (math.tau * k / 60 for k in range(60))
]
LEAF = [(0, 0), (0.22, -0.2), (0.26, -0.5), (0, -1), (-0.26, -0.5), (-0.22, -0.2)]
BAT = [
    (0, 0.1),
    (0.1, -0.15),
    (0.3, 0),
    (0.6, -0.35),
    (1, -0.2),
    (0.8, 0),
    (0.6, 0.05),
    (0.4, 0.2),
    (0.2, 0.15),
    (0, 0.4),
]


def star(points, inner, outer=1.0):
    """A star with so many points between two radii."""
    turns = [(inner if k % 2 else outer, math.pi * k / points) for k in range(2 * points)]
    return [(r * math.sin(t), -r * math.cos(t)) for r, t in turns]
