"""Every metric at once on covers whose scores are known beforehand: real ones, copies, blank ones."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
import torch

import config
from checkpoints import scores
from checkpoints.run_folder import RunFolder
from checkpoints.scores import Score, ScoreValue
from cli import parser
from common.errors import UserError
from data.book import Book
from data.folder import open_data
from data.images import read_cover
from evaluation import distances, evaluate, feature_cache, features
from evaluation import reference as evaluation_reference
from evaluation.inputs import EvaluationInputs, baseline_books
from ocr.engine import OCRUnavailable


@pytest.fixture(scope="module")
def options(small_data):
    words = f"--data_root {small_data} --resolution 64x96 --fid_features efficientnet --split test --calc_fid".split()
    return parser.parse(config.InferenceOptions, words)[0]


@pytest.fixture(scope="module")
def data(options):
    """More books held out than the small data folder says: every other one."""
    found = open_data(options)
    books = [dataclasses.replace(b, split=("test", "train")[i % 2]) for i, b in enumerate(found.kept)]
    return dataclasses.replace(found, kept=books)


@pytest.fixture(scope="module")
def extractor(options):
    return features.load_extractor(options, torch.device("cpu"))


@pytest.fixture
def make_inputs(options, data, extractor, tmp_path):
    """Makes EvaluationInputs whose drawn covers are what `picture(book)` gives for each held-out book."""

    def make(picture, **changes):
        from common.png import save_png

        books = data.books("test")
        for book in books:
            save_png(tmp_path / f"{book.row}.png", torch.from_numpy(picture(book)))
        real = list(feature_cache.real_features(books, options, extractor, "real"))
        moments = evaluate.moments_of(np.concatenate(real))
        reference = evaluation_reference.Stats(moments.n, moments.mu, moments.sigma, {"fingerprint": "f"})
        made = EvaluationInputs(options, tmp_path, None, data, books, ["a book"] * 13, extractor, reference, None)
        return dataclasses.replace(made, **changes)

    return make


def real(book):
    return read_cover(book.image, (64, 96)).copy()


def blank(book):
    return np.full((96, 64, 3), 200, np.uint8)


@pytest.mark.slow
def test_covers_that_are_the_real_ones(make_inputs):
    values, skipped = evaluate.measure(make_inputs(real))
    assert values["fid"].value == pytest.approx(0, abs=1e-2)  # by rounding, see metrics.frechet_distance
    assert values["fid"].real > 1
    for key in ("precision", "recall", "coverage"):
        assert values[key].value == 1
    for key in ("title_accuracy", "titles_read"):
        assert values[key].value == values[key].real
    assert values["fid"].note is None and values["fid"].n == 13
    assert skipped == {
        "fid_infinity": "an extrapolated Fréchet distance needs at least 20 images, and there are 13",
        "kid": "a kernel distance in 10 parts needs at least 20 images, and there are 13",
        "clip": "it needs a CLIP model: give --clip_model, say openai/clip-vit-large-patch14-336 (1.7 GB)",
    }
    for value in values.values():  # plain numbers
        assert ScoreValue.from_json(json.loads(json.dumps(value.to_json()))) == value
        assert set(value.to_json()) == {"name", "value", "error", "n", "real", "better", "note"}


@pytest.mark.slow
def test_covers_that_are_copies_of_training_covers(make_inputs, data):
    training = dict(zip((book.row for book in data.books("test")), data.books("train"), strict=True))
    values, _ = evaluate.measure(make_inputs(lambda book: real(training[book.row])))
    assert values["memorisation"].value == 1 and values["memorisation"].real == pytest.approx(1 / 14)
    first = data.books("test")[0].row
    assert values["memorisation"].note.endswith(
        f"the nearest: {first}.png to the real cover of row {training[first].row}"
    )
    assert values["fid"].value == pytest.approx(values["fid"].real, rel=1e-3)  # the very covers of the real baseline


@pytest.mark.slow
def test_covers_without_anything_on_them(make_inputs):
    values, _ = evaluate.measure(make_inputs(blank))
    assert values["fid"].value > 5 * values["fid"].real
    assert values["precision"].value == values["coverage"].value == 0
    assert values["title_accuracy"].value == values["titles_read"].value == 0


def test_a_run_remembers_its_training_covers(make_inputs, data, tmp_path):
    """Covers that this run never saw can't be memorised by it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"num_examples": 2}')
    assert make_inputs(blank, run=RunFolder(tmp_path / "run")).training_books() == data.books("train")[:2]
    assert make_inputs(blank).training_books() == data.books("train")


