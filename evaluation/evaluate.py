"""The metrics of one version's covers, each beside the same metric of real covers.

measure() runs the functions of METRIC_FUNCTIONS in their order: Fréchet distance and its limit, kernel distance,
precision, recall and coverage, memorisation, legibility, CLIP score and CMMD. Each takes EvaluationInputs and returns
{key: ScoreValue}. merge_scores() puts the values into the Score that metrics.json holds.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

import config
from checkpoints import scores
from checkpoints.scores import Score, ScoreValue
from cli.checks import chosen_metrics
from common.png import png_paths, read_png
from data.images import read_cover
from evaluation import distances, entanglement, feature_cache, precision_recall, title_swap
from evaluation.legibility import legibility
from ocr.engine import OCRUnavailable
from ocr.readings import read_covers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from evaluation.inputs import EvaluationInputs


class NoTitles(ValueError):
    """A metric needs the titles of books, and the data folder has captions of pictures."""


# Problems of one metric, without which the others can be measured
SKIP = (distances.TooFewImages, distances.ZeroEmbedding, OCRUnavailable, scores.NotFiniteError, NoTitles)
COPY_SHARE = 0.01  # fraction of real held-out covers as near to a training cover as what counts as a copy


def measure(inputs: EvaluationInputs) -> tuple[dict[str, ScoreValue], dict[str, str]]:
    """({key: value}, {key: why it was skipped}) of the metrics in options.metrics."""
    values: dict[str, ScoreValue] = {}
    skipped: dict[str, str] = {}
    wanted = chosen_metrics(inputs.options)
    for key, (metric, function, _) in METRIC_FUNCTIONS.items():
        if metric in wanted:
            try:
                values |= function(inputs)
            except SKIP as problem:
                skipped[key] = str(problem)
    if "clip" in wanted and inputs.clip is None:
        skipped["clip"] = "it needs a CLIP model: give --clip_model, say openai/clip-vit-large-patch14-336 (1.7 GB)"
    return values, skipped


# ---------------------------------------------------------------------------------------------------------------------
# The metrics


def measure_frechet(inputs: EvaluationInputs) -> dict[str, ScoreValue]:
    """The Fréchet distance between drawn covers and the reference statistics."""
    reference, drawn = inputs.reference, moments_of(inputs.drawn)
    first, second = (moments_of(features) for features in inputs.real_baseline)
    value = make_value(
        inputs,
        inputs.extractor.score_name,
        distances.frechet_distance(reference.mu, reference.sigma, drawn.mu, drawn.sigma),
        better="lower",
        error=distances.frechet_stderr(inputs.drawn, reference.mu, reference.sigma) if drawn.n >= 4 else None,
        real=distances.frechet_distance(first.mu, first.sigma, second.mu, second.sigma),
        note=baseline_note(inputs),
    )
    return {"fid": value}


def measure_frechet_infinity(inputs: EvaluationInputs) -> dict[str, ScoreValue]:
    """The Fréchet distance, extrapolated to infinitely many drawn covers."""
    n, dims = inputs.drawn.shape
    distance, error, r_squared = distances.frechet_infinity(inputs.drawn, inputs.reference.mu, inputs.reference.sigma)
    second = moments_of(inputs.real_baseline[1])
    real, _, _ = distances.frechet_infinity(inputs.real_baseline[0], second.mu, second.sigma, halves=0)
    note = f"straightness r² {r_squared:.3f}"
    if n < 2 * dims:  # see distances.frechet_infinity
        note += f"; of {n} covers in {dims} dimensions no true limit"
    name = metric_name(inputs, "FD∞", "FID∞")
    return {"fid_infinity": make_value(inputs, name, distance, better="lower", error=error, real=real, note=note)}


def measure_kernel(inputs: EvaluationInputs) -> dict[str, ScoreValue]:
    """The kernel distance. It is 0 for equal distributions; that of real covers shows the noise."""
    distance, error = distances.kernel_distance(inputs.drawn, inputs.real)
    real, _ = distances.kernel_distance(*inputs.real_baseline)
    name, note = metric_name(inputs, "KD", "KID"), baseline_note(inputs)
    return {"kid": make_value(inputs, name, distance, better="lower", error=error, real=real, note=note)}


def measure_precision_recall(inputs: EvaluationInputs) -> dict[str, ScoreValue]:
    """Precision (drawn covers that could be real), recall and coverage (real covers that could have been drawn)."""
    drawn, real = inputs.drawn, inputs.real
    radii = precision_recall.neighbour_radii(real, precision_recall.COVERAGE_K)

    def stderr(fraction: float, statistic: Callable[[np.ndarray], float]) -> float:
        """Over draws of other covers and of other real ones, whichever is larger."""
        sampling = precision_recall.fraction_stderr(fraction, len(real))
        return max(sampling, distances.jackknife_stderr(statistic, len(drawn))) if len(drawn) >= 12 else sampling

    precision, recall = precision_recall.precision_recall(drawn, real)
    coverage = precision_recall.coverage(drawn, real, radii=radii)
    baseline = (
        *precision_recall.precision_recall(*inputs.real_baseline),
        precision_recall.coverage(*inputs.real_baseline),
    )
    errors = (
        precision_recall.fraction_stderr(precision, len(drawn)),
        stderr(recall, lambda rows: precision_recall.recall(drawn[rows], real)),
        stderr(coverage, lambda rows: precision_recall.coverage(drawn[rows], real, radii=radii)),
    )
    keys, note = ("precision", "recall", "coverage"), baseline_note(inputs)
    return {
        key: make_value(inputs, metric_name(inputs, key), value, better="higher", error=error, real=limit, note=note)
        for key, value, error, limit in zip(keys, (precision, recall, coverage), errors, baseline, strict=True)
    }


def measure_memorisation(inputs: EvaluationInputs) -> dict[str, ScoreValue]:
    """The fraction of drawn covers that are as near to a training cover as hardly any real cover is."""
    training, held_out = inputs.training_books(), inputs.data.books("test")

    def nearest_training_cover(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blocks = feature_cache.real_features(training, inputs.options, inputs.extractor, "features of training covers")
        return precision_recall.nearest(x, blocks)

    drawn, indices = nearest_training_cover(inputs.drawn)
    real, _ = nearest_training_cover(inputs.real_features(held_out, inputs.extractor, "features of held-out covers"))
    fraction, expected = precision_recall.memorisation(drawn, real, COPY_SHARE)
    first = int(np.argmin(drawn))
    value = make_value(
        inputs,
        metric_name(inputs, "memorisation"),
        fraction,
        better="real",
        error=precision_recall.fraction_stderr(fraction, len(drawn)),
        real=expected,
        note=(
            f"the share nearer to a training cover than {1 - expected:.0%} of real held-out covers are; the nearest: "
            f"{inputs.books[first].row}.png to the real cover of {training[indices[first]].name}"
        ),
    )
    return {"memorisation": value}


def measure_legibility(inputs: EvaluationInputs) -> dict[str, ScoreValue]:
    """How much of title and author OCR can read; the upper limit is the same of the books' real covers."""
    if not any(book.title for book in inputs.books):
        raise NoTitles("it needs titles, and the data has captions alone")
    cache_folder, size = config.cache_dir(inputs.options) / "readings", config.size(inputs.options)
    paths = png_paths(inputs.folder, [book.row for book in inputs.books])
    covers = (read_cover(book.image, size) for book in inputs.books)
    real = read_covers(covers, len(paths), cache_folder, "reading real covers")
    drawn = read_covers(map(read_png, paths), len(paths), cache_folder, f"reading {inputs.folder.name}")
    return legibility(drawn, inputs.books, legibility(real, inputs.books))


