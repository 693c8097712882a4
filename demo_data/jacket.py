"""Draws book covers: a scene for the genre, then title and authors, with legible contrast.

    image, boxes = draw_cover("Fantasy", "The Glass Crown", ["Ada Fenwick"], random.Random("any text"))

Drawn at twice the final size and then halved, so that edges are smooth. The only font is the one bundled with Pillow:
the same arguments give the same pixels wherever the same Pillow runs.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFilter

from demo_data import day, night
from demo_data.canvas import Art, Palette
from typesetting.colour import contrast, rgb
from typesetting.lines import LEADING, advance, break_lines, font, line_width

SIZES = ((256, 384), (256, 384), (256, 384), (256, 400), (264, 384), (250, 388))  # pixels; real covers are near 2:3
MIN_CONTRAST = 4.5  # of text to its background: WCAG 2.2, success criterion 1.4.3 (level AA)

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

# ---------------------------------------------------------------------------------------------------------------------
# The look of each genre


class Look(NamedTuple):
    """How covers of a genre are drawn; of a tuple one value is chosen for each cover."""

    scene: Callable[[Art, random.Random, Palette, float], None]  # draws the background; the float is the height y
    palettes: tuple[Palette, ...]
    inks: tuple[str, ...]  # letter colours in order of preference, at least one light and one dark
    plate: str  # colour put behind letters that would be illegible otherwise
    caps: tuple[bool, ...] = (True,)  # title in capitals
    tracking: tuple[float, ...] = (0.02,)  # extra space between letters, in font sizes
    weight: tuple[float, ...] = (0.02,)  # thickening of the letters, in font sizes
    slant: tuple[float, ...] = (0.0,)  # horizontal shear of the letters
    bounce: float = 0.0  # largest random offset of letters from the baseline, in font sizes
    left: float = 0.0  # share of covers set flush left
    label: bool = False  # the plate is a label with a crisp edge, not a soft shade


LOOKS = {
    "Fantasy": Look(
        night.fantasy,
        (
            Palette("#2b1055", "#9d6bc9", "#fbeec2", "#6b4a9c", "#1a0f33"),
            Palette("#1b1b5e", "#c061a8", "#ffe9c9", "#7a4590", "#22103d"),
            Palette("#3a1c71", "#5b8fc0", "#fff3c4", "#4b4a94", "#150f35"),
        ),
        ("#ffe08a", "#fff8e1", "#1a0f33"),
        "#1a0f33",
        tracking=(0.03, 0.08),
        weight=(0.01, 0.025),
    ),
    "Romance": Look(
        day.romance,
        (
            Palette("#f9a8b8", "#ffdfd0", "#fff0d6", "#d6336c", "#8c1c4a"),
            Palette("#ff9a8b", "#ffd3b6", "#fff5cf", "#c9184a", "#7a1540"),
            Palette("#e8a0c8", "#fde2e4", "#fff1e6", "#b5338a", "#6d1a4f"),
        ),
        ("#7a1540", "#ffffff", "#fff4f2"),
        "#fff1ee",
        label=True,
        caps=(False,),
        tracking=(0.0, 0.02),
        weight=(0.0, 0.015),
        slant=(0.22,),
    ),
    "Mystery": Look(
        night.mystery,
        (
            Palette("#1d2a29", "#7d8f87", "#ffdf8e", "#3f504c", "#0c1413"),
            Palette("#232c2e", "#8d989a", "#ffe6a3", "#465256", "#0d1214"),
            Palette("#2a2b22", "#939278", "#ffd778", "#55543f", "#14140d"),
        ),
        ("#f4efdc", "#ffdf8e", "#0c1413"),
        "#0c1413",
        tracking=(0.06, 0.12),
        weight=(0.0, 0.02),
        left=0.4,
    ),
    "Science Fiction": Look(
        night.science_fiction,
        (
            Palette("#02040f", "#0b2a5b", "#4df3ff", "#2f7ddb", "#04102b"),
            Palette("#000814", "#00386b", "#ffc300", "#1f9ad6", "#02142e"),
            Palette("#01060d", "#08485c", "#7dffe3", "#16a3b8", "#021a24"),
        ),
        ("#f2fbff", "#4df3ff", "#02040f"),
        "#02040f",
        tracking=(0.12, 0.2),
        weight=(0.0, 0.03),
        left=0.3,
    ),
    "Horror": Look(
        night.horror,
        (
            Palette("#050000", "#5c0808", "#e03a2a", "#a01212", "#0a0000"),
            Palette("#0d0607", "#3a0a0d", "#f0e2c8", "#8c1014", "#080203"),
            Palette("#1a0000", "#8a1408", "#ff9a4a", "#c22a10", "#0d0000"),
        ),
        ("#fff3ec", "#ffb0a0", "#0a0000"),
        "#0a0000",
        tracking=(0.0, 0.05),
        weight=(0.03, 0.045),
        bounce=0.02,
    ),
    "Childrens": Look(
        day.childrens,
        (
            Palette("#5ec2ff", "#dff5ff", "#ffd93d", "#9be15d", "#4caf50"),
            Palette("#7ad7f0", "#fff7c2", "#ffb703", "#a8e063", "#56ab2f"),
            Palette("#8ecdf7", "#ffe3ef", "#ffe14d", "#b5e550", "#5fbf4a"),
        ),
        ("#14306b", "#7a1238", "#ffffff"),
        "#ffffff",
        label=True,
        caps=(True, False),
        tracking=(0.03,),
        weight=(0.035, 0.05),
        bounce=0.06,
    ),
    "History": Look(
        day.history,
        (
            Palette("#ecdcae", "#cfae7b", "#d9b44a", "#7f1d1d", "#3d1f12"),
            Palette("#efe3c8", "#c9b38a", "#c9a04a", "#4a5a2f", "#2e2a16"),
            Palette("#e6d3ab", "#b99b6b", "#d8b25a", "#1f3a5f", "#26221c"),
        ),
        ("#2a160c", "#fff6df"),
        "#f3e6c4",
        label=True,
        tracking=(0.06, 0.1),
        weight=(0.0, 0.01),
    ),
    "Poetry": Look(
        day.poetry,
        (
            Palette("#f8f4ea", "#ece4d8", "#f3c9b5", "#8fb39a", "#3f6b5b"),
            Palette("#f1f4ee", "#dbe6da", "#f6d9a8", "#8aa9b8", "#3d5a6c"),
            Palette("#f5f1f7", "#e2d9ea", "#f4c6cf", "#a892c4", "#54447a"),
        ),
        ("#2f3b3a", "#ffffff"),
        "#f8f4ea",
        label=True,
        caps=(False,),
        tracking=(0.04, 0.1),
        weight=(0.0,),
        slant=(0.0, 0.0, 0.18),
        left=0.5,
    ),
    "Adventure": Look(
        day.adventure,
        (
            Palette("#f9a03f", "#ffe1a8", "#fff3b0", "#1496b0", "#0b4f6c"),
            Palette("#7cc6ec", "#e8f6ff", "#ffd166", "#1a8fc4", "#0a3d62"),
            Palette("#f47c48", "#ffd08a", "#ffee93", "#17a398", "#0b4f55"),
        ),
        ("#0a2a3f", "#ffffff", "#fff3b0"),
        "#fff3d6",
        label=True,
        tracking=(0.02, 0.06),
        weight=(0.03, 0.045),
    ),
    "Cooking": Look(
        day.cooking,
        (
            Palette("#fff1c9", "#ffd98a", "#ffb627", "#d7263d", "#7d1d2b"),
            Palette("#fdf6e3", "#f6e0a8", "#f4d35e", "#4f9d3a", "#b5461f"),
            Palette("#fff0dc", "#ffcf8f", "#fcbf49", "#e36414", "#3d5a40"),
        ),
        ("#5a1410", "#ffffff", "#2b2b12"),
        "#fffaf0",
        label=True,
        caps=(True, False),
        tracking=(0.0, 0.04),
        weight=(0.015, 0.03),
    ),
}


@dataclasses.dataclass(frozen=True)
class TextStyle:
    """How a text is set; see Look for the units."""

    tracking: float
    weight: float
    slant: float
    bounce: float


def letter_mask(
    art: Art, lines: Sequence[str], size: int, top: float, style: TextStyle, left: float | None
) -> Image.Image:
    """An L image of the whole canvas, 255 where the letters are.

    size: of the font, in pixels; top: upper edge of the text in pixels; left: its left edge in pixels; None centres it.
    """
    mask = Image.new("L", (art.w, art.h))
    draw, face = ImageDraw.Draw(mask), font(size)
    for k, line in enumerate(lines):
        x = left if left is not None else (art.w - size * line_width(line, style.tracking)) / 2
        y = top + size * (0.82 + LEADING * k)
        for character in line:
            jump = art.rng.uniform(-1, 1) * style.bounce * size
            weight = round(style.weight * size)
            draw.text((round(x), round(y + jump)), character, fill=255, font=face, stroke_width=weight, anchor="ls")
            x += size * (advance(character) + style.tracking)
    if style.slant:
        middle = top + LEADING * size * len(lines) / 2
        lean = (1, style.slant, -style.slant * middle, 0, 1, 0)
        mask = mask.transform(mask.size, Image.Transform.AFFINE, lean, Image.Resampling.BILINEAR)
    return mask


def with_plate(art: Art, box: Box, look: Look, opacity: float) -> Image.Image:
    """A copy of the cover with the plate colour behind `box` (pixels): a soft shade, or a label with a crisp edge."""
    pad = round(0.03 * art.w)
    x0, y0, x1, y1 = box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad
    if look.label:
        mask = Image.new("L", art.image.size)
        ImageDraw.Draw(mask).rounded_rectangle((x0, y0, x1, y1), radius=pad, fill=round(255 * opacity))
    else:
        mask = Image.new("L", (art.w // 16, art.h // 16))
        around = [v // 16 for v in (x0 - 2 * pad, y0 - 2 * pad, x1 + 2 * pad, y1 + 2 * pad)]
        ImageDraw.Draw(mask).rectangle(around, fill=round(255 * opacity))
        mask = mask.filter(ImageFilter.BoxBlur(2)).resize(art.image.size, Image.Resampling.BICUBIC)
    image = art.image.copy()
    image.paste(rgb(look.plate), (0, 0), mask)
    return image


def choose_ink(art: Art, box: Box, look: Look) -> str:
    """The first ink that is legible in `box` (pixels). Puts as much of the plate colour behind it as that takes."""
    for opacity in (0.0, 0.85, 1.0) if look.label else (0.0, 0.5, 0.7, 0.85, 1.0):
        ground = with_plate(art, box, look, opacity) if opacity else art.image
        for ink in look.inks:
            if contrast(ink, ground.crop(box).reduce(2)) >= MIN_CONTRAST:
                art.image = ground
                return ink
    raise AssertionError(f"none of the inks {look.inks} is legible on {look.plate}")


def set_text(
    art: Art,
    text: str,
    look: Look,
    style: TextStyle,
    zone: tuple[float, float],
    largest: float,
    flush_left: bool,
    lettering: bool,
) -> Box:
    """Sets text into zone = (top, bottom) in fractions of the height; returns its box in pixels of the final image.

    largest: maximal font size in fractions of the width; flush_left: else centred; lettering=False: see draw_cover.
    """
    margin = 0.1 + abs(style.slant) * 0.1
    width, height = (1 - 2 * margin) * art.w, (zone[1] - zone[0]) * art.h
    lines, size = break_lines(text, width, height, style.tracking, round(largest * art.w))
    top = zone[0] * art.h + (height - LEADING * size * len(lines)) / 2
    mask = letter_mask(art, lines, size, top, style, margin * art.w if flush_left else None)
    box = mask.getbbox()
    ink = choose_ink(art, box, look)
    if lettering:
        art.image.paste(rgb(ink), box, mask.crop(box))
    return tuple(v // 2 for v in box)


def draw_cover(
    genre: str, title: str, authors: Sequence[str], rng: random.Random, lettering: bool = True
) -> tuple[Image.Image, tuple[Box, Box]]:
    """A cover as an RGB image of about 256x384, and the boxes of title and authors in its pixels.

    genre: a key of LOOKS; rng: the source of all randomness. lettering=False omits the letters and nothing else.
    """
    look, size = LOOKS[genre], rng.choice(SIZES)
    caps, tracking, weight, slant = map(rng.choice, (look.caps, look.tracking, look.weight, look.slant))
    flush_left = rng.random() < look.left
    title_style = TextStyle(tracking + weight, weight, slant, look.bounce)  # bold letters need more space
    author_style = TextStyle(tracking=0.06, weight=0.03, slant=0.0, bounce=0.0)
    title_on_top, author_on_top = rng.random() < 0.6, rng.random() < 0.5
    art = Art(size, rng)
    look.scene(art, rng, rng.choice(look.palettes), 0.62 if title_on_top else 0.36)
    title_zone = (0.06, 0.34) if title_on_top else (0.66, 0.93) if author_on_top else (0.62, 0.85)
    height = 0.055 if len(authors) == 1 else 0.085
    author_zone = (0.055, 0.055 + height) if author_on_top and not title_on_top else (0.945 - height, 0.945)
    # Covers have the typographic apostrophe; the data have the ASCII one
    words = (title.upper() if caps else title).replace("'", "’")
    names = " & ".join(authors).upper()
    boxes = (
        set_text(art, words, look, title_style, title_zone, rng.uniform(0.15, 0.2), flush_left, lettering),
        set_text(art, names, look, author_style, author_zone, rng.uniform(0.052, 0.075), flush_left, lettering),
    )
    return art.image.reduce(2), boxes
