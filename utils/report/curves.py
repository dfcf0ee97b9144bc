"""The report's curves, drawn by matplotlib as SVG; texts and axes take the page's colour, light or dark."""

import io
import re

import numpy as np

from utils.report.run import Run

# Log, keys with the names of their lines, factor, title, explanation.
CURVES = (
    ("train", {"loss_seg": "L_seg"}, 1, "Segmentation loss", "Pixels that PND drops count as 0."),
    ("train", {"loss_cls": "L_cls"}, 1, "Classification loss", "Averaged logits against image labels."),
    ("train", {"loss_adv_complex": "complex", "loss_adv_simple": "simple"}, 1, "Adversarial losses", "L_adv of C2S."),
    ("train", {"loss_D_pred": "predictions", "loss_D_gt": "labels"}, 1, "Discriminator losses", "Near 0, D has won."),
    ("train", {"kept": "kept"}, 1, "Images per batch after ONF", "Simple images."),
    ("train", {"dropped": "dropped"}, 100, "Pixels dropped by PND in %", "Of the labelled pixels."),
    ("val", {"Mean IoU": "mIoU"}, 100, "Validation mIoU in %", "During the training of stage 1."),
    ("step2", {"loss": "loss"}, 1, "Loss of stage 2", "Cross-entropy of three scales and of their maximum."),
)  # fmt: skip
TEXT = "#000001"  # becomes the page's colour
COLOURED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # the same IDs in every run
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    **dict.fromkeys(COLOURED, TEXT),
}


def draw(lines: dict[str, np.ndarray], title: str, mark: int | None) -> str:
    """Draw an <svg> element.

    Args:
        lines: N x 2 points (iteration, value) by name.
        title: above the figure.
        mark: an iteration that gets a dashed line.
    """
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.9), facecolor="none")
        axes = figure.subplots()
        axes.set(facecolor="none", title=title, xlabel="iteration")
        for (name, points), colour in zip(lines.items(), ("#2a7fd0", "#d0622a")):
            axes.plot(*points.T, ".-", color=colour, lw=0.8, ms=3, alpha=0.35)
            parts = np.array([part.mean(0) for part in np.array_split(points, min(30, len(points)))])
            axes.plot(*parts.T, "-" if len(parts) > 1 else "o", color=colour, lw=1.8, label=name)
        values = np.concatenate([points[:, 1] for points in lines.values()])
        axes.set_ylim(0, min(values.max(), 1.3 * np.percentile(values, 97)) * 1.05 or 1)
        if mark is not None:
            axes.axvline(mark, color=TEXT, ls="--", lw=0.8)
        if len(lines) > 1:
            axes.legend(frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None})
    view, svg = re.findall(r'<svg[^>]*(viewBox="[^"]*")[^>]*>(.*)', file.getvalue(), flags=re.DOTALL)[0]
    svg = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{title.replace(' ', '-')}-", svg)  # unique on the page
    ends = "; ".join(f"{name} {p[0, 1]:.3g} to {p[-1, 1]:.3g}" for name, p in lines.items())
    return f'<svg role="img" aria-label="{title}: {ends}" {view}>{svg.replace(TEXT, "currentColor")}'


def draw_all(run: Run, mark: int | None) -> list[tuple[str, str]]:
    """The curves that the logs have, as <svg> elements with their explanations."""
    logs = {"train": run.train_log, "val": run.val_log, "step2": run.step2_log}
    found = []
    for log, keys, factor, title, text in CURVES:
        lines = {}
        for key, name in keys.items():
            pairs = [(line.get("i", line.get("iteration")), line.get(key)) for line in logs[log]]
            points = np.array([pair for pair in pairs if None not in pair], float).reshape(-1, 2) * (1, factor)
            if len(points := points[np.isfinite(points).all(1)]):
                lines[name] = points
        if lines:
            found.append((draw(lines, title, None if log == "step2" else mark), text))
    return found
