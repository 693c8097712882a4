"""One version's covers -> values: every metric that was asked for, each beside the same figure for real covers.

A value is {"name", "value", "error", "n", "real", "better", "note"}: what people call it; the figure; one standard
error, or None; the covers it was measured on; the same figure for real covers, the floor of a distance or the ceiling
of legibility, or None; whether "lower", "higher" or nearer to "real" is better; what else there is to know, or None.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np

import config
from checkpoints import scores
from cli.checks import chosen_metrics
from common.files import read_json
from common.png import png_paths, read_png
from data import goodreads
from data.images import read_cover
from evaluation import distances, feature_cache, features, ocr, precision_recall
from evaluation.clip import Clip
from evaluation.reference import Stats

COPY_SHARE = 0.01  # of real held-out covers are as near to a training cover as what counts as a copy


@dataclasses.dataclass(frozen=True)
class EvaluationInputs:
    """What is scored and what it is held against. Features are computed when a metric first asks for them."""

    options: config.InferenceOptions
    folder: pathlib.Path  # of the drawn covers
    run: pathlib.Path | None  # that drew them
    data: object  # dataset.Data
    books: list  # whose covers were drawn
    prompts: list  # that they were drawn from
    extractor: features.Extractor
    reference: Stats  # of the real covers of --split
    clip: Clip | None  # the judge of CLIP score and CMMD

    @functools.cached_property
    def drawn(self):  # float32 (n, D)
        return self.features_of_drawn(self.extractor)

    @functools.cached_property
    def real(self):  # float32 (m, D): the covers of --split
        return self.features_of(self.data.books(self.options.split), self.extractor, "features of real covers")

    @functools.cached_property
    def floor(self):
        """(float32 (n, D), float32 (m, D)): features of two sets of real covers that share no book, see floor_books."""
        return self.floor_of(self.extractor, self.real)

    def floor_of(self, extractor, real):
        """The floor in the features of `extractor`; real: those of all the covers of --split."""
        first, second = self.floor_books
        if len(second) < len(real):
            real = self.features_of(second, extractor, "features of the floor")
        return self.features_of(first, extractor, "features of the floor"), real

    @functools.cached_property
    def floor_books(self):
        return floor_books(self.data, self.options.split, len(self.books))

    def features_of_drawn(self, extractor):
        rows = [book.row for book in self.books]
        return np.concatenate(list(feature_cache.of_drawn(self.folder, rows, extractor)))

    def features_of(self, books, extractor, desc):
        return np.concatenate(list(feature_cache.of_books(books, self.options, extractor, desc)))

    def learned_books(self):
        """The covers that the run learned from; of the pretrained model alone, all of the training split."""
        saved = read_json(self.run / "config.json") if self.run else {}
        return self.data.books("train")[: saved.get("num_examples")]


def floor_books(data, split, count):
    """Two lists of real books that share none: as many as were drawn from outside of `split`, and all of `split`.

    Where there are not as many outside (--split all, say), two parts of `split`, each of at most `count`, with all
    editions of a book on one side. The stable order is random, so the first ones are a fair sample.
    """
    inside = data.books(split)
    rows = {book.row for book in inside}
    outside = [book for book in data.books("all") if book.row not in rows]
    if len(outside) >= count:
        return outside[:count], inside
    side = {}  # of each work: 0 or 1, in turns
    for book in inside:
        side.setdefault(goodreads.book_key(book.title, book.authors), len(side) % 2)
    sides = [[b for b in inside if side[goodreads.book_key(b.title, b.authors)] == i] for i in (0, 1)]
    return sides[0][:count], sides[1][:count]


# ---------------------------------------------------------------------------------------------------------------------
# Sides -> values


def measure(sides):
    """(measured {key: value, see above}, skipped {key: why}) of the metrics that options.metrics asks for."""
    measured, skipped = {}, {}
    wanted = chosen_metrics(sides.options)
    for key, (metric, function) in MEASURES.items():
        if metric in wanted:
            try:
                measured |= function(sides)
            except (distances.TooFew, ocr.NoOCR) as problem:
                skipped[key] = str(problem)
    if "clip" in wanted and sides.clip is None:
        skipped["clip"] = "it needs a CLIP model: give --clip_model, say openai/clip-vit-large-patch14-336 (1.7 GB)"
    return measured, skipped


def value(sides, name, figure, **told):
    """One value of all the drawn covers; see values.make."""
    return scores.make(name, figure, n=len(sides.books), **told)


def named(sides, short, usual=None):
    """What a figure of these features may be called: its usual name only for the official Inception's."""
    official = sides.extractor.score_name == "FID"
    return usual or short if official else f"{short} {sides.extractor.score_name.partition(' ')[2]}"


