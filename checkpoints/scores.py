"""What scores say: as text, as a table, and whether one is better than another beyond their errors.

scoring.py makes values and says what they are made of.
"""

from __future__ import annotations

import math

import config
from common.errors import UserError
from common.files import read_json, write_json

ALIKE = (  # what scores must have in common to stand side by side; versions differ in run, version and weights
    *("score", "n", "n_reference", "features_hash", "reference", "rows"),
    *config.setting_options("scoring"),
    *config.setting_options("drawing"),
)
CALLED = {  # what people call the metrics that may be left out
    "fid_infinity": "FD∞",
    "kid": "kernel distance",
    "precision": "precision, recall, coverage",
    "clip": "CLIP score, CMMD",
}
CERTAIN = 2  # standard errors that a difference must exceed: about 95 % for the normal distribution


def make(name, value, *, n, better, error=None, real=None, note=None):
    """One value, of plain Python numbers; see scoring.py for what they mean."""
    numbers = {"value": value, "error": error, "real": real}
    numbers = {key: None if number is None else float(number) for key, number in numbers.items()}
    return {"name": name, **numbers, "n": int(n), "better": better, "note": note}


def text(value):
    """The figure with its standard error, if it has one: '285.97 ± 3.1'."""
    figure = number(value["value"])
    return figure if value["error"] is None else f"{figure} ± {value['error']:.2g}"


def number(figure):
    """Four digits, but never less than two decimals of what is shown as a decimal."""
    return f"{figure:.2f}" if abs(figure) >= 10 else f"{figure:.4g}"


def change(value, start):
    """'better', 'worse' or 'same' (within the errors) than `start`, the same metric of another version; None if that
    can't be told: they are not of one network, an error is unknown, or nobody knows what real covers have and nearer to
    them is better."""
    if value["name"] != start["name"] or value["error"] is None or start["error"] is None:
        return None
    if value["better"] == "real":
        if value["real"] is None or start["real"] is None:
            return None
        gain = abs(start["value"] - start["real"]) - abs(value["value"] - value["real"])
    else:
        gain = (value["value"] - start["value"]) * (1 if value["better"] == "higher" else -1)
    if abs(gain) <= CERTAIN * math.hypot(value["error"], start["error"]):
        return "same"
    return "better" if gain > 0 else "worse"


def differences(scores):
    """Names of the settings of ALIKE in which scores (see metrics.json) are not all the same."""
    return [name for name in ALIKE if len({repr(score.get(name)) for score in scores}) > 1]


def rows(versions):
    """Rows of texts, the head first: a metric each, a column for each version, then the figure of real covers.

    versions: {name: {key: value}}, at least one.
    """
    newest = list(versions.values())[-1]
    keys = list(dict.fromkeys(key for values in (newest, *versions.values()) for key in values))
    lines = [("metric", *versions, "real covers")]
    for key in keys:
        found = [values.get(key) for values in versions.values()]
        known = [value for value in found if value]
        real = next((number(value["real"]) for value in reversed(known) if value["real"] is not None), "")
        lines.append((known[-1]["name"], *(text(value) if value else "" for value in found), real))
    return lines


def table(lines):
    """Rows of texts in columns, as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["  ".join(word.ljust(width) for word, width in zip(words, widths, strict=True)) for words in lines]
    return "".join(f"  {line.rstrip()}\n" for line in padded)


SCORES = "scores.json"


def read_scores(run):
    """{version: {name of the score: what metrics.json says}} of a run."""
    scores = read_json(run / SCORES) if (run / SCORES).exists() else {}
    for of_version in scores.values():
        if not isinstance(of_version, dict) or not all(isinstance(score, dict) for score in of_version.values()):
            raise UserError(f"can't read {run / SCORES}: it holds no scores; delete it, and score again")
    return scores


def add_score(run, version, score):
    """Remember the newest score of a version, for listings. score: see metrics.json; "score" names it."""
    scores = read_scores(run)
    write_json(run / SCORES, {**scores, version: {**scores.get(version, {}), score["score"]: score}})
