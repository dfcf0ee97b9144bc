"""Tables and plots of finished ablation runs: ablation.md and its two PNGs, or sweep.md and sweep.png."""

import importlib.util
import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.core.files import atomic_write

LABELS = {
    "plain": "cross-entropy on all labels", "cls": "+ classification", "cls+onf": "+ ONF",
    "cls+onf+pnd": "+ PND", "cls+onf+pnd+s2c": "+ S2C", "full": "+ C2S: the full method",
    "full-cls": "full less classification", "full-onf": "full less ONF", "full-pnd": "full less PND",
    "full-s2c": "full less S2C", "full-c2s": "full less C2S",
}  # fmt: skip
KINDS = {"all": "all images", "simple": "one class", "multi": "several classes"}
LOST = 0.01  # IoU on val below which a class counts as lost
HOWS = {"raw": "raw", "crf": "+ CRF"}
# Okabe and Ito's colours, which colour-blind people can tell apart.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"

Row = tuple[str, tuple[float, float]]  # the row's name and its noise
Finished = dict[Row, list[dict]]


def check_matplotlib() -> None:
    """InputError where the plots could not be drawn at the end."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("matplotlib is not installed: pip install -r requirements-dev.txt")


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is 0 for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def percent(values: Sequence[float], sign: str = "") -> str:
    """`50.1 ± 0.8` from shares; the spread is left out for one value, and everything for none."""
    if not values:
        return ""
    mean, spread = mean_spread([100 * value for value in values])
    return f"{mean:{sign}.1f}" + (f" ± {spread:.1f}" if len(values) > 1 else "")


def mious(lines: Sequence[dict], how: str, kind: str) -> dict[int, float]:
    """Val mIoU by seed, of the runs that have such images."""
    found = {line["seed"]: line[how]["miou"].get(kind) for line in lines}
    return {seed: value for seed, value in found.items() if value is not None}


def lost_classes(line: dict) -> int:
    """Foreground classes that the network (almost) never finds on val: they were not learned, or were unlearned."""
    counts = np.sum(list(line["raw"]["confusion"].values()), 0)
    hits = counts.diagonal()
    return int((hits < LOST * (counts.sum(0) + counts.sum(1) - hits))[1:].sum())


def differences(less: Sequence[dict], more: Sequence[dict], how: str, kind: str) -> list[float]:
    """What `more` gains over `less`, seed by seed: the data set and the initial weights are the same there."""
    before, after = mious(less, how, kind), mious(more, how, kind)
    return [after[seed] - before[seed] for seed in after if seed in before]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


COLUMNS = [(how, kind) for how in HOWS for kind in KINDS]
COLUMN_HEADS = [f"{HOWS[how]}, {KINDS[kind]}" for how, kind in COLUMNS]


def score_table(finished: Finished, first: Callable[[Row], str]) -> str:
    """Val mIoU by row, and how many classes all its runs together have lost."""
    rows = [
        [
            first(row),
            str(len(lines)),
            str(sum(map(lost_classes, lines))),
            *(percent(list(mious(lines, *column).values())) for column in COLUMNS),
        ]
        for row, lines in finished.items()
    ]
    return markdown(["row", "seeds", "classes lost", *COLUMN_HEADS], rows)


def gain_table(finished: Finished) -> str:
    """What each part gains: added to the row before it, and in the full method over the method without it."""
    by_row = {row: lines for (row, _), lines in finished.items()}
    order = [row for row in LABELS if not row.startswith("full-")]
    steps = [(f"{LABELS[b]}, over the row before", a, b) for a, b in itertools.pairwise(order)]
    steps += [(f"full over {text}", row, "full") for row, text in LABELS.items() if row.startswith("full-")]
    steps.append(("full over cross-entropy", "plain", "full"))
    rows = [
        [text, *(percent(differences(by_row[less], by_row[more], *column), "+") for column in COLUMNS)]
        for text, less, more in steps
        if less in by_row and more in by_row
    ]
    return markdown(["gain, points", *COLUMN_HEADS], rows) if rows else ""


def over_time(lines: Sequence[dict], value: Callable[[dict], float | None]) -> dict[int, tuple[float, float]]:
    """Mean and spread over the runs of what each look of the probe says, by iteration."""
    found: dict[int, list[float]] = {}
    for look in (look for line in lines for look in line["probe"]):
        if (x := value(look)) is not None:
            found.setdefault(look["i"], []).append(100 * x)
    return {i: mean_spread(values) for i, values in sorted(found.items())}


PROBED: dict[str, Callable[[dict], float | None]] = {
    "IoU of the labels kept by ONF": lambda look: look["onf"]["iou_kept"],
    "IoU of the labels dropped": lambda look: look["onf"]["iou_dropped"],
    "IoU of all labels": lambda look: look["iou_labels"],
    "IoU of the network": lambda look: look["iou_network"],
    "images dropped": lambda look: look["onf"]["dropped"],
    "ONF's precision": lambda look: look["onf"]["precision"],
    "ONF's recall": lambda look: look["onf"]["recall"],
    "bad images": lambda look: look["onf"]["base"],
    "pixels dropped": lambda look: look["pnd"]["kept"]["dropped"],
    "PND's precision": lambda look: look["pnd"]["kept"]["precision"],
    "PND's recall": lambda look: look["pnd"]["kept"]["recall"],
    "wrong pixels": lambda look: look["pnd"]["kept"]["base"],
}


def probe_table(lines: Sequence[dict]) -> str:
    """The looks of a row's runs, iteration by iteration."""
    series = {name: over_time(lines, value) for name, value in PROBED.items()}
    iterations = sorted({i for values in series.values() for i in values})
    rows = [
        [name, *(f"{values[i][0]:.1f} ± {values[i][1]:.1f}" if i in values else "" for i in iterations)]
        for name, values in series.items()
    ]
    return markdown(["%, iteration", *map(str, iterations)], rows)