def test_a_metric_that_is_not_finite_is_no_score_and_the_others_are(options, monkeypatch):
    def function(value):
        return lambda inputs: {"x": scores.make_value("FD", value, n=3, better="lower")}

    monkeypatch.setattr(
        evaluate, "METRIC_FUNCTIONS", {"fid": ("fid", function(np.nan), "fid"), "kid": ("kid", function(2.5), "kid")}
    )
    inputs = types.SimpleNamespace(options=dataclasses.replace(options, metrics="fid,kid"), clip=None)
    values, skipped = evaluate.measure(inputs)
    assert [value.value for value in values.values()] == [2.5]
    assert skipped == {"fid": "FD is not finite (value nan, error None, real covers None)"}


def test_an_embedding_of_length_0_and_a_baseline_without_books_cost_their_metric_alone(options, extractor, monkeypatch):
    """Black covers have an embedding of 0 in some networks; books that are all one work can't be halved."""
    books = [Book(row=row, title="Same", authors=("Ann Oak",)) for row in range(6)]
    data = types.SimpleNamespace(books=lambda split: books)
    options = dataclasses.replace(options, metrics="clip,kid", split="all")
    inputs = EvaluationInputs(options, None, None, data, books, [], extractor, None, object())
    assert [len(half) for half in inputs.baseline_books] == [6, 0]
    features_of_none = inputs.real_features(inputs.baseline_books[1], extractor, "none")
    assert features_of_none.shape == (0, extractor.dims) and features_of_none.dtype == np.float32
    functions = {
        "clip": ("clip", lambda inputs: distances.clip_score(np.ones((4, 3)), np.zeros((4, 3))), "clip_score"),
        "kid": ("kid", lambda inputs: distances.kernel_distance(np.ones((20, 3)), features_of_none[:, :3]), "kid"),
    }
    monkeypatch.setattr(evaluate, "METRIC_FUNCTIONS", functions)
    values, skipped = evaluate.measure(inputs)
    assert values == {} and "an embedding has length 0" in skipped["clip"] and "there are 0" in skipped["kid"]


def test_only_what_was_asked_for_is_measured(make_inputs, options):
    chosen = dataclasses.replace(options, metrics="precision, legibility")
    values, skipped = evaluate.measure(make_inputs(blank, options=chosen))
    assert list(values) == [
        "precision",
        "recall",
        "coverage",
        "title_accuracy",
        "titles_read",
        "author_accuracy",
        "authors_read",
    ]
    assert skipped == {}


def test_the_real_baseline_shares_no_book_and_has_as_many_where_it_can(data):
    ours, reference = baseline_books(data, "test", 5)
    assert len(ours) == 5 and reference == data.books("test") and not {b.row for b in ours} & {b.row for b in reference}
    halves = baseline_books(data, "all", 20)
    assert [len(half) for half in halves] == [13, 13] and not {b.row for b in halves[0]} & {b.row for b in halves[1]}


@pytest.mark.slow
def test_a_real_baseline_of_other_sizes_is_noted(make_inputs, options):
    made = make_inputs(blank, options=dataclasses.replace(options, metrics="fid", split="all"))
    made = dataclasses.replace(made, reference=dataclasses.replace(made.reference, n=26))
    values, _ = evaluate.measure(made)
    assert values["fid"].note == "real: 13 covers against 13"
    assert evaluate.baseline_note(make_inputs(blank)) is None


