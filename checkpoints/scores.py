"""Scores of versions: the records in metrics.json and scores.json, and how they read as text and as a table.

evaluation/evaluate.py computes them; this is the only module that knows their JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any, TypeGuard

import config
from common.errors import UserError
from common.files import read_json, write_json
from common.locks import locked

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Mapping, Sequence

    from checkpoints.run_folder import RunFolder

MUST_MATCH = (  # settings that scores must share to be compared; versions differ in run, version and weights
    *("score", "n", "n_reference", "features_hash", "reference", "rows"),
    *config.setting_options("scoring"),
    *config.setting_options("drawing"),
)
OF_SOME = ("layout",)  # of MUST_MATCH, what only some versions have: one without lettering is drawn with no letters
METRIC_NAMES = {  # display names of the metrics that may be skipped
    "fid_infinity": "FD∞",
    "kid": "kernel distance",
    "precision": "precision, recall, coverage",
    "clip": "CLIP score, CMMD",
    "entanglement_letters": "title swap inside letters",
}
BETTER = ("lower", "higher", "real")
WRITE_HINT = "free some space there or choose another --save_dir"
MIN_STANDARD_ERRORS = 2  # that a difference must exceed: about 95 % for the normal distribution


# ---------------------------------------------------------------------------------------------------------------------
# Records


class NotFiniteError(UserError):
    """A metric that is not a finite number: it is no score."""


@dataclasses.dataclass(frozen=True)
class ScoreValue:
    """One metric of the covers of one version."""

    name: str  # display name, which also names the feature network: two networks make two metrics
    value: float
    error: float | None  # one standard error; None if unknown
    real: float | None  # the same metric of real covers: a distance's lower limit, legibility's upper limit
    n: int  # covers it was measured on
    better: str  # "lower", "higher", or "real": nearer to `real` is better
    note: str | None = None  # anything else worth knowing

    def to_json(self) -> dict[str, Any]:
        """The value as an entry of "values" in metrics.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, entry: object) -> ScoreValue:
        """The value in an entry of "values"; unknown keys are ignored. ValueError says what is wrong with it."""
        fields = require_object(entry, "it")
        name, note, better = fields.get("name"), fields.get("note"), fields.get("better")
        if not is_text(name):
            raise ValueError('it has no "name"')
        if note is not None and not is_text(note):
            raise ValueError('its "note" is not a text')
        if better not in BETTER:
            raise ValueError(f'its "better" is not one of {", ".join(BETTER)}')
        error, real = (None if fields.get(key) is None else require_number(fields, key) for key in ("error", "real"))
        if error is not None and error < 0:
            raise ValueError('its "error" is negative')
        value, n = require_number(fields, "value"), require_count(fields, "n")
        return cls(name=name, value=value, error=error, real=real, n=n, better=better, note=note)


@dataclasses.dataclass(frozen=True)
class Score:
    """All metrics of one version's covers, and how they were drawn and measured: what a metrics.json holds.

    Scores from before there were metrics besides the distance have no values. Unknown keys of a file become settings,
    so they are kept when it is written again.
    """

    settings: Mapping[str, Any]  # everything but the fields below, in the order of the file; see MUST_MATCH
    values: Mapping[str, ScoreValue] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)  # metric that was not measured -> why
    distance: float | None = None  # the Fréchet distance, also in values["fid"]

    @property
    def name(self) -> str:
        """Name of the Fréchet distance, such as "FID": scores.json keeps one score of each name for a version."""
        return self.settings["score"]

    @property
    def n(self) -> int:
        """Number of covers that were scored."""
        return self.settings["n"]

    def to_json(self) -> dict[str, Any]:
        """The score as metrics.json and scores.json hold it."""
        fields = dict(self.settings)
        if self.distance is not None:
            fields["distance"] = self.distance
        if self.values:
            fields["values"] = {key: value.to_json() for key, value in self.values.items()}
            fields["skipped"] = dict(self.skipped)
        return fields

    @classmethod
    def from_json(cls, entry: object) -> Score:
        """The score in a JSON object. ValueError says what is wrong with it."""
        settings = dict(require_object(entry, "it"))
        distance = None if settings.get("distance") is None else require_number(settings, "distance")
        entries = require_object(settings.get("values", {}), '"values"')
        skipped = require_object(settings.get("skipped", {}), '"skipped"')
        for key in ("distance", "values", "skipped"):
            settings.pop(key, None)
        if not is_text(settings.get("score")):
            raise ValueError('it has no "score", the name of the feature distance')
        require_count(settings, "n")
        require_finite(settings)
        if not all(is_text(reason) for reason in skipped.values()):
            raise ValueError('"skipped" does not hold texts')
        values = {}
        for key, value in entries.items():
            try:
                values[key] = ScoreValue.from_json(value)
            except ValueError as problem:
                raise ValueError(f"value {key!r}: {problem}") from None
        return cls(settings, values, skipped, distance)