def measure_clip(inputs: EvaluationInputs) -> dict[str, ScoreValue]:
    """CLIP score (does a cover show its prompt) and CMMD, a distance to the real covers; {} without a CLIP model."""
    if inputs.clip is None:
        return {}
    extractor = inputs.clip.extractor
    drawn, texts = inputs.drawn_features(extractor), inputs.clip.embed_texts(inputs.prompts)
    real_of_books = inputs.real_features(inputs.books, extractor, "CLIP's features of these books' covers")
    real = inputs.real_features(inputs.data.books(inputs.options.split), extractor, "CLIP's features of real covers")
    score, error = distances.clip_score(drawn, texts)
    real_score, _ = distances.clip_score(real_of_books, texts)
    name = f"CLIP score ({inputs.clip.name})"
    values = {"clip_score": make_value(inputs, name, score, better="higher", error=error, real=real_score)}
    distance, error = distances.cmmd(drawn, real)
    baseline, _ = distances.cmmd(*inputs.baseline_features(extractor, real))
    name, note = f"CMMD ({inputs.clip.name})", baseline_note(inputs)
    values["cmmd"] = make_value(inputs, name, distance, better="lower", error=error, real=baseline, note=note)
    return values


def measure_entanglement(inputs: EvaluationInputs) -> dict[str, ScoreValue]:
    """How far titles go into the states of genres and into the UNet's middle block; {} without the model."""
    options, parts = inputs.options, inputs.parts
    if parts is None:
        return {}
    codes = entanglement.compute_codes(
        *(parts, inputs.books, config.size(options), options.seed, options.batch_size),
        max_tokens=options.max_tokens,
        clip_skip=options.clip_skip,
    )
    return {
        f"entanglement_{key}": scores.make_value(
            f"{key} entanglement", value, n=len(codes.genre), better="lower", error=error
        )
        for key, (value, error) in entanglement.excess(codes, options.seed).items()
    }


