"""The scores of several versions side by side: which may stand so at all, and what is better beyond the errors."""

from __future__ import annotations

import math
from typing import NamedTuple

from checkpoints import scores
from common.errors import UserError

WORDS = {  # for settings that are no option's name
    "score": "the main score",
    "n": "the number of covers",
    "n_reference": "the number of real covers",
    "features_hash": "the feature network",
    "reference": "the set of real covers",
    "rows": "the choice of books",
    "precision": "mixed_precision",
}
HASHES = ("features_hash", "reference", "rows")  # settings whose values tell people nothing
VALUE_HAS = {"name", "value", "error", "n", "real", "better"}  # see scoring.py
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

    def is_measured(score):
        found = score.get("values")
        if not isinstance(found, dict) or not found or "score" not in score or "n" not in score:
            return False
        return all(isinstance(value, dict) and value.keys() >= VALUE_HAS for value in found.values())

    return {name: score for name, score in scores.items() if is_measured(score)}


def current(picked, weights):
    """(those scores that were measured on the weights that the version has now, labels of the others).

    weights: {label: models.weights_hash}. A score that says no weights is taken at its word.
    """
    stale = [label for label, score in picked.items() if score.get("weights", weights[label]) != weights[label]]
    return {label: score for label, score in picked.items() if label not in stale}, stale


def differences(picked):
    """[(setting, {label: value})] of the settings in which the scores differ."""
    names = scores.differences(list(picked.values()))
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
    """The differences in words: the number of covers is 20 for v0 and 50 for v1; ..."""
    sentences = []
    for name, of_label in found:
        groups = {}
        for label, value in of_label.items():
            groups.setdefault("unknown" if value is None else str(value), []).append(label)
        said = WORDS.get(name, name)
        if name in HASHES:
            sentences.append(f"{said} differs ({' / '.join(map(', '.join, groups.values()))})")
        else:
            each = " and ".join(f"{value[:24]} for {', '.join(labels)}" for value, labels in groups.items())
            sentences.append(f"{said} is {each}")
    return "; ".join(sentences)


# ---------------------------------------------------------------------------------------------------------------------
# Scores -> table


def table(picked, labels):
    """(the base's label or None, [Row]) of the scores; a row's cells are in the order of `labels`.

    picked: {label: score}. The base, which others are compared with, is v0 if it has a score, else the first that has.
    Of scores that were not measured alike none is called better. What has another name is another metric: CLIP scores
    of two models, say.
    """
    judge = not differences(picked)
    scored = [label for label in labels if label in picked]
    base = "v0" if "v0" in scored else next(iter(scored), None)
    metrics = {}  # (key, name) -> {label: value}
    for label in scored:
        for key, value in picked[label]["values"].items():
            metrics.setdefault((key, value["name"]), {})[label] = value
    order = list(dict.fromkeys(key for key, _ in metrics))
    rows = [metrics[metric] for metric in sorted(metrics, key=lambda metric: order.index(metric[0]))]
    return base, [table_row(measured, labels, base if judge else None) for measured in rows]


def table_row(measured, labels, base):
    """The Row of one metric. measured: {label: value, see scoring.py}; base: its label, or None to judge nothing."""
    some = next(iter(measured.values()))
    counts, reals = {value["n"] for value in measured.values()}, {value["real"] for value in measured.values()}
    figures = [value["value"] for value in measured.values()] + [real for real in reals if real is not None]
    decimals = decimals_of(figures, [value["error"] for value in measured.values()])

    def number(figure):
        return "" if figure is None else f"{figure:,.{decimals}f}".replace("-", "−")

    cells = []
    for label in labels:
        value = measured.get(label)
        if not value:
            cells.append(Cell())
            continue
        verdict = scores.change(value, measured[base]) if base in measured and label != base else None
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
