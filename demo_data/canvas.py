"""Drawing tools for the scenes of the demo covers: palette, pen and canvas.

Coordinates: x in fractions of the width, y in fractions of the height, lengths in fractions of the width.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageOps

from typesetting.colour import RGB, Colour, rgb

Point = tuple[float, float]


class Palette(NamedTuple):
    """The colours of a scene."""

    sky: Colour  # the upper background
    low: Colour  # the lower background
    light: Colour  # light sources: moon, sun, lamp
    far: Colour  # distant objects, or the main accent
    near: Colour  # near objects, or the darkest tone


def mix(a: Colour, b: Colour, t: float) -> RGB:
    """Linear interpolation between two colours: a at t = 0, b at t = 1."""
    return tuple(round(x + (y - x) * t) for x, y in zip(rgb(a), rgb(b), strict=True))


class Pen:
    """Draws in its own coordinates: origin at a point of the scene, unit length s pixels, turned by `turn` radians."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float, y: float, s: float, turn: float = 0.0):
        self.draw, self.x, self.y, self.s = draw, x, y, s
        self.cos, self.sin = math.cos(turn), math.sin(turn)

    def part(self, u: float, v: float, s: float, turn: float = 0.0) -> Pen:
        """A pen for a part of the drawing: its origin at (u, v) here, s times as large, turned on its own."""
        return Pen(self.draw, *self.to_pixels([(u, v)])[0], self.s * s, turn)

    def to_pixels(self, points: Iterable[Point]) -> list[Point]:
        """Points in this pen's coordinates, converted to pixels."""
        return [
            (self.x + self.s * (self.cos * u - self.sin * v), self.y + self.s * (self.sin * u + self.cos * v))
            for u, v in points
        ]

    def poly(self, points: Iterable[Point], fill: Colour) -> None:
        self.draw.polygon(self.to_pixels(points), fill=rgb(fill))

    def both(self, points: Sequence[Point], fill: Colour) -> None:
        """A polygon and its mirror image."""
        self.poly(points, fill)
        self.poly([(-u, v) for u, v in points], fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self.poly([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def oval(self, u: float, v: float, ru: float, rv: float, fill: Colour) -> None:
        turns = [math.tau * k / 40 for k in range(40)]
        self.poly([(u + ru * math.cos(t), v + rv * math.sin(t)) for t in turns], fill)

    def disc(self, u: float, v: float, r: float, fill: Colour) -> None:
        self.oval(u, v, r, r, fill)

    def line(self, points: Iterable[Point], width: float, fill: Colour) -> None:
        self.draw.line(self.to_pixels(points), fill=rgb(fill), width=max(1, round(width * self.s)), joint="curve")

    def arc(
        self, u: float, v: float, ru: float, rv: float, start: float, end: float, width: float, fill: Colour
    ) -> None:
        """Arc of an ellipse; angles in turns, clockwise from the right."""
        turns = [math.tau * (start + (end - start) * k / 48) for k in range(49)]
        self.line([(u + ru * math.cos(t), v + rv * math.sin(t)) for t in turns], width, fill)


class Art:
    """The canvas of a cover, at twice its final size (width, height) in pixels."""

    def __init__(self, size: tuple[int, int], rng: random.Random):
        self.w, self.h = 2 * size[0], 2 * size[1]
        self.rng = rng
        self.image = Image.new("RGB", (self.w, self.h))
        self.draw = ImageDraw.Draw(self.image)

    def pen(self, x: float, y: float, s: float, turn: float = 0.0) -> Pen:
        """A pen with its origin at (x, y), unit length s, turned by `turn` radians."""
        return Pen(self.draw, x * self.w, y * self.h, s * self.w, turn)

    def sky(self, *stops: Colour, top: float = 0.0, bottom: float = 1.0) -> None:
        """A vertical gradient through two or three colours between two heights."""
        ramp = Image.linear_gradient("L").resize((1, max(1, round((bottom - top) * self.h))))
        middle = rgb(stops[1]) if len(stops) == 3 else None
        band = ImageOps.colorize(ramp, rgb(stops[0]), rgb(stops[-1]), middle)
        self.image.paste(band.resize((self.w, band.height), Image.Resampling.NEAREST), (0, round(top * self.h)))

    def glow(self, x: float, y: float, r: float, colour: Colour, opacity: float = 1.0, flat: float = 1.0) -> None:
        """Light that fades out over radius r; flat < 1 squeezes its height (banks of fog)."""
        # Pillow's radial gradient is 0 in the middle and 181 where its circle meets the edge.
        fade = Image.radial_gradient("L").point([round(opacity * 255 * max(0, 181 - v) / 181) for v in range(256)])
        width, height = round(2 * r * self.w), round(2 * r * flat * self.w)
        mask = fade.resize((width, height), Image.Resampling.BILINEAR)
        self.image.paste(rgb(colour), (round(x * self.w) - width // 2, round(y * self.h) - height // 2), mask)

    def stars(self, count: int, colour: Colour, bottom: float = 1.0) -> None:
        for _ in range(count):
            x, y, r = self.rng.random(), self.rng.random() * bottom, self.rng.choice((0.002, 0.003, 0.003, 0.006))
            self.pen(x, y, r).disc(0, 0, 1, rgb(colour))

    def ridge(self, y: float, rise: float, fill: Colour, peaks: int) -> None:
        """Mountains: peaks up to `rise` above y, filled to the bottom edge."""
        points = [(0, 1.0), (0, y)]
        for k in range(2 * peaks + 1):
            lift = self.rng.uniform(0.5, 1) if k % 2 else self.rng.uniform(0, 0.3)
            points.append(((k + self.rng.uniform(-0.3, 0.3)) / (2 * peaks), y - rise * lift))
        self.fill([*points, (1, y), (1, 1.0)], fill)

    def hill(self, y: float, rise: float, fill: Colour, waves: float = 1.0) -> None:
        """A sine wave around y, filled to the bottom edge."""
        phase = self.rng.random() * math.tau
        line = [(k / 32, y - rise * math.sin(phase + waves * math.tau * k / 32)) for k in range(33)]
        self.fill([(0, 1.0), *line, (1, 1.0)], fill)

    def fill(self, points: Iterable[Point], fill: Colour) -> None:
        """A filled polygon."""
        self.draw.polygon([(x * self.w, y * self.h) for x, y in points], fill=rgb(fill))

    def frame(self, inset: float, width: float, colour: Colour) -> None:
        """A rectangular frame `inset` from the edges."""
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


def star(points: int, inner: float, outer: float = 1.0) -> list[Point]:
    """The outline of a star with this many points, between two radii."""
    turns = [(inner if k % 2 else outer, math.pi * k / points) for k in range(2 * points)]
    return [(r * math.sin(t), -r * math.cos(t)) for r, t in turns]