def measure_title_swap(inputs: EvaluationInputs) -> dict[str, ScoreValue]:
    """How much of what another title changes lies where the letters are; {} without the model."""
    options, parts, size = inputs.options, inputs.parts, config.size(inputs.options)
    if parts is None:
        return {}
    swaps = title_swap.find_swaps(inputs.books, size, config.cache_dir(options) / "readings")
    inside, areas = title_swap.shares_inside(
        *(parts, swaps, size, options.seed, options.batch_size, options.max_tokens, options.clip_skip)
    )
    value = scores.make_value(
        "title swap inside letters",
        inside.mean(),
        n=len(inside),
        better="higher",
        error=inside.std(ddof=1) / len(inside) ** 0.5,
        note=f"of what another title changes; the letters' boxes are {areas.mean():.0%} of the picture",
    )
    return {"entanglement_letters": value}


METRIC_FUNCTIONS = {  # key: (name in --metrics, function, the first of the values that it gives)
    "fid": ("fid", measure_frechet, "fid"),
    "fid_infinity": ("fid", measure_frechet_infinity, "fid_infinity"),
    "kid": ("kid", measure_kernel, "kid"),
    "precision": ("precision", measure_precision_recall, "precision"),
    "memorisation": ("memorisation", measure_memorisation, "memorisation"),
    "legibility": ("legibility", measure_legibility, "title_accuracy"),
    "clip": ("clip", measure_clip, "clip_score"),
    "entanglement": ("entanglement", measure_entanglement, "entanglement_text"),
    "entanglement_letters": ("entanglement", measure_title_swap, "entanglement_letters"),
}


# ---------------------------------------------------------------------------------------------------------------------
# What the metrics share


def make_value(inputs: EvaluationInputs, name: str, value: float, **fields: Any) -> ScoreValue:
    """A ScoreValue of all the drawn covers, see scores.make_value."""
    return scores.make_value(name, value, n=len(inputs.books), **fields)


def metric_name(inputs: EvaluationInputs, short: str, usual: str | None = None) -> str:
    """Display name of a metric: the usual one only with the official Inception, else one that names the network."""
    official = inputs.extractor.score_name == "FID"
    return usual or short if official else f"{short} {inputs.extractor.score_name.partition(' ')[2]}"


def baseline_note(inputs: EvaluationInputs) -> str | None:
    """The sizes of the real baseline, if they are not those of the drawn covers and the reference."""
    first, second = map(len, inputs.baseline_books)
    if (first, second) == (len(inputs.books), inputs.reference.n):
        return None
    return f"real: {first} covers against {second}"


def moments_of(x: np.ndarray) -> distances.Moments:
    """Mean and covariance of features (n, D)."""
    moments = distances.Moments(x.shape[1])
    moments.update(x)
    return moments


# ---------------------------------------------------------------------------------------------------------------------
# Values -> Score


def measurement_settings(inputs: EvaluationInputs) -> dict[str, Any]:
    """How a version was scored, without how its covers were drawn; see scores.MUST_MATCH for what has to match."""
    return {
        "score": inputs.extractor.score_name,
        "fid_features": inputs.extractor.name,
        "fid_stats_path": inputs.options.fid_stats_path,
        "split": inputs.options.split,
        "dims": inputs.extractor.dims,
        "n": len(inputs.books),
        "n_reference": inputs.reference.n,
        "fid_resize": inputs.extractor.resize,
        "features_hash": inputs.extractor.weights_hash,
        "reference": inputs.reference.info["fingerprint"],
        "rows": rows_hash(book.row for book in inputs.books),
    }


def rows_hash(rows: Iterable[int]) -> str:
    """16 hex digits that identify the choice of books."""
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()[:16]


def merge_scores(
    existing: Score | None, settings: Mapping[str, Any], values: Mapping[str, ScoreValue], skipped: Mapping[str, str]
) -> Score:
    """The new Score, with the values of other metrics that `existing` has of the same covers and settings.

    existing: the score in the file that will be replaced, None if there is none.
    """
    must_match = ("weights", *scores.MUST_MATCH)
    if existing and all(existing.settings.get(name) == settings.get(name) for name in must_match):
        values = {**existing.values, **values}
    skipped = {key: reason for key, reason in skipped.items() if METRIC_FUNCTIONS[key][2] not in values}
    return Score(settings, values, skipped, values["fid"].value if "fid" in values else None)