def floor_note(sides):
    """What is to be said of the real covers' figure if it was measured on other numbers than the drawn covers' own."""
    numbers, own = tuple(map(len, sides.floor_books)), (len(sides.books), sides.reference.n)
    return None if numbers == own else "real: {} covers against {}".format(*numbers)


def moments_of(x):
    moments = distances.Moments(x.shape[1])
    moments.update(x)
    return moments


def measure_frechet(sides):
    """The Fréchet distance. Its floor: that of real covers."""
    reference, drawn = sides.reference, moments_of(sides.drawn)
    floor = [moments_of(side) for side in sides.floor]
    figure = value(
        sides,
        sides.extractor.score_name,
        distances.frechet_distance(reference.mu, reference.sigma, drawn.mu, drawn.sigma),
        better="lower",
        error=distances.frechet_error(sides.drawn, reference.mu, reference.sigma) if drawn.n >= 4 else None,
        real=distances.frechet_distance(floor[0].mu, floor[0].sigma, floor[1].mu, floor[1].sigma),
        note=floor_note(sides),
    )
    return {"fid": figure}


def measure_infinity(sides):
    """The Fréchet distance that endless drawn covers would have, and endless real ones beside them."""
    figure, error, r_squared = distances.frechet_infinity(sides.drawn, sides.reference.mu, sides.reference.sigma)
    floor = moments_of(sides.floor[1])
    real, _, _ = distances.frechet_infinity(sides.floor[0], floor.mu, floor.sigma, halves=0)
    name, note = named(sides, "FD∞", "FID∞"), f"straightness r² {r_squared:.3f}"
    if len(sides.drawn) < 2 * sides.extractor.dims:  # see metrics.frechet_infinity
        note += f"; of {len(sides.drawn)} covers in {sides.extractor.dims} dimensions no true limit"
    return {"fid_infinity": value(sides, name, figure, better="lower", error=error, real=real, note=note)}


def measure_kernel(sides):
    """The kernel distance. Its floor is 0 but for noise; that of real covers shows how much there is."""
    figure, error = distances.kernel_distance(sides.drawn, sides.real)
    real, _ = distances.kernel_distance(*sides.floor)
    named_so = dict(name=named(sides, "KD", "KID"), better="lower", note=floor_note(sides))
    return {"kid": value(sides, figure=figure, error=error, real=real, **named_so)}


def measure_neighbours(sides):
    """Precision: drawn covers that could be real ones; recall and coverage: real ones that could have been drawn."""
    drawn, real = sides.drawn, sides.real
    around = precision_recall.radii(real, precision_recall.COVERAGE_K)

    def error(share, statistic):  # which covers were drawn matters, and what Beta knows of the real ones
        counted = precision_recall.share_error(share, len(real))
        return max(counted, distances.half_error(statistic, len(drawn))) if len(drawn) >= 12 else counted

    (precision, recall), covered = (
        precision_recall.precision_recall(drawn, real),
        precision_recall.coverage(drawn, real, around=around),
    )
    (real_precision, real_recall), real_covered = (
        precision_recall.precision_recall(*sides.floor),
        precision_recall.coverage(*sides.floor),
    )
    found = {
        "precision": (precision, real_precision, precision_recall.share_error(precision, len(drawn))),
        "recall": (recall, real_recall, error(recall, lambda rows: precision_recall.recall(drawn[rows], real))),
        "coverage": (
            covered,
            real_covered,
            error(covered, lambda rows: precision_recall.coverage(drawn[rows], real, around=around)),
        ),
    }
    told = dict(better="higher", note=floor_note(sides))
    return {
        key: value(sides, named(sides, key), figure, error=spread, real=floor, **told)
        for key, (figure, floor, spread) in found.items()
    }


