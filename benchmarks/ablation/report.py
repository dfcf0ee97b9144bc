"""Markdown tables of the finished runs."""

import itertools
import statistics
from collections.abc import Iterable, Sequence

from benchmarks.ablation.plan import PARTS, ROWS

Finished = dict[str, list[dict]]  # results by row
COLUMNS = [(how, kind) for how in ("raw", "crf") for kind in ("all", "one class", "several")]
HEADS = [f"{'raw' if how == 'raw' else '+ CRF'}, {kind}" for how, kind in COLUMNS]
SECTIONS = {
    "curve": "val mIoU after iteration, %",
    "iou": "mean foreground IoU with the true masks, %",
    "onf": "ONF: shares of the images, %",
    "pnd": "PND: shares of the labelled pixels, %",
    "simple": "labels of the simple images, %",
    "complex": "labels of the complex images, %",
}


def report(finished: Finished) -> str:
    """All tables."""
    scores = []
    for row, runs in finished.items():
        means = [percent(run[how].get(kind) for run in runs) for how, kind in COLUMNS]
        scores.append([ROWS.get(row, row), *means, " ".join(str(run["seed"]) for run in runs)])
    tables = [markdown(["val mIoU, %", *HEADS, "seeds"], scores), gain_table(finished)]
    return "\n".join(filter(None, [*tables, *(section_table(finished, section) for section in SECTIONS)]))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def percent(values: Iterable[float | None], sign: str = "") -> str:
    """`50.1 ± 0.8` from shares: mean and standard deviation; without the deviation for one value, empty for none."""
    found = [100 * value for value in values if value is not None]
    if not found:
        return ""
    return f"{statistics.fmean(found):{sign}.1f}" + (f" ± {statistics.stdev(found):.1f}" if found[1:] else "")


def differences(less: list[dict], more: list[dict], how: str, kind: str) -> list[float]:
    """The gain of `more` over `less` for each seed, which fixes data set and initial weights."""
    before = {run["seed"]: run[how].get(kind) for run in less}
    pairs = [(before.get(run["seed"]), run[how].get(kind)) for run in more]
    return [b - a for a, b in pairs if a is not None and b is not None]


def gain_table(finished: Finished) -> str:
    """The gain of each part: over the row before, and in the full method over the method without it."""
    steps = [(ROWS[b], a, b) for a, b in itertools.pairwise(list(ROWS)[: len(PARTS) + 1])]
    steps += [(f"full, over {ROWS[row]}", row, "full") for row in (f"full-{part}" for part in PARTS)]
    steps += [(f"{row}, over cross-entropy", "plain", row) for row in ("full", "truth")]
    rows = [
        [text, *(percent(differences(finished[a], finished[b], *column), "+") for column in COLUMNS)]
        for text, a, b in steps
        if a in finished and b in finished
    ]
    return markdown(["gain in points, paired by seed", *HEADS], rows) if rows else ""


def section_table(finished: Finished, section: str) -> str:
    """A column for each number of a section of the results; empty if no run has any."""
    runs_of = {row: [run[section] for run in runs if run[section]] for row, runs in finished.items()}
    names = list(dict.fromkeys(name for runs in runs_of.values() for run in runs for name in run))
    rows = [
        [ROWS.get(row, row), *(percent(run.get(name) for run in runs) for name in names)]
        for row, runs in runs_of.items()
        if runs
    ]
    return markdown([SECTIONS[section], *names], rows) if names else ""
