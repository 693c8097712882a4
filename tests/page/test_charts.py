"""Learning curves: the numbers behind the lines, and SVG that is well-formed whatever the names are."""

import math
import xml.etree.ElementTree as ET

import pytest

from page import charts

BANDS = [1.0, 0.8, 0.5, 0.2]


def log(updates, **more):
    lines = [{"step": 0, "validation_loss": 1.0}]
    lines += [{"step": i, "loss": 1 / i} for i in range(1, updates + 1)]
    return [*lines, {"step": updates, "validation_loss": 0.5, **more}]


def parse(svg):
    return ET.fromstring(str(svg))


def test_each_run_is_a_line_in_each_chart():
    made = charts.draw_charts({"a": log(9), "b": log(5)}, [("v1", 5)])
    assert [title for title, _, _ in made] == ["Training loss", "Validation loss"]
    for _, _, svg in made:
        lines = [line for line in parse(svg).iter("polyline") if "faint" not in line.get("class")]
        assert len(lines) == 2 and {line.get("class") for line in lines} == {"line s0", "line s1"}
        assert "v1" in [text.text for text in parse(svg).iter("text")]


def test_a_run_that_told_nothing_has_no_chart():
    assert charts.draw_charts({"a": []}) == []
    assert charts.draw_charts({}) == []
    assert [title for title, _, _ in charts.draw_charts({"a": [], "b": [{"step": 3, "loss": 1.0}]})] == [
        "Training loss"
    ]


def test_bands_are_shares_of_their_first_value():
    lines = [{"step": 0, "validation_bands": BANDS}, {"step": 10, "validation_bands": [0.5, 0.8, 0.25, 0.4]}]
    made = charts.timestep_lines([*lines, {"step": 20, "validation_bands": []}])
    assert [[y for _, y in line.points] for line in made] == [[1, 0.5], [1, 1], [1, 0.5], [1, 2]]
    assert made[0].label == "0-249 (1.000, 0.500)"
    assert charts.timestep_lines([*lines, {"step": 20, "validation_bands": [None, 0.7, 0.2, 0.4]}]) == made
    assert charts.draw_charts({"a": lines})[0][0] == "Validation loss by timestep"
    assert [title[-3:] for title, _, _ in charts.draw_charts({"a": lines, "b": lines})] == [", a", ", b"]


@pytest.mark.parametrize(
    "bands", [None, [], [1.0, 2.0], [1.0, math.nan, 1.0, 1.0], [None] * 4, "abcd", [0.0, 1.0, 1.0, 1.0]]
)
def test_runs_without_bands_leave_them_out(bands):
    assert charts.timestep_lines(log(3, validation_bands=bands)) == []


def test_smooth_is_the_mean_of_the_last_ones():
    points = [(i, float(i)) for i in range(1, 6)]
    assert [y for _, y in charts.smooth(points, 1)] == [1, 2, 3, 4, 5]
    assert [y for _, y in charts.smooth(points, 3)] == [1, 1.5, 2, 3, 4]


def test_thinning_keeps_every_spike_and_the_order():
    points = [(i, math.sin(i)) for i in range(50_000)]
    points[31_234] = (31_234, 99.0)
    few = charts.thin(points)
    assert (31_234, 99.0) in few and len(few) <= 2 * charts.MAX_POINTS and few == sorted(few)
    assert charts.thin(points[:50]) == points[:50]
    some = charts.subsample(points)
    assert some[0] == points[0] and some[-1] == points[-1] and len(some) <= charts.MAX_POINTS + 1


def test_values_that_are_no_numbers_are_left_out():
    wrong = [None, "x", math.inf, -math.inf, math.nan, True, 10**400, -1e308, 1e308, [1.0], {}]
    lines = [{"step": i, "loss": value} for i, value in enumerate([1.0, *wrong, 2])]
    assert charts.points_of(lines, "loss") == [(0, 1.0), (len(lines) - 1, 2.0)]


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, math.nextafter(1, 2)],  # ticks 5e-17 apart were all the same number
        [-1e99, 1e99],
        [1e-300, 2e-300],
        [5e-324, 0.0],
        [math.nan, 1.0, 1e308, -1e308],
        [-3.0, -3.0],
    ],
)
def test_a_chart_of_odd_numbers_is_drawn(losses):
    lines = [{"step": i, "loss": loss, "validation_bands": [loss, 1.0, 1.0, 1.0]} for i, loss in enumerate(losses)]
    for _, _, svg in charts.draw_charts({"a": lines}, [("v1", 1)]):
        for line in parse(svg).iter("polyline"):
            points = [float(number) for point in line.get("points").split() for number in point.split(",")]
            assert points and all(-1e6 < number < 1e6 for number in points)


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0, 42, True, [0, 10, 20, 30, 40, 50]),
        (0, 1, True, [0, 1]),
        (0.21, 1.13, False, [0.2, 0.4, 0.6, 0.8, 1.0, 1.2]),
        (5, 5, False, [5, 6]),
        (0, 20_000, True, [0, 5000, 10000, 15000, 20000]),
    ],
)
def test_ticks_are_round_and_hold_the_data(low, high, whole, expected):
    assert charts.ticks(low, high, whole) == pytest.approx(expected)


def test_ticks_say_as_much_as_they_must():
    assert [charts.tick_text(x, [0.2, 0.4]) for x in (0.2, 1.0)] == ["0.2", "1.0"]
    assert charts.tick_text(10_000, [0, 5000]) == "10,000"
    assert charts.tick_text(0.004, [0.002, 0.004]) == "0.004"


def test_points_lie_where_the_axes_say():
    svg = parse(charts.chart("t", [charts.Line("a", [(0, 1.0), (10, 2.0)], 0)], [], "loss"))
    (line,) = svg.iter("polyline")
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.get("points").split())
    assert (x0, x1) == (charts.LEFT, charts.WIDTH - charts.RIGHT) and y0 > y1
    places = {text.text: float(text.get("y")) - 4 for text in svg.iter("text") if text.get("text-anchor") == "end"}
    assert places["1.0"] == pytest.approx(y0, abs=0.1) and places["2.0"] == pytest.approx(y1, abs=0.1)


def test_version_labels_never_overlap():
    marks = [(f"run:v{i}", 400 + i) for i in range(4)] + [("early", 0), ("same", 400)]
    placed, levels = charts.place_marks(marks, lambda x: charts.scale(x, 0, 500, charts.LEFT, charts.WIDTH))
    assert [label for *_, label in placed] == ["early", "run:v0, same", "run:v1", "run:v2", "run:v3"]
    spans = [(level, x - 6 * len(s), x) if a == "end" else (level, x, x + 6 * len(s)) for x, level, a, s in placed]
    for i, (level, start, end) in enumerate(spans):
        for other, left, right in spans[:i]:
            assert level != other or end <= left or right <= start
    assert levels == max(level for level, _, _ in spans)


def test_names_are_data_in_svg_too():
    evil = '"><script>alert(1)</script>&'
    for _, _, svg in charts.draw_charts({evil: log(5)}, [(evil, 3)]):
        root = parse(svg)  # well-formed
        assert not list(root.iter("script"))
        assert evil in [text.text for text in root.iter("text")] and evil in root.get("aria-label")
