"""Scores side by side: which are refused, what counts as better, how numbers read."""

import dataclasses

import pytest

import config
from checkpoints import scores as values_module
from checkpoints.scores import Score, ScoreValue
from common.errors import UserError
from page import comparison


def value(figure, error=1.0, better="lower", real=None, n=50, note=None):
    return ScoreValue(name="FID", value=figure, error=error, n=n, real=real, better=better, note=note)


def score(*, name="FID", skipped=None, fid=10.0, **settings):
    settings = {**dict.fromkeys(values_module.MUST_MATCH, 1), "score": name, **settings}
    return Score(settings, {"fid": value(fid)}, skipped or {})


def cells(first, *others):
    """The cells of a row whose base is `first`."""
    names = [f"v{i}" for i in range(1 + len(others))]
    return comparison.table_row(dict(zip(names, (first, *others), strict=True)), names, "v0").cells


# ---------------------------------------------------------------------------------------------------------------------
# Which scores


def test_the_score_that_most_versions_have_is_picked():
    scores = {
        "v0": {"FD": score(name="FD"), "FID": score()},
        "v1": {"FD": score(name="FD")},
        "v2": {"FID": score(), "FD": score(name="FD")},
        "v3": {},
        "v4": {
            "FID": Score.from_json({"score": "FID", "distance": 3.0, "n": 5})
        },  # no values: it can't be shown beside others
    }
    picked = comparison.choose_scores(scores)
    assert {label: score.name for label, score in picked.items()} == {"v0": "FD", "v1": "FD", "v2": "FD"}
    assert comparison.choose_scores({}) == {} == comparison.choose_scores({"v0": {}})


def test_a_version_that_lacks_the_common_score_keeps_its_own():
    scores = {"v0": {"FD": score(name="FD")}, "v1": {"FD": score(name="FD")}, "v2": {"FID": score()}}
    assert comparison.choose_scores(scores)["v2"].name == "FID"


@pytest.mark.parametrize("name", values_module.MUST_MATCH)
def test_scores_of_different_settings_are_refused_by_name(name):
    comparison.require_same_settings({"v0": score(), "v1": score()})
    picked = {"v0": score(**{name: "8ce8"}), "v1": score(**{name: 20}), "v2": score(**{name: "8ce8"})}
    called = comparison.SETTING_NAMES.get(name, name)
    expected = f"{called} is 8ce8 for v0, v2 and 20 for v1"
    if name in comparison.HASHES:
        expected = rf"{called} differs \(v0, v2 / v1\)"
    with pytest.raises(UserError, match=f"different settings: {expected}; score them alike .* --mixed True"):
        comparison.require_same_settings(picked)


def test_a_setting_that_a_score_does_not_tell_is_unknown():
    old = Score({key: value for key, value in score().settings.items() if key not in ("rows", "steps")})
    described = comparison.describe(comparison.differences({"v0": score(), "v1": old}))
    assert described == "the choice of books differs (v0 / v1); steps is 1 for v0 and unknown for v1"


def test_a_setting_can_not_command_a_terminal():
    described = comparison.describe(comparison.differences({"v0": score(steps="2\x1b[2J\n"), "v1": score(steps=2)}))
    assert described == "steps is '2\\x1b[2J\\n' for v0 and 2 for v1"


def test_every_setting_that_is_no_option_has_words():
    options = {field.name for field in dataclasses.fields(config.InferenceOptions)}
    assert set(values_module.MUST_MATCH) <= options | comparison.SETTING_NAMES.keys()
    assert set(comparison.HASHES) <= comparison.SETTING_NAMES.keys() <= set(values_module.MUST_MATCH)


def test_a_score_without_values_is_not_shown():
    whole, empty = score(), Score(score().settings)
    assert comparison.choose_scores({"v0": {"FID": empty}, "v1": {"FID": whole}}) == {"v1": whole}


def test_a_score_of_weights_that_are_gone_is_not_shown():
    same, other, unknown = Score({"weights": "w"}), Score({"weights": "x"}), Score({})
    shown, stale = comparison.split_stale({"a": same, "b": other, "c": unknown}, dict.fromkeys("abcd", "w"))
    assert shown == {"a": same, "c": unknown} and stale == ["b"]


def test_other_weights_and_names_are_no_other_settings():
    comparison.require_same_settings(
        {"a": score(version="v0", weights="x", run_id="a"), "b": score(version="v1", weights="y")}
    )
    comparison.require_same_settings({})


# ---------------------------------------------------------------------------------------------------------------------
# Better or worse


def test_a_difference_counts_beyond_twice_the_error_of_both():
    """√(3² + 4²) = 5, so differences up to 10 are within error."""
    base = value(100.0, 3.0)
    marks = [(c.verdict, c.arrow) for c in cells(base, value(90.1, 4.0), value(89.9, 4.0), value(110.1, 4.0))]
    assert marks == [("", ""), ("within error", ""), ("better", "↓"), ("worse", "↑")]


