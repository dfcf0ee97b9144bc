"""The report's curves, drawn by matplotlib. In the dark, the page inverts them."""

import base64
import io

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


def draw_all(run: Run) -> list[tuple[str, str, str]]:
    """The curves that the logs have: figure, its description and its explanation."""
    found = []
    for log, keys, factor, title, text in CURVES:
        lines = {}
        for key, name in keys.items():
            pairs = [(line.get("i", line.get("iteration")), line.get(key)) for line in run.logs[log]]
            points = np.array([pair for pair in pairs if None not in pair], float).reshape(-1, 2) * (1, factor)
            points = points[np.isfinite(points).all(1)]
            if len(points):
                lines[name] = points
        if lines:
            ends = "; ".join(f"{name} {p[0, 1]:.3g} to {p[-1, 1]:.3g}" for name, p in lines.items())
            found.append((draw(lines, title, None if log == "step2" else run.denoise_from), f"{title}: {ends}", text))
    return found


def draw(lines: dict[str, np.ndarray], title: str, mark: int | None) -> str:
    """Draw lines of N x 2 points (iteration, value), and a dashed one at iteration `mark`: data URI of an SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "report"}):  # the same IDs in every run
        figure = Figure(figsize=(4.6, 2.9), facecolor="none", layout="constrained")
        axes = figure.subplots()
        axes.set(facecolor="none", xlabel="iteration")
        axes.set_title(title, loc="left")
        for (name, points), colour in zip(lines.items(), ("#2a7fd0", "#d0622a")):
            axes.plot(*points.T, ".-", color=colour, lw=0.8, ms=3, alpha=0.35)
            parts = np.array([part.mean(0) for part in np.array_split(points, min(30, len(points)))])
            axes.plot(*parts.T, "-" if len(parts) > 1 else "o", color=colour, lw=1.8, label=name)
        values = np.concatenate([points[:, 1] for points in lines.values()])
        axes.set_ylim(0, min(values.max(), 1.3 * np.percentile(values, 97)) * 1.05 or 1)
        if mark is not None:
            axes.axvline(mark, color="black", ls="--", lw=0.8)
        if len(lines) > 1:
            axes.legend(frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
