"""Charts as inline SVG: a few lines or bars each, in the page's own colours, drawn without a script."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from utils.report.markup import Markup, tag

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 30, 40  # margins around the plot
MARKERS_UP_TO = 40  # points; more of them are smoothed
DRAWN = 240  # points of a line at most


class Line(NamedTuple):
    """A named line; `points` are (x, y) in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]


class Axis(NamedTuple):
    """Where an axis begins and ends, and the values that it is labelled with."""

    low: float
    high: float
    ticks: list[float]

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


def make_axis(low: float, high: float, count: int = 5, whole: bool = False) -> Axis:
    """An axis over low..high that ends at round values (`whole`: at least 1 apart), about `count` of them."""
    rough = max((high - low) / count, 1 if whole else 1e-9 + abs(high) * 1e-6)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), 1)
    last = max(last, first + 1)
    return Axis(first * step, last * step, [n * step for n in range(first, last + 1)])


def number(value: float, step: float = 0) -> str:
    """A value as an axis or a text shows it: thousands apart, as many decimals as the step needs."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0 if abs(value) >= 100 else 3
    text = f"{value:,.{decimals}f}"
    return text if step or "." not in text else text.rstrip("0").rstrip(".")


def thinned(points: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """At most `count` points, each the mean of its neighbours."""
    if len(points) <= count:
        return list(points)
    cuts = [len(points) * n // count for n in range(count + 1)]
    parts = [points[a:b] for a, b in pairwise(cuts)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def smoothed(
    points: Sequence[tuple[float, float]], reach: int, edge: float | None = None
) -> list[tuple[float, float]]:
    """Each point's mean with its `reach` neighbours on either side; none of them beyond x = `edge`."""
    means = []
    for n, (x, _) in enumerate(points):
        near = points[max(0, n - reach) : n + reach + 1]
        values = [y for at, y in near if edge is None or (at < edge) == (x < edge)]
        means.append((x, sum(values) / len(values)))
    return means


def top_of(values: Sequence[float]) -> float:
    """The greatest value, or less where a few of many, such as the first iterations', would flatten the rest."""
    ordered = sorted(values)
    if len(ordered) <= MARKERS_UP_TO:
        return ordered[-1]
    usual = ordered[int(0.96 * (len(ordered) - 1))]
    return ordered[-1] if ordered[-1] <= 2.5 * usual or usual <= 0 else 1.25 * usual


def described(title: str, lines: Sequence[Line], x_name: str) -> str:
    """What a chart shows, in words, for those who do not see it."""
    parts = [
        f"{line.name}: {number(line.points[0][1])} at {x_name} {number(line.points[0][0])},"
        f" {number(line.points[-1][1])} at {number(line.points[-1][0])},"
        f" between {number(min(y for _, y in line.points))} and {number(max(y for _, y in line.points))}"
        for line in lines
    ]
    return f"Line chart, {title}. {'; '.join(parts)}."


def line_chart(
    title: str,
    lines: Sequence[Line],
    unit: str,
    x_name: str = "iteration",
    mark: tuple[float, str] | None = None,
    whole: bool = False,
) -> Markup:
    """Lines over iterations.

    Args:
        title: what is shown, for the alternative text; the caption is the caller's.
        lines: each with at least one point; all values finite.
        unit: of the values, written at the top of their axis.
        mark: an x and a word for it: a dashed upright line.
        whole: the values are counts.
    """
    xs = [x for line in lines for x, _ in line.points]
    y = make_axis(0, top_of([y for line in lines for _, y in line.points]), whole=whole)
    x = make_axis(0, max(max(xs), 1), 4, whole=True)
    if x.high > 1.03 * max(xs) > 0:
        x = x._replace(high=max(xs), ticks=[tick for tick in x.ticks if tick <= max(xs)])
    plot_w, plot_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    inside = []
    for n, line in enumerate(lines):
        points = [(x.share(a) * plot_w, (1 - y.share(b)) * plot_h) for a, b in line.points]
        inside += _curve(points, n, mark and x.share(mark[0]) * plot_w)
    if mark is not None and x.low <= mark[0] <= x.high:
        at = x.share(mark[0]) * plot_w
        right = at < plot_w * 0.6
        inside.append(tag("line", x1=at, x2=at, y1=0, y2=plot_h, class_="mark"))
        inside.append(tag("text", mark[1], x=at + (4 if right else -4), y=12, class_="note",
                          text_anchor="start" if right else "end"))  # fmt: skip
    # A nested svg cuts off what lies outside of the plot, a dot on its edge aside.
    plot = tag("svg", inside, x=LEFT, y=TOP - 4, width=plot_w + 6, height=plot_h + 8,
               viewBox=f"0 -4 {plot_w + 6} {plot_h + 8}")  # fmt: skip
    parts = [*_axes(x, y, plot_w, plot_h), tag("text", unit, x=6, y=14, class_="unit"), plot]
    parts.append(tag("text", x_name, x=LEFT + plot_w / 2, y=HEIGHT - 6, class_="unit", text_anchor="middle"))
    return _svg(parts, HEIGHT, described(title, lines, x_name))