def test_higher_may_be_better_and_so_may_be_nearer_to_real():
    assert cells(value(0.2, 0.01, "higher"), value(0.5, 0.01, "higher"))[1][-2:] == ("better", "↑")
    base = value(0.5, 0.01, "real", real=1.0)
    assert cells(base, value(0.9, 0.01, "real", real=1.0))[1].verdict == "better"
    assert cells(base, value(0.1, 0.01, "real", real=1.0))[1].verdict == "worse"


def test_without_errors_nothing_is_called_better():
    assert cells(value(100.0, None), value(1.0, 0.1))[1].verdict == ""
    assert cells(value(100.0, 0.1), value(1.0, None))[1].verdict == ""


def test_the_base_is_v0_or_else_the_first_that_has_a_score():
    assert comparison.table({"a": score(), "v0": score()}, ["a", "v0"])[0] == "v0"
    assert comparison.table({"b": score(), "c": score()}, ["a", "b", "c"])[0] == "b"
    assert comparison.table({}, ["a"]) == (None, [])


def verdicts(picked):
    return [[(cell.verdict, cell.arrow) for cell in row.cells] for row in comparison.table(picked, list(picked))[1]]


def test_what_was_not_measured_alike_is_not_judged():
    better = {"v0": score(fid=100.0), "v1": score(fid=10.0)}
    assert verdicts(better) == [[("", ""), ("better", "↓")]]
    for name in values_module.MUST_MATCH:
        unlike = {**better, "v2": score(**{name: 2000})}
        assert verdicts(unlike) == [[("", "")] * 3]


def test_what_has_another_name_is_another_metric():
    """CLIP scores of two models, say: neither compared nor in one row."""
    picked = {"v0": score(fid=100.0), "v1": score(fid=10.0), "v2": score(fid=1.0)}
    picked["v1"].values["fid"] = dataclasses.replace(picked["v1"].values["fid"], name="FD")
    for one in picked.values():
        one.values["kid"] = value(1.0)
    base, rows = comparison.table(picked, list(picked))
    assert base == "v0" and [row.name for row in rows] == ["FID", "FD", "FID"]
    assert [cell.text for cell in rows[0].cells] == ["100.0", "", "1.0"]
    assert [cell.text for cell in rows[1].cells] == ["", "10.0", ""]
    assert [cell.verdict for row in rows[:2] for cell in row.cells] == ["", "", "better", "", "", ""]
    named = dataclasses.replace(value(10.0), name="FD")
    assert [cell.verdict for cell in cells(value(100.0), named, value(10.0))] == ["", "", "better"]


# ---------------------------------------------------------------------------------------------------------------------
# How it reads


def test_numbers_of_a_row_have_the_decimals_of_its_least_error():
    shown = [(c.text, c.error) for c in cells(value(1301.256, 12.3), value(-9.87654, 0.123))]
    assert shown == [("1,301.26", "12.30"), ("−9.88", "0.12")]
    assert [c.text for c in cells(value(0.123456, None), value(0.01, None))] == ["0.1235", "0.0100"]
    assert cells(value(0.0, 0.0))[0].text == "0.0"


def test_n_and_real_stand_once_where_they_are_one():
    row = comparison.table_row({"v0": value(5, real=1.5), "v1": value(6, real=1.5)}, ["v0", "v1", "v2"], "v0")
    assert row.real == "1.5" and "n = 50" in row.hint and row.cells[0].n is None and row.cells[2] == comparison.Cell()
    row = comparison.table_row({"v0": value(5, real=1.5), "v1": value(6, real=2.5, n=7)}, ["v0", "v1"], "v0")
    assert row.real == "" and "n =" not in row.hint
    assert [(c.n, c.real) for c in row.cells] == [(50, "1.5"), (7, "2.5")]


def test_remarks_stand_once_with_their_versions():
    why = {"clip": "no model"}
    picked = {"v0": score(skipped=why), "v1": score(skipped=why), "v2": score()}
    picked["v2"].values["fid"] = value(10.0, note="few covers")
    assert comparison.remarks(picked) == (
        [("CLIP score, CMMD", "no model", ["v0", "v1"])],
        [("FID", "few covers", ["v2"])],
    )


def test_a_version_without_letters_is_compared_with_those_that_draw_them():
    """It has no layout; two that have are compared only if they have the same."""
    ruled, other = score(layout="rule", fid=20.0), score(layout="abc")
    plain = Score({name: value for name, value in score().settings.items() if name != "layout"}, score().values)
    comparison.require_same_settings({"v0": plain, "v1": ruled})
    _, (row, *_) = comparison.table({"v0": plain, "v1": ruled}, ["v0", "v1"])
    assert row.cells[1].verdict == "worse"
    with pytest.raises(UserError, match="layout is rule for v1 and abc for v2; score them alike"):
        comparison.require_same_settings({"v0": plain, "v1": ruled, "v2": other})