def require_object(value: object, what: str) -> dict[str, Any]:
    """The value, a JSON object. ValueError if it is anything else."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not a JSON object")
    return value


def require_number(fields: Mapping[str, Any], key: str) -> float:
    """fields[key], a finite number. ValueError if it is anything else."""
    number = fields.get(key)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f'its "{key}" is not a number')
    try:
        finite = math.isfinite(number)
    except OverflowError:  # an integer beyond float's range
        finite = False
    if not finite:
        raise ValueError(f'its "{key}" is not finite')
    return float(number)


def require_finite(settings: Mapping[str, Any]) -> None:
    """ValueError if any number in the settings, however deep, is not finite."""
    try:
        json.dumps(settings, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError("a number in its settings is not finite") from None


def is_text(value: object) -> TypeGuard[str]:
    """Whether the value is a text of one line; it will be printed, and codes in it would command a terminal."""
    return isinstance(value, str) and value.isprintable()


def require_count(fields: Mapping[str, Any], key: str) -> int:
    """fields[key], an integer >= 0. ValueError if it is anything else."""
    count = fields.get(key)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(f'its "{key}" is not a whole number')
    return count


def make_value(
    name: str,
    value: float,
    *,
    n: int,
    better: str,
    error: float | None = None,
    real: float | None = None,
    note: str | None = None,
) -> ScoreValue:
    """A ScoreValue of plain Python numbers, from NumPy's or Python's. NotFiniteError if one of them is not finite."""
    error, real = (None if number is None else float(number) for number in (error, real))
    if not all(math.isfinite(number) for number in (value, error, real) if number is not None):
        raise NotFiniteError(f"{name} is not finite (value {value}, error {error}, real covers {real})")
    return ScoreValue(name=name, value=float(value), error=error, real=real, n=int(n), better=better, note=note)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def read_score(path: pathlib.Path) -> Score | None:
    """The score in a metrics.json, or None if there is no such file. UserError if it is damaged."""
    if not path.exists():
        return None
    hint = "delete it: scoring again is quick, as features are cached"
    try:
        return Score.from_json(read_json(path))
    except UserError as problem:
        raise UserError(f"{problem}; {hint}") from None
    except ValueError as problem:
        raise UserError(f"can't read {path} as a score: {problem}; {hint}") from None


def read_scores(run: RunFolder) -> dict[str, dict[str, Score]]:
    """{version: {name of the score: Score}} of a run, from its scores.json. UserError if that is damaged."""
    path = run.scores
    if not path.exists():
        return {}
    hint = "delete it, and score the run's versions again"
    scores: dict[str, dict[str, Score]] = {}
    try:
        for version, entries in read_json(path).items():
            scores[version] = {}
            for name, entry in require_object(entries, f"{version!r}").items():
                try:
                    scores[version][name] = Score.from_json(entry)
                except ValueError as problem:
                    raise ValueError(f"score {name!r} of {version!r}: {problem}") from None
    except UserError as problem:
        raise UserError(f"{problem}; {hint}") from None
    except ValueError as problem:
        raise UserError(f"can't read {path} as scores: {problem}; {hint}") from None
    return scores


def update_score(path: pathlib.Path, change: Callable[[Score | None], Score]) -> Score:
    """Write change(the score in a metrics.json, None if there is no such file) there, and return it.

    Other processes wait meanwhile, so none loses what another has just written. UserError if the file is damaged, can't
    be written, or would hold a number that is not finite.
    """
    with locked(path, WRITE_HINT):
        score = change(read_score(path))
        write_json(path, checked_json(score, path), WRITE_HINT)
    return score


def update_run_score(
    run: RunFolder, version: str, name: str, change: Callable[[Score | None], Score | None]
) -> Score | None:
    """update_score for the run's scores.json, where a version has one score of each name. None: nothing is written."""
    with locked(run.scores):
        found = read_scores(run)
        score = change(found.get(version, {}).get(name))
        if score is not None:
            found.setdefault(version, {})[name] = score
            fields = {
                version: {name: checked_json(each, run.scores) for name, each in entries.items()}
                for version, entries in found.items()
            }
            write_json(run.scores, fields)
    return score


