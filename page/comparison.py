"""The score table of the report: which scores may be shown together, and which differences exceed their errors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints import scores
from common.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from checkpoints.scores import Score, ScoreValue

SETTING_NAMES = {  # display names of settings that are not named like an option
    "score": "the main score",
    "n": "the number of covers",
    "n_reference": "the number of real covers",
    "features_hash": "the feature network",
    "reference": "the set of real covers",
    "rows": "the choice of books",
    "precision": "mixed_precision",
}
HASHES = ("features_hash", "reference", "rows")  # settings whose values mean nothing to a reader
HINTS = {"lower": "lower is better", "higher": "higher is better", "real": "nearer to real covers is better"}
VERDICTS = {"better": "better", "worse": "worse", "same": "within error", None: ""}


class Cell(NamedTuple):
    """One metric of one version, as text."""

    text: str = ""  # the value; "" if the version has none
    error: str = ""  # one standard error; "" if unknown
    n: int | None = None  # number of covers, if it differs within the row
    real: str = ""  # the metric of real covers, if it differs within the row
    verdict: str = ""  # compared with the baseline: "better", "worse", "within error" or ""
    arrow: str = ""  # direction of a change that exceeds the error: "↑", "↓" or ""


class Row(NamedTuple):
    """One metric of all versions, as text."""

    name: str
    hint: str  # which direction is better, and n if it is the same for all
    cells: list[Cell]
    real: str  # the metric of real covers, if it is the same for all


# ---------------------------------------------------------------------------------------------------------------------
# Which scores are shown


def choose_scores(scores_of: Mapping[str, Mapping[str, Score]]) -> dict[str, Score]:
    """{version's label: Score}: the kind of score that most versions have; a version without it shows its newest.

    scores_of: {label: {name of the score: Score}}, see scores.read_scores. Versions without a score are left out, and
    so are scores that are only a distance, without errors.
    """
    complete = {
        label: {name: score for name, score in found.items() if score.values} for label, found in scores_of.items()
    }
    names = [name for found in complete.values() for name in found]
    shared = max(names, key=names.count, default="")
    return {label: found.get(shared, [*found.values()][-1]) for label, found in complete.items() if found}


def split_stale(chosen: Mapping[str, Score], weights: Mapping[str, str]) -> tuple[dict[str, Score], list[str]]:
    """(scores of the weights that the versions have now, labels of the versions whose weights changed since).

    weights: {label: diffusion.weights.weights_hash}. A score that does not name its weights counts as current.
    """
    stale = [
        label for label, score in chosen.items() if score.settings.get("weights", weights[label]) != weights[label]
    ]
    return {label: score for label, score in chosen.items() if label not in stale}, stale


def differences(chosen: Mapping[str, Score]) -> list[tuple[str, dict[str, Any]]]:
    """[(setting, {label: its value})] of the settings that must match and do not; see scores.differences."""
    settings = {label: score.settings for label, score in chosen.items()}
    return [
        (name, {label: of.get(name) for label, of in settings.items() if name in of or name not in scores.OF_SOME})
        for name in scores.differences([*settings.values()])
    ]


def require_same_settings(chosen: Mapping[str, Score]) -> None:
    """UserError, naming settings and versions, unless all scores were measured with the same settings."""
    found = differences(chosen)
    if found:
        raise UserError(
            f"these versions were scored with different settings: {describe(found)}; score them alike with "
            "sd_inference --calc_fid True, or give --mixed True to show them side by side nevertheless"
        )


def describe(found: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """The differences as a sentence: "the number of covers is 20 for v0 and 50 for v1; ..."."""
    sentences = []
    for name, of_label in found:
        groups: dict[str, list[str]] = {}
        for label, value in of_label.items():
            text = "unknown" if value is None else str(value)
            groups.setdefault(text if text.isprintable() else repr(text), []).append(label)
        setting = SETTING_NAMES.get(name, name)
        if name in HASHES:
            sentences.append(f"{setting} differs ({' / '.join(map(', '.join, groups.values()))})")
        else:
            each = " and ".join(f"{value[:24]} for {', '.join(labels)}" for value, labels in groups.items())
            sentences.append(f"{setting} is {each}")
    return "; ".join(sentences)


# ---------------------------------------------------------------------------------------------------------------------
# Scores -> table


def table(chosen: Mapping[str, Score], labels: Sequence[str]) -> tuple[str | None, list[Row]]:
    """(label of the baseline or None, rows of the table); the cells of a row are in the order of `labels`.

    The other versions are compared with the baseline: v0 if it has a score, else the first version that has one.
    Nothing is called better or worse if settings differ. Values of the same key and different names, say CLIP scores by
    two models, are different metrics with a row each.
    """
    comparable = not differences(chosen)
    scored = [label for label in labels if label in chosen]
    baseline = "v0" if "v0" in scored else next(iter(scored), None)
    metrics: dict[tuple[str, str], dict[str, ScoreValue]] = {}  # (key, name) -> {label: value}
    for label in scored:
        for key, value in chosen[label].values.items():
            metrics.setdefault((key, value.name), {})[label] = value
    order = list(dict.fromkeys(key for key, _ in metrics))
    rows = [metrics[metric] for metric in sorted(metrics, key=lambda metric: order.index(metric[0]))]
    return baseline, [table_row(values, labels, baseline if comparable else None) for values in rows]


def table_row(values: Mapping[str, ScoreValue], labels: Sequence[str], baseline: str | None) -> Row:
    """The row of one metric. values: {label: value}, at least one; baseline: its label, None for no verdicts."""
    first = next(iter(values.values()))
    counts, reals = {value.n for value in values.values()}, {value.real for value in values.values()}
    figures = [value.value for value in values.values()] + [real for real in reals if real is not None]
    decimals = decimals_of(figures, [value.error for value in values.values()])

    def number(figure: float | None) -> str:
        return "" if figure is None else f"{figure:,.{decimals}f}".replace("-", "−")

    cells = []
    for label in labels:
        value = values.get(label)
        if not value:
            cells.append(Cell())
            continue
        start = values.get(baseline) if baseline not in (None, label) else None
        change = scores.change(value, start) if start else None
        arrow = ("↑" if value.value > start.value else "↓") if start and change in ("better", "worse") else ""
        cells.append(
            Cell(
                text=number(value.value),
                error=number(value.error),
                n=value.n if len(counts) > 1 else None,
                real=number(value.real) if len(reals) > 1 else "",
                verdict=VERDICTS[change],
                arrow=arrow,
            )
        )
    hint = HINTS[first.better] + (f"; n = {first.n:,}" if len(counts) == 1 else "")
    return Row(first.name, hint, cells, number(first.real) if len(reals) == 1 else "")


def decimals_of(figures: Iterable[float], errors: Iterable[float | None]) -> int:
    """Decimals for the numbers of a row: two digits of the smallest error; without errors, four of the largest."""
    known = [error for error in errors if error]
    if known:
        return min(6, max(0, 1 - math.floor(math.log10(min(known)))))
    largest = max(map(abs, figures))
    return min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest else 1


Remarks = list[tuple[str, str, list[str]]]


def remarks(chosen: Mapping[str, Score]) -> tuple[Remarks, Remarks]:
    """([(skipped metric, why, labels)], [(metric, note, labels)]): each once, with the versions it applies to."""
    skipped: dict[tuple[str, str], list[str]] = {}
    notes: dict[tuple[str, str], list[str]] = {}
    for label, score in chosen.items():
        for key, reason in score.skipped.items():
            skipped.setdefault((scores.METRIC_NAMES.get(key, key), reason), []).append(label)
        for value in score.values.values():
            if value.note:
                notes.setdefault((value.name, value.note), []).append(label)
    return [(*key, labels) for key, labels in skipped.items()], [(*key, labels) for key, labels in notes.items()]