def _curve(points: list[tuple[float, float]], n: int, edge: float | None) -> list[Markup]:
    """Line number n in the plot's coordinates: with dots where they are few, smoothed up to `edge` where many."""

    def path(points: Sequence[tuple[float, float]], kind: str) -> Markup:
        return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=kind)

    if len(points) <= MARKERS_UP_TO:
        dots = [tag("circle", cx=x, cy=y, r=3, class_=f"dot s{n}") for x, y in points]
        return [path(points, f"curve s{n}"), *dots]
    mean = smoothed(points, max(2, len(points) // 40), edge)
    return [path(thinned(points, DRAWN), f"raw s{n}"), path(thinned(mean, DRAWN), f"curve s{n}")]


def _axes(x: Axis, y: Axis, width: float, height: float) -> list[Markup]:
    parts = []
    step = y.ticks[1] - y.ticks[0]
    for tick in y.ticks:
        at = TOP + (1 - y.share(tick)) * height
        parts.append(tag("line", x1=LEFT, x2=LEFT + width, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", number(tick, step), x=LEFT - 6, y=at + 4, text_anchor="end"))
    for tick in x.ticks:
        at = LEFT + x.share(tick) * width
        parts.append(tag("line", x1=at, x2=at, y1=TOP + height, y2=TOP + height + 4, class_="axis"))
        parts.append(tag("text", number(tick, 1), x=at, y=TOP + height + 17, text_anchor="middle"))
    bottom = TOP + height
    return [*parts, tag("line", x1=LEFT, x2=LEFT + width, y1=bottom, y2=bottom, class_="axis")]


def signs(names: Sequence[str], kinds: Sequence[str]) -> Markup:
    """A legend to stand in a chart's caption: names, each behind a sign of its kind (`curve s0`, `dot d1`)."""
    parts = []
    for name, kind in zip(names, kinds):
        sign = (
            tag("line", x1=0, x2=22, y1=6, y2=6, class_=kind)
            if kind.startswith("curve")
            else tag("circle", cx=11, cy=6, r=4, class_=kind)
        )
        parts.append(
            tag("span", tag("svg", sign, viewBox="0 0 22 12", aria_hidden="true"), name, class_="key")
        )
    return tag("span", parts, class_="keys")


def bar_chart(title: str, rows: Sequence[tuple[str, float, str]]) -> Markup:
    """Bars from the left: (name, value, the value as text) each; at least one value is above 0."""
    left, right, line = 124, 78, 24
    longest = max(value for _, value, _ in rows)
    parts = []
    for n, (name, value, text) in enumerate(rows):
        y, length = n * line + 4, max(1, value / longest * (WIDTH - left - right))
        parts.append(tag("text", name, x=left - 8, y=y + 14, text_anchor="end"))
        parts.append(tag("rect", x=left, y=y, width=length, height=line - 8, class_="bar"))
        parts.append(tag("text", text, x=left + length + 6, y=y + 14))
    told = "; ".join(f"{name}: {text}" for name, _, text in rows)
    return _svg(parts, line * len(rows) + 4, f"Bar chart, {title}. {told}.")


def dot_chart(
    title: str, rows: Sequence[tuple[str, Sequence[float | None]]], names: Sequence[str], kinds: Sequence[str]
) -> Markup:
    """A line per row with a dot per name, on a scale from 0 to 100 %; None: no dot. `kinds` as in `signs`."""
    left, line, head = 116, 20, 22
    width = WIDTH - left - RIGHT
    parts: list[Markup] = []
    for tick in range(0, 101, 25):
        at = left + tick / 100 * width
        parts.append(tag("line", x1=at, x2=at, y1=head, y2=head + line * len(rows), class_="grid"))
        parts.append(
            tag("text", f"{tick} %" if tick == 100 else tick, x=at, y=head - 6, text_anchor="middle")
        )
    for n, (name, values) in enumerate(rows):
        y = head + line * (n + 0.5)
        parts.append(tag("text", shortened(name), x=left - 10, y=y + 4, text_anchor="end"))
        known = [value for value in values if value is not None]
        if known:
            ends = [left + value * width for value in (min(known), max(known))]
            parts.append(tag("line", x1=ends[0], x2=ends[1], y1=y, y2=y, class_="span"))
        for k, value in enumerate(values):
            if value is not None:
                parts.append(tag("circle", cx=left + value * width, cy=y, r=4, class_=kinds[k]))
    told = "; ".join(
        f"{name}: {', '.join('none' if v is None else f'{100 * v:.1f}' for v in values)}"
        for name, values in rows
    )
    description = f"Dot chart, {title}, in per cent for {', '.join(names)}. {told}."
    return _svg(parts, head + line * len(rows) + 4, description)


def shortened(name: str, length: int = 14) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _svg(parts: Sequence[Markup], height: float, description: str) -> Markup:
    return tag("svg", tag("title", description), parts, viewBox=f"0 0 {WIDTH} {height}", role="img",
               aria_label=description, class_="chart")  # fmt: skip
