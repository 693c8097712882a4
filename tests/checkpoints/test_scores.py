"""What scores say: text, table, and whether a difference is more than noise."""

import pytest

from checkpoints import scores


def value(figure, error=None, real=None, better="lower", name="FD", n=10):
    return scores.ScoreValue(name=name, value=figure, error=error, n=n, real=real, better=better)


@pytest.mark.parametrize(
    ("figure", "error", "text"),
    [
        (285.9731, 3.123, "285.97 ± 3.1"),
        (0.123456, None, "0.1235"),
        (0, 0.0049, "0 ± 0.0049"),
        (-0.0162, None, "-0.0162"),
        (10054.2, None, "10054.20"),
    ],
)
def test_text(figure, error, text):
    assert scores.text(value(figure, error)) == text


@pytest.mark.parametrize(
    ("now", "start", "better", "real", "says"),
    [
        ((90, 3), (100, 4), "lower", None, "same"),  # 10 is 2 standard errors of the difference, √(9 + 16)
        ((89, 3), (100, 4), "lower", None, "better"),
        ((111, 3), (100, 4), "lower", None, "worse"),
        ((111, 3), (100, 4), "higher", None, "better"),
        ((0.30, 0.01), (0.05, 0.01), "real", 0.01, "worse"),
        ((0.05, 0.01), (0.30, 0.01), "real", 0.01, "better"),
        ((0.05, 0.01), (0.30, 0.01), "real", None, None),
        ((0.8, 0.01), (1.2, 0.01), "real", 1.0, "same"),  # as far, on either side
        ((1, None), (5, 0.1), "lower", None, None),
        ((1, 0.1), (5, None), "lower", None, None),
    ],
)
def test_a_change_counts_beyond_twice_its_error(now, start, better, real, says):
    now, start = (value(*side, better=better, real=real) for side in (now, start))
    assert scores.change(now, start) == says


def test_scores_of_two_networks_are_never_compared():
    assert scores.change(value(1, 0.1, name="CLIP score (a)"), value(9, 0.1, name="CLIP score (b)")) is None


def test_a_value_is_of_plain_numbers():
    import numpy as np

    made = scores.make_value("FD", np.float32(2.5), n=np.int64(3), better="lower", error=np.float64(0.1))
    fields = {"name": "FD", "value": 2.5, "error": 0.1, "real": None, "n": 3, "better": "lower", "note": None}
    assert made.to_json() == fields and list(made.to_json()) == list(fields)
    assert {type(number) for number in (made.value, made.error, made.n)} == {float, int}


def test_differences_are_named():
    score = dict.fromkeys(scores.MUST_MATCH, 1)
    assert scores.differences([score, {**score, "version": "v3", "weights": "ab"}]) == []
    assert scores.differences([score, {**score, "n": 2}, {**score, "steps": 9}]) == ["n", "steps"]
    assert scores.differences([{}, score]) == [name for name in scores.MUST_MATCH if name not in scores.OF_SOME]
    assert scores.differences([score, {**score, "layout": "like"}]) == ["layout"]


def test_a_row_for_each_metric_that_any_version_has():
    versions = {
        "v0": {"fid": value(300.0, 2, real=40.0), "kid": value(0.5, name="KD")},
        "v2": {"fid": value(200.0, 2, real=41.5), "titles_read": value(0.25, name="titles read")},
    }
    assert scores.rows(versions) == [
        ("metric", "v0", "v2", "real covers"),
        ("FD", "300.00 ± 2", "200.00 ± 2", "41.50"),
        ("titles read", "", "0.25", ""),
        ("KD", "0.5", "", ""),
    ]
    assert scores.table([("a", "bb"), ("ccc", "")]) == "  a    bb\n  ccc\n"