def log_means(lines: Sequence[dict]) -> str:
    """What train.py logged, over the runs; a loss_D near 0 says that the discriminator has won."""
    return ", ".join(
        f"{name} {statistics.fmean(line['log'][name] for line in lines if name in line['log']):.3g}"
        for name in dict.fromkeys(name for line in lines for name in line["log"])
    )


def noise_name(noise: tuple[float, float]) -> str:
    return f"{100 * noise[0]:.0f} % / {100 * noise[1]:.0f} %"


def report(finished: Finished, out: Path, sweep: bool) -> None:
    """Print the tables and write them with the plots."""
    from benchmarks import ablation_plots as plots

    def label(row: Row) -> str:
        return LABELS.get(row[0], row[0]).removeprefix("+ C2S: " if sweep else "")

    if sweep:
        table = score_table(finished, lambda row: f"{noise_name(row[1])}: {label(row)}")
        text = f"Val mIoU in percent by noise (images with a wrong object / border)\n\n{table}"
        details = ""
        plots.sweep(finished, out / "sweep.png")
    else:
        tables = f"{score_table(finished, label)}\n{gain_table(finished)}"
        text = f"Val mIoU in percent, mean ± spread over the seeds\n\n{tables}"
        named = {row: lines for (row, _), lines in finished.items()}
        details = "".join(
            f"\nThe probe in `{row}`\n\n{probe_table(lines)}\nLogged, second half: {log_means(lines)}\n"
            for row, lines in named.items()
        )
        plots.bars(finished, out / "ablation.png")
        plots.denoising(named.get("full") or next(iter(named.values())), out / "denoising.png")
    path = out / ("sweep.md" if sweep else "ablation.md")
    with atomic_write(path, "w") as file:
        file.write(text + details)
    print(f"\n{text}\ntables, with what the probe saw, and plots: {path.with_suffix('.*')}")