def measure_memorisation(sides):
    """The share of drawn covers that are as near to a learned one as hardly any real cover is."""
    learned, held_out = sides.learned_books(), sides.data.books("test")

    def nearest(x):
        blocks = feature_cache.of_books(learned, sides.options, sides.extractor, "features of learned covers")
        return precision_recall.nearest(x, blocks)

    distances, indices = nearest(sides.drawn)
    real, _ = nearest(sides.features_of(held_out, sides.extractor, "features of held-out covers"))
    figure, expected = precision_recall.memorisation(distances, real, COPY_SHARE)
    first = int(np.argmin(distances))
    pair = f"the nearest: {sides.books[first].row}.png to the real cover of row {learned[indices[first]].row}"
    pair = f"the share nearer to a learned cover than {1 - expected:.0%} of real held-out covers are; {pair}"
    told = dict(better="real", error=precision_recall.share_error(figure, len(distances)), real=expected, note=pair)
    return {"memorisation": value(sides, named(sides, "memorisation"), figure, **told)}


def measure_legibility(sides):
    """How much of title and author can be read; the ceiling is what can be read on the same books' real covers."""
    home, size = config.cache_dir(sides.options) / "readings", config.size(sides.options)
    paths = png_paths(sides.folder, [book.row for book in sides.books])
    real = (read_cover(book.image, size) for book in sides.books)
    real = ocr.read_covers(real, len(paths), home, "reading real covers")
    drawn = ocr.read_covers(map(read_png, paths), len(paths), home, f"reading {sides.folder.name}")
    return ocr.legibility(drawn, sides.books, ocr.legibility(real, sides.books))


def measure_clip(sides):
    """Does a cover show its prompt; does CLIP take the drawn ones for real ones."""
    if sides.clip is None:
        return {}
    extractor = sides.clip.extractor
    drawn, texts = sides.features_of_drawn(extractor), sides.clip.embed_texts(sides.prompts)
    same = sides.features_of(sides.books, extractor, "CLIP's features of these books' covers")
    real = sides.features_of(sides.data.books(sides.options.split), extractor, "CLIP's features of real covers")
    score, error = distances.clip_score(drawn, texts)
    distance, distance_error = distances.cmmd(drawn, real)
    told = dict(error=error, real=distances.clip_score(same, texts)[0])
    apart = dict(error=distance_error, real=distances.cmmd(*sides.floor_of(extractor, real))[0], note=floor_note(sides))
    return {
        "clip_score": value(sides, f"CLIP score ({sides.clip.name})", score, better="higher", **told),
        "cmmd": value(sides, f"CMMD ({sides.clip.name})", distance, better="lower", **apart),
    }


MEASURES = {  # key: (which of --metrics asks for it, function)
    "fid": ("fid", measure_frechet),
    "fid_infinity": ("fid", measure_infinity),
    "kid": ("kid", measure_kernel),
    "precision": ("precision", measure_neighbours),
    "memorisation": ("memorisation", measure_memorisation),
    "legibility": ("legibility", measure_legibility),
    "clip": ("clip", measure_clip),
}


# ---------------------------------------------------------------------------------------------------------------------
# Values -> what is kept of them


def about(sides):
    """How a version was scored, less how its covers were drawn; see values.ALIKE for what has to agree."""
    return {
        "score": sides.extractor.score_name,
        "fid_features": sides.extractor.name,
        "fid_stats_path": sides.options.fid_stats_path,
        "split": sides.options.split,
        "dims": sides.extractor.dims,
        "n": len(sides.books),
        "n_reference": sides.reference.n,
        "fid_resize": sides.extractor.resize,
        "features_hash": sides.extractor.weights_hash,
        "reference": sides.reference.info["fingerprint"],
        "rows": hashlib.sha256(json.dumps([book.row for book in sides.books]).encode()).hexdigest()[:16],
    }


def merge(there, settings, measured, skipped):
    """What metrics.json is to say: these values, and others of the same covers and settings that it has now.

    there: what it says now, {} if nothing.
    """
    if all(there.get(name) == settings.get(name) for name in ("weights", *scores.ALIKE)):
        measured = there.get("values", {}) | measured
    distance = {"distance": measured["fid"]["value"]} if "fid" in measured else {}
    skipped = {key: reason for key, reason in skipped.items() if not measured.keys() & {key, f"{key}_score"}}
    return {**settings, **distance, "values": measured, "skipped": skipped}
