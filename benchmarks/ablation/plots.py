"""Plots of the ablation: bars by row, the denoising by iteration, the sweep over noise. Requires matplotlib."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.ablation.results import HOWS, KINDS, LABELS, Finished, mean_spread, mious, over_time
from utils.core.files import atomic_write

plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
# The palette of Okabe and Ito, which colour-blind people can tell apart.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
ONF = {
    "IoU of the labels kept by ONF": (BLUE, "o-"),
    "IoU of the labels dropped": (VERMILION, "s-"),
    "IoU of all labels": (GREY, "--"),
    "IoU of the network": (GREEN, "^:"),
}
PND = {
    "PND's precision": (BLUE, "o-"),
    "PND's recall": (ORANGE, "s-"),
    "wrong pixels": (GREY, "--"),
    "pixels dropped": (GREEN, "^:"),
}


def save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=100)
    plt.close(figure)


def bars(finished: Finished, path: Path) -> None:
    """Val mIoU by row, raw and + CRF, for images of one class and of several; each dot is a seed."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 1.6 + 0.5 * len(finished)), sharey=True, sharex=True)
    colours = {"raw": BLUE, "crf": ORANGE}
    for ax, kind in zip(axes, ("simple", "multi")):
        for offset, (how, colour) in zip((-0.2, 0.2), colours.items()):
            for y, lines in enumerate(finished.values()):
                values = list(mious(lines, how, kind).values())
                if values:
                    mean, spread = mean_spread(values)
                    style = {"color": colour, "capsize": 3}
                    ax.barh(y + offset, mean, 0.38, xerr=spread, **style)
                    ax.plot([100 * v for v in values], [y + offset] * len(values), "k.", markersize=4)
        ax.set(title=f"val images of {KINDS[kind]}", xlabel="mIoU, %")
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(finished)), [LABELS.get(row, row) for row, _ in finished])
    axes[0].invert_yaxis()
    patches = [Patch(color=colour, label=HOWS[how]) for how, colour in colours.items()]
    axes[1].legend(handles=patches, loc="lower right", framealpha=1)
    save(figure, path)


def curves(ax: Axes, lines: list[dict], styles: dict[str, tuple[str, str]]) -> None:
    """Mean and spread of the probe's quantities, by iteration."""
    for name, (colour, style) in styles.items():
        series = over_time(lines, name)
        x, means = list(series), [mean for mean, _ in series.values()]
        ax.plot(x, means, style, color=colour, label=name)
        low, high = ([mean + sign * spread for mean, spread in series.values()] for sign in (-1, 1))
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    start = lines[0]["probe"][0]["denoise_from"]
    ax.axvline(start, color="black", linewidth=1)
    ax.text(start, 99, " denoising starts", va="top", fontsize=9)
    ax.set(xlabel="iteration", ylim=(0, 100))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=9, framealpha=0.9)


def denoising(lines: list[dict], path: Path) -> None:
    """Quality of the labels that ONF keeps, and of the pixels that PND drops, during the training."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6))
    curves(left, lines, ONF)
    left.set(title="ONF: foreground IoU with the truth", ylabel="IoU, %")
    curves(right, lines, PND)
    right.set(title="PND: labelled pixels of the images that ONF keeps", ylabel="%")
    save(figure, path)


def sweep(finished: Finished, path: Path) -> None:
    """Val mIoU over the error of the pseudo labels, by row; dashed: + CRF."""
    figure, ax = plt.subplots(figsize=(8, 5))
    rows = list(dict.fromkeys(row for row, _ in finished))
    for colour, row in zip((VERMILION, BLUE, GREEN, ORANGE, GREY), rows):
        same_row = [lines for (name, _), lines in finished.items() if name == row]
        errors = [mean_spread([1 - line["label_iou"] for line in lines])[0] for lines in same_row]
        for how, style in (("raw", "o-"), ("crf", "s--")):
            scores = [mean_spread(list(mious(lines, how, "all").values())) for lines in same_row]
            x, means, spreads = zip(*sorted((error, *score) for error, score in zip(errors, scores)))
            label = f"{LABELS.get(row, row).removeprefix('+ C2S: ')}, {HOWS[how]}"
            ax.errorbar(x, means, spreads, fmt=style, color=colour, capsize=3, label=label)
    ax.set(xlabel="error of the saliency labels: 100 % - mean IoU with the truth", ylabel="val mIoU, %")
    ax.grid(alpha=0.3)
    ax.legend(framealpha=0.9)
    save(figure, path)
