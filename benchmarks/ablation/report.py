"""Writes tables and plots of finished runs: ablation.md and its two plots, or sweep.md and sweep.png."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ablation import plots
from benchmarks.ablation.plan import CUMULATIVE, PARTS
from benchmarks.ablation.results import (
    HOWS,
    KINDS,
    LABELS,
    PROBED,
    Finished,
    differences,
    lost_classes,
    mean_spread,
    mious,
    over_time,
)
from utils.core.files import atomic_write

COLUMNS = [(how, kind) for how in HOWS for kind in KINDS]
COLUMN_HEADS = [f"{HOWS[how]}, {KINDS[kind]}" for how, kind in COLUMNS]


def percent(values: Sequence[float], sign: str = "") -> str:
    """`50.1 ± 0.8` from shares; without the spread for one value, empty for none."""
    if not values:
        return ""
    mean, spread = mean_spread(values)
    return f"{mean:{sign}.1f}" + (f" ± {spread:.1f}" if len(values) > 1 else "")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score_table(finished: Finished, with_noise: bool) -> str:
    """Val mIoU by row, and the number of lost classes in all its runs."""
    rows = []
    for (row, (wrong, borders)), lines in finished.items():
        label = LABELS.get(row, row)
        if with_noise:
            label = f"{100 * wrong:.0f} % / {100 * borders:.0f} %: {label.removeprefix('+ C2S: ')}"
        scores = [percent(list(mious(lines, *column).values())) for column in COLUMNS]
        rows.append([label, str(len(lines)), str(sum(map(lost_classes, lines))), *scores])
    return markdown(["row", "seeds", "classes lost", *COLUMN_HEADS], rows)


def gain_table(finished: Finished) -> str:
    """The gain of each part: added to the row before, and in the full method over the method without it."""
    by_row = {row: lines for (row, _), lines in finished.items()}
    steps = [(f"{LABELS[b]}, over the row before", a, b) for a, b in itertools.pairwise(CUMULATIVE)]
    steps += [(f"full over {LABELS[row]}", row, "full") for row in (f"full-{part}" for part in PARTS)]
    steps.append(("full over cross-entropy", "plain", "full"))
    rows = [
        [text, *(percent(differences(by_row[less], by_row[more], *column), "+") for column in COLUMNS)]
        for text, less, more in steps
        if less in by_row and more in by_row
    ]
    return markdown(["gain, points", *COLUMN_HEADS], rows) if rows else ""


def probe_table(lines: Sequence[dict]) -> str:
    """The probe's quantities over the runs of a row, by iteration."""
    series = {name: over_time(lines, name) for name in PROBED}
    iterations = sorted({i for values in series.values() for i in values})
    rows = [
        [name, *(f"{values[i][0]:.1f} ± {values[i][1]:.1f}" if i in values else "" for i in iterations)]
        for name, values in series.items()
    ]
    return markdown(["%, iteration", *map(str, iterations)], rows)


def log_means(lines: Sequence[dict]) -> str:
    """Means of train.py's log over the runs; loss_D is near 0 if the discriminator wins."""
    return ", ".join(
        f"{name} {statistics.fmean(line['log'][name] for line in lines if name in line['log']):.3g}"
        for name in dict.fromkeys(name for line in lines for name in line["log"])
    )


def report(finished: Finished, out: Path, sweep: bool) -> None:
    """Prints the tables, and writes them and the plots to `out`."""
    scores, details = score_table(finished, sweep), ""
    if sweep:
        text = f"Val mIoU in percent by noise (images with a wrong object / border)\n\n{scores}"
        plots.sweep(finished, out / "sweep.png")
    else:
        text = f"Val mIoU in percent, mean ± spread over the seeds\n\n{scores}\n{gain_table(finished)}"
        named = {row: lines for (row, _), lines in finished.items()}
        for row, lines in named.items():
            details += (
                f"\nThe probe in `{row}`\n\n{probe_table(lines)}\nLog, second half: {log_means(lines)}\n"
            )
        plots.bars(finished, out / "ablation.png")
        plots.denoising(named.get("full") or next(iter(named.values())), out / "denoising.png")
    path = out / ("sweep.md" if sweep else "ablation.md")
    with atomic_write(path, "w") as file:
        file.write(text + details)
    print(f"\n{text}\ntables, probe and plots: {path.with_suffix('.*')}")
