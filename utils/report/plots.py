"""The report's figures, drawn by matplotlib as SVG. Their colours follow the page: light, dark or printed."""

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = Path(__file__).with_name("report.mplstyle")
# matplotlib draws in placeholder colours, which become the variables of report.css.
VARIABLES = ("--fg", "--muted", "--line", "--bg", "--s0", "--s1")
COLOURS = FG, MUTED, LINE, BG, *SERIES = tuple(f"#{n:06}" for n in range(1, 7))
MARKERS_UP_TO = 40  # points; longer lines are averaged to MEANS points
MEANS = 30
RAW = 240  # points of the thin line behind the averages


def draw(description: str, height: float, plot: Callable[["Axes"], None]) -> str:
    """Draw a figure as an <svg> element.

    Args:
        description: the alternative text.
        height: in points; the width is 360.
        plot: fills the axes.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.style.context(STYLE, after_reset=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # missing glyphs: the browser has other fonts
        figure = Figure(figsize=(5, height / 72))
        plot(figure.subplots())
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    start, rest = file.getvalue().split("<svg", 1)[1].split(">", 1)
    rest = re.sub(r"<style.*?</style>", "", rest, flags=re.DOTALL)  # would apply to the whole page
    # IDs are unique within a figure; make them unique on the page.
    prefix = re.sub(r"\W+", "-", description.split(".")[0])
    rest = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", rest)
    for colour, variable in zip(COLOURS, VARIABLES):
        rest = rest.replace(colour, f"var({variable})")
    text, view = html.escape(description), re.findall(r'viewBox="[^"]*"', start)[0]
    return f'<svg class="chart" role="img" aria-label="{text}" {view}><title>{text}</title>{rest}'


def binned(points: np.ndarray, count: int, edge: float | None = None) -> np.ndarray:
    """At most `count` of the N x 2 points, each the mean of its neighbours on the same side of x = `edge`."""
    sides = np.split(points, [] if edge is None else [np.searchsorted(points[:, 0], edge)])
    parts = [np.array_split(side, -(-len(side) * count // len(points))) for side in sides if len(side)]
    return np.array([part.mean(0) for side in parts for part in side if len(part)])


def axis_top(values: np.ndarray) -> float:
    """The highest value to show; a few outliers, such as those of the first iterations, are cut off."""
    top, usual = values.max(), np.percentile(values, 96)
    outliers = len(values) > MARKERS_UP_TO and top > 2.5 * usual > 0
    return float(1.25 * usual if outliers else top) or 1.0


def series(lines: Iterable[dict], key: str, factor: float = 1) -> np.ndarray:
    """N x 2: iteration and `factor` times the value, of the lines of a log with a finite value."""
    points = [
        (line.get("i", line.get("iteration")), factor * line[key])
        for line in lines
        if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
    return np.array(points, dtype=float).reshape(-1, 2)


def line_chart(title: str, unit: str, lines: dict[str, np.ndarray], mark: tuple[float, str] | None) -> str:
    """One or two lines over the iterations.

    Args:
        title: what is shown, for the alternative text.
        unit: of the values; images are counted in whole numbers.
        lines: N x 2 points by name, at least one each.
        mark: an iteration to mark, and the word for it.
    """
    end = max(1, *(points[-1, 0] for points in lines.values()))

    def plot(axes: "Axes") -> None:
        for (name, points), colour, style in zip(lines.items(), SERIES, ("-", "--")):
            few = len(points) <= MARKERS_UP_TO
            if not few:
                axes.plot(*binned(points, RAW).T, color=colour, linewidth=0.8, alpha=0.35)
                points = binned(points, MEANS, mark and mark[0])
            marker = "o" if few else ""
            axes.plot(*points.T, style, color=colour, marker=marker, markersize=4, label=name)
        whole = unit.startswith("images")
        top = max(axis_top(np.concatenate([points[:, 1] for points in lines.values()])), whole)
        axes.set(xlim=(0, 1.03 * end), ylim=(0, 1.05 * top), xlabel="iteration", title=unit)
        axes.grid(visible=False, axis="x")
        axes.locator_params("x", nbins=5, integer=True)
        axes.locator_params("y", nbins=5, integer=whole)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        if len(lines) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0.2)
        if mark is not None and 0 <= mark[0] <= end:
            axes.axvline(mark[0], color=MUTED, linestyle="--", linewidth=1)
            side = "left" if mark[0] < 0.6 * end else "right"
            text = axes.text(mark[0], 1, f" {mark[1]} ", color=MUTED, size=10, ha=side, va="top")
            text.set(transform=axes.get_xaxis_transform())
            text.set_bbox({"facecolor": BG, "edgecolor": "none", "alpha": 0.8, "pad": 0})

    parts = [
        f"{name}: {y[0]:.3g} at iteration {x[0]:,.0f}, {y[-1]:.3g} at {x[-1]:,.0f},"
        f" between {y.min():.3g} and {y.max():.3g}"
        for name, (x, y) in ((name, points.T) for name, points in lines.items())
    ]
    return draw(f"Line chart, {title}. {'; '.join(parts)}.", 230, plot)


def bar_chart(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: (name, value, the value as text) each."""
    names, values, texts = zip(*rows)

    def plot(axes: "Axes") -> None:
        bars = axes.barh(range(len(rows)), values, height=0.65, color=SERIES[0])
        axes.bar_label(bars, texts, padding=5)
        axes.set(xlim=(0, 1.4 * max(values) or 1), yticks=range(len(rows)), yticklabels=names)
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        axes.spines.bottom.set_visible(False)
        axes.invert_yaxis()

    listed = "; ".join(f"{name}: {text}" for name, _, text in rows)
    return draw(f"Bar chart, {title}. {listed}.", 24 * len(rows) + 12, plot)


def dot_chart(title: str, rows: Sequence[tuple[str, Sequence[float | None]]], stages: Sequence[str]) -> str:
    """A row per name with a dot per stage (None: no dot), from 0 to 100 %; filled dots are after the CRF."""
    values = np.array([[math.nan if v is None else 100 * v for v in row] for _, row in rows])
    places = np.arange(len(rows))

    def plot(axes: "Axes") -> None:
        axes.hlines(places, np.fmin.reduce(values, 1), np.fmax.reduce(values, 1), color=MUTED)
        for name, column in zip(stages, values.T):
            colour = SERIES[not name.startswith("stage 1")]
            fill = colour if name.endswith("CRF") else BG
            axes.plot(column, places, "o", color=colour, mfc=fill, mew=1.6, label=name)
        names = [name if len(name) <= 14 else f"{name[:13]}…" for name, _ in rows]
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5), yticks=places, yticklabels=names)
        axes.xaxis.set_major_formatter("{x:.0f} %")
        axes.grid(visible=False, axis="y")
        axes.figure.legend(loc="outside lower center", ncols=2)

    listed = "; ".join(
        f"{name}: {', '.join('none' if math.isnan(v) else f'{v:.1f}' for v in row)}"
        for (name, _), row in zip(rows, values)
    )
    return draw(f"Dot chart, {title}. In %, {', '.join(stages)}. {listed}.", 20 * len(rows) + 80, plot)