def test_usual_names_are_for_the_official_network_alone(make_inputs, extractor):
    made = make_inputs(blank)
    assert evaluate.metric_name(made, "KD", "KID") == "KD (EfficientNet-Lite0)"
    official = dataclasses.replace(made, extractor=dataclasses.replace(extractor, score_name="FID"))
    assert evaluate.metric_name(official, "KD", "KID") == "KID" and evaluate.metric_name(official, "recall") == "recall"


def test_metrics_of_the_same_settings_gather():
    fid, kid = (ScoreValue("FD", number, None, None, 3, "lower") for number in (5.0, 0.1))
    first = evaluate.merge_scores(None, {"n": 3}, {"fid": fid}, {"clip": "why"})
    assert first == Score({"n": 3}, {"fid": fid}, {"clip": "why"}, distance=5.0)
    both = Score({"n": 3}, {"fid": fid, "kid": kid}, {}, distance=5.0)
    assert evaluate.merge_scores(first, {"n": 3}, {"kid": kid}, {}) == both
    assert evaluate.merge_scores(first, {"n": 4}, {"kid": kid}, {}) == Score({"n": 4}, {"kid": kid})
    assert evaluate.merge_scores(both, {"n": 3}, {}, {"kid": "why", "clip": "why"}).skipped == {"clip": "why"}


@pytest.mark.slow
def test_without_ocr_the_other_metrics_stand(make_inputs, monkeypatch):
    def none(*_):
        raise OCRUnavailable("no OCR here")

    monkeypatch.setattr(evaluate, "read_covers", none)
    values, skipped = evaluate.measure(make_inputs(blank))
    assert values["fid"].value > 0 and "title_accuracy" not in values
    assert skipped["legibility"] == "no OCR here"


def test_clip_scores_have_their_upper_limit(make_inputs, options, tmp_path_factory):
    """A CLIP by hand: the embedding of a cover is its mean colour, of a text always red."""

    class Clip:
        name = "by hand"
        extractor = features.Extractor(
            *("by hand", "CMMD", 3, "hash", "clean", 4, torch.device("cpu")),
            prepare=lambda pixels: pixels / 255,
            network=lambda batch: batch.mean(dim=(2, 3)),
        )

        def embed_texts(self, texts):
            return np.tile([1.0, 0, 0], (len(texts), 1))

    def red(book):
        return np.broadcast_to(np.array([200, 0, 0], np.uint8), (96, 64, 3)).copy()

    chosen = dataclasses.replace(options, metrics="clip")
    values, skipped = evaluate.measure(make_inputs(red, options=chosen, clip=Clip()))
    assert values["clip_score"].value == pytest.approx(100) and values["clip_score"].real < 99
    assert values["cmmd"].value > values["cmmd"].real and skipped == {}


def test_jpeg_in_disguise_and_mixed_sizes_are_refused(make_inputs, data):
    made = make_inputs(real)
    first, second = (made.folder / f"{book.row}.png" for book in data.books("test")[:2])
    shutil.copy(data.books("test")[0].image, first)
    with pytest.raises(UserError, match=f"can't read {first} as a PNG image"):
        evaluate.measure(made)
    from PIL import Image

    Image.new("RGB", (64, 96)).save(first)
    Image.new("RGB", (32, 96)).save(second)
    with pytest.raises(UserError, match="images of one score must have one size"):
        evaluate.measure(dataclasses.replace(made))


def test_pictures_with_captions_have_no_legibility_and_a_baseline(data):
    """Captions alone: OCR is skipped, and the real baseline still gets two halves of different pictures."""
    books = [
        dataclasses.replace(book, title="", authors=(), caption=f"caption {i}", file=f"{i}.jpg", split="test")
        for i, book in enumerate(data.kept)
    ]
    first, second = baseline_books(dataclasses.replace(data, kept=books), "all", 5)
    assert len(first) == len(second) == 5 and not {b.row for b in first} & {b.row for b in second}
    with pytest.raises(evaluate.NoTitles, match="it needs titles"):
        evaluate.measure_legibility(types.SimpleNamespace(books=books))
    assert evaluate.NoTitles in evaluate.SKIP