def add_score(run: RunFolder, version: str, score: Score) -> None:
    """Write the score into the run's scores.json, where it replaces the version's score of the same name."""
    update_run_score(run, version, score.name, lambda _: score)


def checked_json(score: Score, path: pathlib.Path) -> dict[str, Any]:
    """score.to_json(), for the file `path`. UserError if read_score would refuse it."""
    fields = score.to_json()
    try:
        Score.from_json(fields)
    except ValueError as problem:
        raise UserError(f"can't write {path}: of the score {score.name!r}, {problem}") from None
    return fields


# ---------------------------------------------------------------------------------------------------------------------
# Comparing


def change(value: ScoreValue, start: ScoreValue) -> str | None:
    """'better', 'worse' or 'same' (within the errors) than `start`, the same metric of another version.

    None if that is unknown: the two are of different networks, an error is unknown, or nearer to real covers is better
    and their figure is unknown.
    """
    if value.name != start.name or value.error is None or start.error is None:
        return None
    if value.better == "real":
        if value.real is None or start.real is None:
            return None
        gain = abs(start.value - start.real) - abs(value.value - value.real)
    else:
        gain = (value.value - start.value) * (1 if value.better == "higher" else -1)
    if abs(gain) <= MIN_STANDARD_ERRORS * math.hypot(value.error, start.error):
        return "same"
    return "better" if gain > 0 else "worse"


def differences(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names in MUST_MATCH that differ between the settings of several scores; a missing setting counts as None.

    One of OF_SOME differs only between those that have it.
    """
    values = {
        name: {repr(each.get(name)) for each in settings if name in each or name not in OF_SOME} for name in MUST_MATCH
    }
    return [name for name, different in values.items() if len(different) > 1]


# ---------------------------------------------------------------------------------------------------------------------
# Text and tables


def text(value: ScoreValue) -> str:
    """The value with its standard error, if that is known: '285.97 ± 3.1'."""
    figure = number(value.value)
    return figure if value.error is None else f"{figure} ± {value.error:.2g}"


def number(figure: float) -> str:
    """The number with four significant digits, and at least two decimals from 10 on: '0.1235', '10054.20'."""
    return f"{figure:.2f}" if abs(figure) >= 10 else f"{figure:.4g}"


def rows(versions: Mapping[str, Mapping[str, ScoreValue]]) -> list[tuple[str, ...]]:
    """Rows of a table, header first: one metric a row, one column for each version, the last for real covers.

    versions: {version: Score.values}, at least one.
    """
    newest = list(versions.values())[-1]
    keys = list(dict.fromkeys(key for values in (newest, *versions.values()) for key in values))
    lines: list[tuple[str, ...]] = [("metric", *versions, "real covers")]
    for key in keys:
        found = [values.get(key) for values in versions.values()]
        known = [value for value in found if value]
        real = next((number(value.real) for value in reversed(known) if value.real is not None), "")
        lines.append((known[-1].name, *(text(value) if value else "" for value in found), real))
    return lines


def table(lines: Sequence[Sequence[str]]) -> str:
    """Rows of texts as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["  ".join(word.ljust(width) for word, width in zip(words, widths, strict=True)) for words in lines]
    return "".join(f"  {line.rstrip()}\n" for line in padded)
