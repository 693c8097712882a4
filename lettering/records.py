"""A layout: the lines of a cover's title and author, where they stand; and how it is written as JSON.

{"lines": [{"text": "THE GLASS", "corners": [[0.1, 0.05], [0.9, 0.05], [0.9, 0.14], [0.1, 0.14]], "part": "title"}]}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import UserError
from data.images import fitted_size

Size = tuple[int, int]  # width, height in pixels
Point = tuple[float, float]  # x, y in fractions of the picture's width and height
Corners = tuple[Point, Point, Point, Point]

PARTS = ("title", "author")
KEYS = ("text", "corners", "box", "slant", "part")  # of a line in JSON
STEEPEST = 1.0  # slant: 45 degrees
# What OCR's boxes have around the letters' ink, in heights of the box: left, top, right, bottom. Measured with
# rapidocr's PP-OCRv6 on 154 lines of 40 demo covers, whose ink is known; standard deviations 0.04 (top, bottom), 0.07
OCR_PADDING = (0.15, 0.16, 0.12, 0.11)


@dataclass(frozen=True)
class LetterLine:
    """A line of text on a cover."""

    text: str  # "" in a layout whose lines are to be filled, see layout.filled
    corners: Corners  # box of the letters' ink: upper left, upper right, lower right, lower left of the text as read
    slant: float = 0.0  # horizontal shear of the letters, dx per dy in pixels; positive leans right, as italics do
    part: str = ""  # title or author; "" if that is not known


@dataclass(frozen=True)
class Layout:
    """The lines of a cover."""

    lines: tuple[LetterLine, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object; what is at its default is left out."""
        return {"lines": [line_to_json(line) for line in self.lines]}

    @classmethod
    def from_json(cls, value: Any) -> Layout:
        """What to_json gives; "box": [left, top, right, bottom] is taken in place of corners. Corners may lie outside
        the picture. UserError says which line is damaged, and how."""
        if not isinstance(value, dict) or value.keys() != {"lines"} or not isinstance(value["lines"], list):
            raise UserError('it must hold {"lines": [...]} and nothing else')
        return cls(tuple(line_from_json(line, f"line {i + 1}") for i, line in enumerate(value["lines"])))

    def fitted(self, source: Size, target: Size) -> Layout:
        """Where the lines of a cover of size `source` stand in a picture of size `target` (data.images.fit_image)."""
        inner = fitted_size(source, target)
        start = [(whole - part) // 2 for whole, part in zip(target, inner, strict=True)]
        scale, shift = np.divide(inner, target), np.divide(start, target)
        return Layout(tuple(moved(line, np.array(line.corners) * scale + shift) for line in self.lines))


def moved(line: LetterLine, corners: np.ndarray) -> LetterLine:
    """The line at other corners (4, 2)."""
    return dataclasses.replace(line, corners=to_corners(corners))


def to_corners(corners: np.ndarray | Sequence[Sequence[float]]) -> Corners:
    """Corners (4, 2) as a tuple."""
    first, second, third, fourth = ((float(x), float(y)) for x, y in corners)
    return first, second, third, fourth


def ink_corners(corners: Sequence[Point], size: Size) -> Corners:
    """The box of the ink in a box that OCR found on a picture of this size; both in fractions of the picture."""
    first, second, third, fourth = np.array(corners) * size
    along, down = (second - first + third - fourth) / 2, (fourth - first + third - second) / 2
    wide, high = max(float(np.linalg.norm(along)), 1e-9), float(np.linalg.norm(down))
    left, top, right, bottom = OCR_PADDING
    # In fractions of the box; a box higher than wide, of a lone narrow letter, keeps half of its width
    narrow = min(1.0, 0.5 * wide / ((left + right) * high)) if high else 0.0
    u0, u1 = narrow * left * high / wide, 1 - narrow * right * high / wide
    inner = [
        (1 - v) * ((1 - u) * first + u * second) + v * ((1 - u) * fourth + u * third)
        for u, v in ((u0, top), (u1, top), (u1, 1 - bottom), (u0, 1 - bottom))
    ]
    return to_corners(np.array(inner) / size)


# ---------------------------------------------------------------------------------------------------------------------
# JSON


def line_to_json(line: LetterLine) -> dict[str, Any]:
    """The JSON object of a line."""
    value: dict[str, Any] = {"text": line.text} if line.text else {}
    value["corners"] = [list(corner) for corner in line.corners]
    value |= {"slant": line.slant} if line.slant else {}
    return value | ({"part": line.part} if line.part else {})


def line_from_json(value: Any, where: str) -> LetterLine:
    """The line of a JSON object. UserError begins with `where`."""
    if not isinstance(value, dict):
        raise UserError(f'{where} must be an object such as {{"text": ..., "box": [left, top, right, bottom]}}')
    if unknown := [key for key in value if key not in KEYS]:
        raise UserError(f"{where} has the key {unknown[0][:40]!r}: expected {', '.join(KEYS)}")
    text, slant, part = value.get("text", ""), value.get("slant", 0), value.get("part", "")
    if not isinstance(text, str) or ("text" in value and not text.strip()):
        raise UserError(f"{where}: its text must be a string that is not empty")
    if part not in ("", *PARTS) or not (text or part):
        raise UserError(f'{where} needs "text", or "part": title or author, which is filled')
    if not is_number(slant) or abs(slant) > STEEPEST:
        raise UserError(f"{where}: its slant must be a number from -{STEEPEST:g} to {STEEPEST:g}, 0.2 for italics")
    return LetterLine(text, corners_from_json(value, where), float(slant), part)


def corners_from_json(value: dict[str, Any], where: str) -> Corners:
    """The corners of a line's JSON object."""
    if ("box" in value) == ("corners" in value):
        raise UserError(f"{where} needs either corners or box")
    box, corners = value.get("box"), value.get("corners")
    if "box" in value:
        if not is_list_of_numbers(box, 4):
            raise UserError(f"{where}: its box must be [left, top, right, bottom], numbers")
        left, top, right, bottom = box
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    if not (isinstance(corners, list) and len(corners) == 4 and all(is_list_of_numbers(c, 2) for c in corners)):
        raise UserError(f"{where}: its corners must be four [x, y], numbers")
    if not is_clockwise(np.array(corners, float)):
        what = (
            "its left must be less than its right, and its top than its bottom"
            if box
            else ("its corners must go clockwise from the upper left of the text, without a dent")
        )
        raise UserError(f"{where}: {what}")
    return to_corners(corners)


def is_list_of_numbers(value: Any, length: int) -> bool:
    """Whether it is a list of so many finite numbers."""
    return isinstance(value, list) and len(value) == length and all(map(is_number, value))


def is_number(value: Any) -> bool:
    """Whether it is a number below a million: neither infinite nor NaN, which Python reads from JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def is_clockwise(corners: np.ndarray) -> bool:
    """Whether four corners (4, 2) turn right at each of them, seen with y downwards: a convex box with an area."""
    sides = np.roll(corners, -1, axis=0) - corners
    after = np.roll(sides, -1, axis=0)
    return bool((sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0] > 1e-9).all())
