"""Learning curves as SVG text: what metrics.jsonl tells -> lines -> a chart, whose colours the page's style decides."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 480, 300  # of a chart, in its own units; it is shown as wide as there is room for
LEFT, RIGHT, BOTTOM = 52, 12, 44  # margins
LINE = 16  # height of a line of text
MOST_SPOTS = 40  # points of a line that are shown as such, too
MOST_POINTS = 400  # of a line: a chart is not wider than this in pixels that matter
STYLES = 6  # line styles, see .s0 ... in the page's style
BANDS = ("0-249", "250-499", "500-749", "750-999")  # timesteps, of 1000


class Line(NamedTuple):
    """A line of a chart."""

    label: str
    points: list  # (x, y), x rising
    style: int  # 0 to STYLES - 1: colour and dashes
    faint: bool = False  # raw data behind a smooth line; not in the legend


# ---------------------------------------------------------------------------------------------------------------------
# metrics.jsonl -> charts


def draw_charts(metrics, versions=()):
    """The charts of some runs: [(title, note, SVG)].

    metrics: {run's name: list of its lines, see tracking.read_metrics}; versions: [(label, update)] to mark. What no
    run has told has no chart.
    """
    made = []
    raw = {name: points_of(lines, "loss") for name, lines in metrics.items()}
    window = max(1, max((len(points) for points in raw.values()), default=0) // 20)
    lines = []
    for style, (name, points) in enumerate(raw.items()):
        if points:
            lines.append(Line(name, thin(points), style % STYLES, faint=True))
            lines.append(Line(name, every(smooth(points, window)), style % STYLES))
    updates = "the last update" if window == 1 else f"the last {window} updates"
    note = f"Strong: mean over {updates}. Faint: every update." if window > 1 else "Every update."
    made.append(("Training loss", note, lines))

    lines = [
        Line(name, points_of(told, "validation_loss"), style % STYLES)
        for style, (name, told) in enumerate(metrics.items())
    ]
    note = "Over held-out covers, always with the same noise and timesteps; lower is better."
    made.append(("Validation loss", note, lines))

    for name, told in metrics.items():
        title = "Validation loss by timestep" + (f", {name}" if len(metrics) > 1 else "")
        note = (
            "Each quarter of the timesteps by itself, as a share of its first value (in brackets: first and last). Low "
            "timesteps have little noise and decide details such as letters; high ones decide composition."
        )
        made.append((title, note, band_lines(told)))
    return [
        (title, note, chart(title, lines, versions, "loss, share of the first" if "timestep" in title else "loss"))
        for title, note, lines in made
        if any(line.points for line in lines)
    ]


def points_of(lines, key):
    """[(update, value)] of those lines that have a finite number under `key`."""
    return [(line["step"], float(line[key])) for line in lines if is_number(line.get(key))]


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def band_lines(told):
    """A Line for each quarter of the timesteps, relative to its first value; [] if the run told none."""
    whole = [line for line in told if isinstance(line.get("validation_bands"), list)]
    whole = [line for line in whole if len(line["validation_bands"]) == len(BANDS)]
    whole = [line for line in whole if all(map(is_number, line["validation_bands"]))]
    if not whole or min(whole[0]["validation_bands"]) <= 0:
        return []
    first, last = (whole[i]["validation_bands"] for i in (0, -1))
    return [
        Line(
            f"{band} ({first[i]:.3f}, {last[i]:.3f})",
            [(line["step"], line["validation_bands"][i] / first[i]) for line in whole],
            i,
        )
        for i, band in enumerate(BANDS)
    ]


def smooth(points, window):
    """Each value becomes the mean of itself and of up to window - 1 values before it."""
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    starts = (max(0, i + 1 - window) for i in range(len(points)))
    return [
        (x, (sums[i + 1] - sums[start]) / (i + 1 - start))
        for i, ((x, _), start) in enumerate(zip(points, starts, strict=True))
    ]


def thin(points, most=MOST_POINTS):
    """At most about `most` of the points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= most:
        return points
    size = -(-2 * len(points) // most)
    kept = []
    for first in range(0, len(points), size):
        stretch = points[first : first + size]
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return kept


def every(points, most=MOST_POINTS):
    """At most about `most` of the points, evenly, with the last."""
    size = -(-len(points) // most)
    return points[:: max(1, size)] + (points[-1:] if size > 1 and (len(points) - 1) % size else [])


# ---------------------------------------------------------------------------------------------------------------------
# Lines -> SVG


def chart(title, lines, marks, y_label):
    """SVG text of lines over updates: axes with ticks, a legend, and marks [(label, update)] above."""
    ys = [y for line in lines for _, y in line.points]
    last = max(1, *(x for line in lines for x, _ in line.points), *(x for _, x in marks))
    y_ticks = ticks(min(ys), max(ys))
    legend = [line for line in lines if line.points and not line.faint]
    labels, levels = place_marks(marks, lambda x: scale(x, 0, last, LEFT, WIDTH - RIGHT))
    top, bottom, right = LINE * (1 + levels) + 8, HEIGHT - BOTTOM, WIDTH - RIGHT

    def across(x):
        return f"{scale(x, 0, last, LEFT, right):.1f}"

    def up(y):
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
        if not line.faint and len(points) <= MOST_SPOTS:
            parts += [f'<circle class="spot s{line.style}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in points]
    for i, line in enumerate(legend):
        y = HEIGHT + LINE * i
        parts.append(f'<path class="line s{line.style}" d="M{LEFT},{y}h26"/>')
        parts.append(text(LEFT + 34, y + 4, line.label))
    return "\n".join([*parts, "</svg>"])


def text(x, y, words, anchor="start", kind="label"):
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def describe(title, lines):
    """What a chart shows, for those who can't see it."""
    ends = (f"{line.label} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}" for line in lines)
    return f"{title}: " + "; ".join(ends)


def scale(value, first, last, low, high):
    """Where a value from `first` to `last` lies between the places `low` and `high`."""
    return low + (value - first) / (last - first) * (high - low)


def ticks(low, high, whole=False, about=5):
    """About `about` round numbers, evenly, from at most `low` to at least `high`; whole numbers if asked for."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span / about)
    if whole:
        step = max(1, round(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def tick_text(value, ticks):
    """A tick's number, with as many decimals as its step has."""
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return f"{value:,.{decimals}f}" if abs(value) < 1e7 else f"{value:.3g}"


def place_marks(marks, place):
    """([(x, line of text from 1, text-anchor, label)], lines of text needed): labels of one update stand together, and
    none overlaps another."""
    at = {}
    for label, update in marks:
        at.setdefault(update, []).append(label)
    ends, placed = [], []  # where each line of text is taken up to
    for update, labels in sorted(at.items()):
        x, label = place(update), ", ".join(labels)
        width = 6.5 * len(label) + 8
        start, anchor = (x - width, "end") if x > WIDTH / 2 else (x, "start")
        level = next((i for i, end in enumerate(ends) if end <= start), len(ends))
        ends[level : level + 1] = [start + width]
        placed.append((x, level + 1, anchor, label))
    return placed, len(ends)
