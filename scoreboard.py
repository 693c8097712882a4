"""The scores of several versions side by side: which may stand so at all, and what is better beyond the errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import values
from config import UserError

BETTER = {"lower": "lower is better", "higher": "higher is better", "real": "nearer to real covers is better"}


class Cell(NamedTuple):
    """One version's figure."""

    text: str = ""  # '' if there is none
    error: str = ""  # one standard error; '' if none is known
    n: int | None = None  # covers, where the row's versions differ
    real: str = ""  # of real covers, where the row's versions differ
    verdict: str = ""  # against the base: 'better', 'worse', 'within error', or ''
    arrow: str = ""  # where the figure went: '↑', '↓' or ''


class Row(NamedTuple):
    """One metric."""

    name: str
    hint: str  # which way is better, and n
    cells: list
    real: str


# ---------------------------------------------------------------------------------------------------------------------
# Scores of versions -> those that are shown


def pick(scores):
    """One score of each version: that of the name which most versions have, else its only or newest one.

    scores: {version's label: {score's name: score}}, see catalog.read_scores. Versions without a score are left out.
    """
    measured = {label: keep_measured(of_version) for label, of_version in scores.items()}
    names = [name for of_version in measured.values() for name in of_version]
    shared = max(names, key=names.count, default=None)
    return {
        label: of_version.get(shared, [*of_version.values()][-1])
        for label, of_version in measured.items()
        if of_version
    }


def keep_measured(scores):
    """Those scores that have values: a bare distance, without error and yardstick, is none that can be compared."""
    return {name: score for name, score in scores.items() if score.get("values")}


def differences(picked):
    """[(setting, {label: value})] of the settings in which the scores differ."""
    names = values.differences(list(picked.values()))
    return [(name, {label: score.get(name) for label, score in picked.items()}) for name in names]


def require_alike(picked):
    """UserError, which names the settings and the versions, if the scores were not measured alike."""
    found = differences(picked)
    if found:
        raise UserError(
            f"these versions were scored with different settings: {tell(found)}; score them alike with sd_inference "
            "--calc_fid True, or say --mixed True to show them side by side all the same"
        )


def tell(found):
    """The differences in words: n is 20 for v0 and 50 for v1; ..."""

    def words(value):
        return "unknown" if value is None else str(value)[:24]

    sentences = []
    for name, of_label in found:
        groups = {}
        for label, value in of_label.items():
            groups.setdefault(words(value), []).append(label)
        sentences.append(
            f"{name} is " + " and ".join(f"{value} for {', '.join(labels)}" for value, labels in groups.items())
        )
    return "; ".join(sentences)


# ---------------------------------------------------------------------------------------------------------------------
# Scores -> table


def table(picked, labels):
    """(the base's label or None, [Row]) of the scores; a row's cells are in the order of `labels`.

    picked: {label: score}. The base, which others are compared with, is v0 if it has a score, else the first that has.
    """
    scored = [label for label in labels if label in picked]
    base = "v0" if "v0" in scored else next(iter(scored), None)
    keys = dict.fromkeys(key for label in scored for key in picked[label]["values"])
    rows = []
    for key in keys:
        measured = {label: picked[label]["values"][key] for label in scored if key in picked[label]["values"]}
        rows.append(table_row(measured, labels, base))
    return base, rows


def table_row(measured, labels, base):
    """The Row of one metric. measured: {label: value, see scoring.py}."""
    some = next(iter(measured.values()))
    counts, reals = {value["n"] for value in measured.values()}, {value["real"] for value in measured.values()}
    figures = [value["value"] for value in measured.values()]
    decimals = decimals_of(figures, [value["error"] for value in measured.values()])

    def number(figure):
        return "" if figure is None else f"{figure:,.{decimals}f}".replace("-", "−")

    cells = []
    for label in labels:
        value = measured.get(label)
        if not value:
            cells.append(Cell())
            continue
        verdict = values.change(value, measured[base]) if base in measured and label != base else None
        arrow = ("↑" if value["value"] > measured[base]["value"] else "↓") if verdict in ("better", "worse") else ""
        cells.append(
            Cell(
                text=number(value["value"]),
                error=number(value["error"]),
                n=value["n"] if len(counts) > 1 else None,
                real=number(value["real"]) if len(reals) > 1 else "",
                verdict={"same": "within error", None: ""}.get(verdict, verdict),
                arrow=arrow,
            )
        )
    hint = BETTER[some["better"]] + (f"; n = {some['n']:,}" if len(counts) == 1 else "")
    return Row(some["name"], hint, cells, number(some["real"]) if len(reals) == 1 else "")


def decimals_of(figures, errors):
    """How many decimals a row's numbers need: two digits of its least error; without errors, four of its largest."""
    errors = [error for error in errors if error]
    if errors:
        return min(6, max(0, 1 - math.floor(math.log10(min(errors)))))
    largest = max(map(abs, figures))
    return min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest else 1


def remarks(picked):
    """([(what was skipped, why, labels)], [(metric, note, labels)]): each once, with the versions it is about."""
    skipped, notes = {}, {}
    for label, score in picked.items():
        for key, reason in (score.get("skipped") or {}).items():
            skipped.setdefault((key.replace("_", " "), str(reason)), []).append(label)
        for value in score["values"].values():
            if value.get("note"):
                notes.setdefault((value["name"], str(value["note"])), []).append(label)
    return [(*key, labels) for key, labels in skipped.items()], [(*key, labels) for key, labels in notes.items()]
