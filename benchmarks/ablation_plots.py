"""The plots of the ablation: bars by row, the denoising over the iterations, the sweep of the noise."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ablation_report import (
    BLUE,
    GREEN,
    GREY,
    HOWS,
    KINDS,
    LABELS,
    ORANGE,
    PROBED,
    VERMILION,
    Finished,
    mean_spread,
    mious,
    over_time,
)
from utils.core.files import atomic_write

plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
COLOURS = {"raw": BLUE, "crf": ORANGE}


def save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=100)
    plt.close(figure)


def bars(finished: Finished, path: Path) -> None:
    """Val mIoU by row, raw and + CRF, images of one class and of several apart; a dot is a seed."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 1.6 + 0.5 * len(finished)), sharey=True, sharex=True)
    for ax, kind in zip(axes, ("simple", "multi")):
        for offset, (how, name) in zip((-0.2, 0.2), HOWS.items()):
            for y, lines in enumerate(finished.values()):
                values = [100 * m for m in mious(lines, how, kind).values()]
                if values:
                    mean, spread = mean_spread(values)
                    ax.barh(y + offset, mean, 0.38, xerr=spread, color=COLOURS[how], capsize=3,
                            label=name if not y else None)  # fmt: skip
                    ax.plot(values, [y + offset] * len(values), "k.", markersize=4)
        ax.set(title=f"val images of {KINDS[kind]}", xlabel="mIoU, %")
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(finished)), [LABELS.get(row, row) for row, _ in finished])
    axes[0].invert_yaxis()
    axes[1].legend(loc="lower right", framealpha=1)
    save(figure, path)


def curves(ax: Axes, lines: list[dict], wanted: dict[str, tuple[str, str]]) -> None:
    """Mean and spread of what the probe saw, by iteration."""
    for name, (colour, style) in wanted.items():
        series = over_time(lines, PROBED[name])
        x, means = list(series), [mean for mean, _ in series.values()]
        spreads = [spread for _, spread in series.values()]
        ax.plot(x, means, style, color=colour, label=name)
        low, high = ([m + sign * s for m, s in zip(means, spreads)] for sign in (-1, 1))
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.set(xlabel="iteration", ylim=(0, 100))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=9, framealpha=0.9)


def denoising(lines: list[dict], path: Path) -> None:
    """How clean ONF's kept images are, and what PND drops, as the training goes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6))
    curves(left, lines, {
        "IoU of the labels kept by ONF": (BLUE, "o-"), "IoU of the labels dropped": (VERMILION, "s-"),
        "IoU of all labels": (GREY, "--"), "IoU of the network": (GREEN, "^:"),
    })  # fmt: skip
    left.set(title="ONF: foreground IoU with the truth", ylabel="IoU, %")
    curves(right, lines, {
        "PND's precision": (BLUE, "o-"), "PND's recall": (ORANGE, "s-"),
        "wrong pixels": (GREY, "--"), "pixels dropped": (GREEN, "^:"),
    })  # fmt: skip
    right.set(title="PND: labelled pixels of the images that ONF keeps", ylabel="%")
    start = lines[0]["probe"][0]["denoise_from"]
    for ax in (left, right):
        ax.axvline(start, color="black", linewidth=1)
        ax.text(start, 99, " denoising starts", va="top", fontsize=9)
    save(figure, path)


def sweep(finished: Finished, path: Path) -> None:
    """Val mIoU over the error of the pseudo labels, by row; dashed: + CRF."""
    figure, ax = plt.subplots(figsize=(8, 5))
    rows = list(dict.fromkeys(row for row, _ in finished))
    for colour, row in zip((VERMILION, BLUE, GREEN, ORANGE, GREY), rows):
        for how, style in (("raw", "o-"), ("crf", "s--")):
            points = []
            for (name, _), lines in finished.items():
                if name == row:
                    x = mean_spread([100 * (1 - line["label_iou"]) for line in lines])[0]
                    points.append((x, *mean_spread([100 * m for m in mious(lines, how, "all").values()])))
            x, means, spreads = zip(*sorted(points))
            label = f"{LABELS.get(row, row).removeprefix('+ C2S: ')}, {HOWS[how]}"
            ax.errorbar(x, means, spreads, fmt=style, color=colour, capsize=3, label=label)
    ax.set(
        xlabel="error of the saliency labels: 100 % less their mean IoU with the truth", ylabel="val mIoU, %"
    )
    ax.grid(alpha=0.3)
    ax.legend(framealpha=0.9)
    save(figure, path)
