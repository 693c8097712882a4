"""Draws learning curves from metrics.jsonl as SVG text; the page's style sheet has the colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 480, 300  # of a chart, in SVG units; the page scales it
LEFT, RIGHT, BOTTOM = 52, 12, 44  # margins
LINE = 16  # height of a line of text
MAX_MARKERS = 40  # a line with at most this many points has a marker at each
MAX_POINTS = 400  # of a line: more could not be told apart at this width
LARGEST = 1e100  # number in a chart
STYLES = 6  # line styles, see .s0 ... in the page's style sheet
TIMESTEP_BINS = ("0-249", "250-499", "500-749", "750-999")  # timesteps, of 1000


Point = tuple[float, float]  # update, value
Metrics = Sequence[Mapping[str, object]]  # lines of a metrics.jsonl, see checkpoints.metrics_log.read_metrics


class Line(NamedTuple):
    """A line of a chart."""

    label: str
    points: list[Point]  # in ascending order of updates
    style: int  # 0 to STYLES - 1: colour and dashes
    faint: bool = False  # raw data behind a smooth line; not in the legend


# ---------------------------------------------------------------------------------------------------------------------
# metrics.jsonl -> charts


def draw_charts(metrics: Mapping[str, Metrics], versions: Sequence[tuple[str, int]] = ()) -> list[tuple[str, str, str]]:
    """The charts of some runs: [(title, note, SVG)]. A quantity that no run has logged has no chart.

    metrics: {name of a run: its metrics}; versions: [(label, update)], marked in each chart.
    """
    made = []
    raw = {name: points_of(lines, "loss") for name, lines in metrics.items()}
    window = max(1, max((len(points) for points in raw.values()), default=0) // 20)
    lines = []
    for style, (name, points) in enumerate(raw.items()):
        if points:
            lines.append(Line(name, thin(points), style % STYLES, faint=True))
            lines.append(Line(name, subsample(smooth(points, window)), style % STYLES))
    updates = "the last update" if window == 1 else f"the last {window} updates"
    note = f"Strong: mean over {updates}. Faint: every update." if window > 1 else "Every update."
    made.append(("Training loss", note, lines))

    lines = [
        Line(name, points_of(of_run, "validation_loss"), style % STYLES)
        for style, (name, of_run) in enumerate(metrics.items())
    ]
    note = "Over held-out covers, always with the same noise and timesteps; lower is better."
    made.append(("Validation loss", note, lines))

    for name, of_run in metrics.items():
        title = "Validation loss by timestep" + (f", {name}" if len(metrics) > 1 else "")
        note = (
            "Each quarter of the timesteps by itself, as a share of its first value (in brackets: first and last). Low "
            "timesteps have little noise and decide details such as letters; high ones decide composition."
        )
        made.append((title, note, timestep_lines(of_run)))
    return [
        (title, note, chart(title, lines, versions, "loss, share of the first" if "timestep" in title else "loss"))
        for title, note, lines in made
        if any(line.points for line in lines)
    ]


def points_of(lines: Metrics, key: str) -> list[Point]:
    """[(update, value)] of the lines with a number under `key`."""
    return [(line["step"], float(line[key])) for line in lines if is_number(line.get(key))]


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number, and of a size whose sums and differences are finite, too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def timestep_lines(metrics: Metrics) -> list[Line]:
    """A Line for each quarter of the timesteps, relative to its first value; [] if the run logged none."""
    whole = [line for line in metrics if isinstance(line.get("validation_bands"), list)]
    whole = [line for line in whole if len(line["validation_bands"]) == len(TIMESTEP_BINS)]
    whole = [line for line in whole if all(map(is_number, line["validation_bands"]))]
    if not whole or min(whole[0]["validation_bands"]) < 1 / LARGEST:
        return []
    first, last = (whole[i]["validation_bands"] for i in (0, -1))
    return [
        Line(
            f"{timesteps} ({first[i]:.3f}, {last[i]:.3f})",
            [(line["step"], line["validation_bands"][i] / first[i]) for line in whole],
            i,
        )
        for i, timesteps in enumerate(TIMESTEP_BINS)
    ]


def smooth(points: Sequence[Point], window: int) -> list[Point]:
    """Trailing moving average: the mean of each value and of up to window - 1 values before it."""
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    starts = (max(0, i + 1 - window) for i in range(len(points)))
    return [
        (x, (sums[i + 1] - sums[start]) / (i + 1 - start))
        for i, ((x, _), start) in enumerate(zip(points, starts, strict=True))
    ]


def thin(points: list[Point], most: int = MAX_POINTS) -> list[Point]:
    """About `most` of the points at most: the lowest and the highest of each segment, so that no spike is lost."""
    if len(points) <= most:
        return points
    size = -(-2 * len(points) // most)
    kept = []
    for first in range(0, len(points), size):
        segment = points[first : first + size]
        kept += sorted({min(segment, key=lambda point: point[1]), max(segment, key=lambda point: point[1])})
    return kept


def subsample(points: list[Point], most: int = MAX_POINTS) -> list[Point]:
    """About `most` of the points at most, evenly spaced, with the last."""
    size = -(-len(points) // most)
    return points[:: max(1, size)] + (points[-1:] if size > 1 and (len(points) - 1) % size else [])


# ---------------------------------------------------------------------------------------------------------------------
# Lines -> SVG


def chart(title: str, lines: Sequence[Line], marks: Sequence[tuple[str, int]], y_label: str) -> str:
    """A chart of lines over updates as SVG text: axes with ticks, a legend, and marks [(label, update)] above."""
    ys = [y for line in lines for _, y in line.points]
    last = max(1, *(x for line in lines for x, _ in line.points), *(x for _, x in marks))
    y_ticks = ticks(min(ys), max(ys))
    legend = [line for line in lines if line.points and not line.faint]
    labels, levels = place_marks(marks, lambda x: scale(x, 0, last, LEFT, WIDTH - RIGHT))
    top, bottom, right = LINE * (1 + levels) + 8, HEIGHT - BOTTOM, WIDTH - RIGHT

    def across(x: float) -> str:
        return f"{scale(x, 0, last, LEFT, right):.1f}"

    def up(y: float) -> str:
        return f"{scale(y, y_ticks[0], y_ticks[-1], bottom, top):.1f}"

    box = f'viewBox="0 0 {WIDTH} {HEIGHT + LINE * len(legend)}"'
    parts = [f'<svg class="chart" {box} role="img" aria-label="{escape(describe(title, legend))}">']
    parts.append(text(0, 12, y_label))
    parts.append(text(right, bottom + 34, "update", "end"))
    for y in y_ticks:
        parts.append(f'<path class="rule" d="M{LEFT},{up(y)}H{right}"/>')
        parts.append(text(LEFT - 6, f"{float(up(y)) + 4:.1f}", tick_text(y, y_ticks), "end"))
    x_ticks = ticks(0, last, whole=True)
    for x in [x for x in x_ticks if x <= last]:
        parts.append(f'<path class="tick" d="M{across(x)},{bottom}v4"/>')
        parts.append(text(across(x), bottom + 17, tick_text(x, x_ticks), "middle"))
    for x, level, anchor, label in labels:
        y = LINE * (1 + level)
        parts.append(f'<path class="mark" d="M{x:.1f},{y + 2}V{bottom}"/>')
        parts.append(text(f"{x:.1f}", y - 2, label, anchor, "version"))
    for line in sorted(lines, key=lambda line: not line.faint):  # the faint ones lie below
        points = [(across(x), up(y)) for x, y in line.points]
        faint = " faint" if line.faint else ""
        parts.append(f'<polyline class="line s{line.style}{faint}" points="{" ".join(map(",".join, points))}"/>')
        if not line.faint and len(points) <= MAX_MARKERS:
            parts += [f'<circle class="spot s{line.style}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in points]
    for i, line in enumerate(legend):
        y = HEIGHT + LINE * i
        parts.append(f'<path class="line s{line.style}" d="M{LEFT},{y}h26"/>')
        parts.append(text(LEFT + 34, y + 4, line.label))
    return "\n".join([*parts, "</svg>"])


def text(x: float | str, y: float | str, words: str, anchor: str = "start", kind: str = "label") -> str:
    """An SVG text element, with the words escaped."""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def describe(title: str, lines: Iterable[Line]) -> str:
    """The text alternative of a chart: title, and first and last value of each line."""
    ends = (f"{line.label} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}" for line in lines)
    return f"{title}: " + "; ".join(ends)


def scale(value: float, first: float, last: float, low: float, high: float) -> float:
    """Linear map of a value: `first` becomes `low`, `last` becomes `high`."""
    return low + (value - first) / (last - first) * (high - low)


def ticks(low: float, high: float, whole: bool = False, about: int = 5) -> list[float]:
    """About `about` evenly spaced round numbers that span low to high; whole=True: integers."""
    span = (high - low) or abs(high) or 1.0
    span = max(span, 1e-12 * max(abs(low), abs(high)), 1e-300)  # ticks nearer to each other would be the same float64
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span / about)
    if whole:
        step = max(1, round(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick's number, with as many decimals as the distance of ticks needs."""
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return f"{value:,.{decimals}f}" if abs(value) < 1e7 and decimals < 10 else f"{value:.3g}"


def place_marks(
    marks: Iterable[tuple[str, int]], to_x: Callable[[int], float]
) -> tuple[list[tuple[float, int, str, str]], int]:
    """([(x, line of text from 1, text-anchor, label)], lines of text needed).

    Labels of the same update are joined; labels that would overlap go to different lines. to_x: update -> x.
    """
    at = {}
    for label, update in marks:
        at.setdefault(update, []).append(label)
    ends, placed = [], []  # where each line of text is taken up to
    for update, labels in sorted(at.items()):
        x, label = to_x(update), ", ".join(labels)
        width = 6.5 * len(label) + 8
        start, anchor = (x - width, "end") if x > WIDTH / 2 else (x, "start")
        level = next((i for i, end in enumerate(ends) if end <= start), len(ends))
        ends[level : level + 1] = [start + width]
        placed.append((x, level + 1, anchor, label))
    return placed, len(ends)
