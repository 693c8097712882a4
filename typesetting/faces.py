"""Fonts for covers: where they come from, how wide a text is in them, and which characters can't be set.

The serif is EB Garamond, the sans Source Sans 3, both under the SIL Open Font License, from pip packages.
"""

from __future__ import annotations

import functools
import importlib.resources
import itertools
import os
import re
import unicodedata
from dataclasses import dataclass

from PIL import ImageFont, features

from common.errors import UserError, first_line

PACKAGED = {
    "serif": ("fontpkg_eb_garamond", "EBGaramond[wght].ttf"),
    "sans": ("fontpkg_source_sans_3", "SourceSans3[wght].ttf"),
}
REFERENCE = 200  # font size in pixels at which widths are measured; they are used in font sizes ("em")
JOINERS = "\u200c\u200d"  # zero width non-joiner and joiner: they choose between forms of letters
NOWHERE = "\U0010ffff"  # a code point that is no character: every font draws its sign for a missing glyph


@dataclass(frozen=True)
class Face:
    """A font file at a weight."""

    path: str
    weight: int  # of a variable font: 400 regular, 700 bold; such a file opens at its thinnest

    @property
    def name(self) -> str:
        """The family's name."""
        return self.at(REFERENCE).getname()[0] or self.path

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The font at `size` pixels. UserError if the file is not a font that can be scaled."""
        return open_font(self.path, self.weight, size)


def find_face(font: str, weight: int) -> Face:
    """The face for --typeset_font: serif, sans or a file. UserError if there is none."""
    path = os.path.expanduser(font)
    if font in PACKAGED:
        package, file = PACKAGED[font]
        try:
            path = str(importlib.resources.files(package) / "files" / file)
        except ModuleNotFoundError:
            raise UserError(
                f"--typeset_font {font}: the package {package} is not installed: pip install -r requirements.txt"
            ) from None
    face = Face(path, weight)
    face.at(REFERENCE)
    return face


@functools.lru_cache(maxsize=64)
def open_font(path: str, weight: int, size: int) -> ImageFont.FreeTypeFont:
    """See Face.at."""
    try:
        font = ImageFont.truetype(path, size)
    except OSError as problem:
        names = " and ".join(PACKAGED)
        raise UserError(
            f"--typeset_font {path}: {first_line(problem)}; give {names.replace('and', 'or')}, or a TrueType or "
            "OpenType file"
        ) from None
    try:
        axes = font.get_variation_axes()
    except OSError:  # not a variable font
        return font
    values = []
    for axis in axes:
        weighs = (axis["name"] or b"").lower() in (b"weight", b"wght")
        values.append(min(max(weight, axis["minimum"]), axis["maximum"]) if weighs else axis["default"])
    font.set_variation_by_axes(values)
    return font


@functools.lru_cache(maxsize=100_000)
def extent(face: Face, text: str) -> tuple[float, float, float]:
    """(width, ascent, descent) of a text set as it is: advance width and ink above and below the baseline, in em."""
    font = face.at(REFERENCE)
    _, top, _, bottom = font.getbbox(text, anchor="ls")
    return font.getlength(text) / REFERENCE, -top / REFERENCE, bottom / REFERENCE


def letter_offsets(face: Face, text: str, tracking: float) -> list[float]:
    """Where each letter of a letterspaced text begins, and where the last one ends: len(text) + 1 offsets in em.

    tracking: space added between letters, in em. Pairs are kerned.
    """
    offsets = [0.0]
    for i, letter in enumerate(text):
        step = extent(face, letter)[0]
        if i + 1 < len(text):
            pair = text[i : i + 2]
            step = extent(face, pair)[0] - extent(face, pair[1])[0] + tracking
        offsets.append(offsets[-1] + step)
    return offsets


# ---------------------------------------------------------------------------------------------------------------------
# Characters


def clean(text: str, face: Face) -> str:
    """The text on one line, composed (NFC), with typographic quotes if the font has them, without invisible characters.

    "Ender's  'Game'" -> "Ender’s ‘Game’".
    """
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in unicodedata.normalize("NFC", text))
    text = "".join(c for c in text if c in JOINERS or not (unicodedata.category(c) == "Cf" or c in "\ufe0e\ufe0f"))
    if not missing("‘’“”", face):
        for straight, opening, closing in (("'", "‘", "’"), ('"', "“", "”")):
            text = re.sub(rf"(?:(?<=^)|(?<=[\s(\[—–“‘])){straight}(?=\S)", opening, text).replace(straight, closing)
    return " ".join(text.split()) if text.strip(JOINERS + " ") else ""


def missing(text: str, face: Face) -> list[str]:
    """The characters of `text` that the font has no glyph or a blank one for, once each, in their order."""
    nothing = glyph(face, NOWHERE)
    seen = dict.fromkeys(c for c in text if not (c.isspace() or c in JOINERS))
    return [c for c in seen if glyph(face, c) == nothing or not any(glyph(face, c)[1])]


@functools.lru_cache(maxsize=4096)
def glyph(face: Face, character: str) -> tuple[tuple[int, int], bytes]:
    """(size, pixels) of a character."""
    mask = face.at(REFERENCE).getmask(character)
    return mask.size, bytes(mask)


def needs_shaping(character: str) -> bool:
    """Whether letters change or move beside this character: right-to-left, Indic and other scripts, combining marks."""
    point = ord(character)
    return (
        unicodedata.bidirectional(character) in ("R", "AL", "AN")
        or unicodedata.category(character) in ("Mn", "Mc")
        or character in JOINERS
        or 0x0900 <= point <= 0x109F
        or 0x1780 <= point <= 0x18AF
    )


def can_shape() -> bool:
    """Whether Pillow has Raqm here, and Raqm the system's FriBidi: what such scripts are set with."""
    return features.check("raqm")


def require_settable(text: str, face: Face, what: str) -> None:
    """UserError names the first characters that can't be set. what: "the title" or "the author"."""
    absent = missing(text, face)
    if absent:
        raise UserError(
            f"{what} can't be set: {face.name} has no {names_of(absent)}; give --typeset_font FILE, a font that "
            "has all its characters"
        )
    shaped = [] if can_shape() else [c for c in dict.fromkeys(text) if needs_shaping(c)]
    if shaped:
        raise UserError(
            f"{what} can't be set: {names_of(shaped)} must be joined or placed by Raqm, which this machine lacks: "
            "install the system's package of FriBidi (libfribidi0)"
        )


def names_of(characters: list[str]) -> str:
    """The first three characters, each with its code point and its name."""
    named = [f"{c} (U+{ord(c):04X} {unicodedata.name(c, 'unnamed')})" for c in itertools.islice(characters, 3)]
    return ", ".join(named) + (f" and {len(characters) - 3} more" if len(characters) > 3 else "")
