"""The report's training curves."""

from typing import NamedTuple

from utils.report.charts import Line, line_chart, signs
from utils.report.collect import RunOutputs, series
from utils.report.markup import Markup, figure, tag
from utils.report.sections import missing


class Curve(NamedTuple):
    """One chart: which log it is from, what it shows of it by key and name, and how."""

    log: str
    names: dict[str, str]
    title: str
    unit: str
    text: str
    factor: float = 1


CURVES = (
    Curve("log", {"loss_seg": "L_seg"}, "Segmentation loss", "nats",
          "L_seg of stage 1: cross-entropy of the simple images with their saliency labels, the mean over labelled"
          " pixels; those that PND drops count as 0."),
    Curve("log", {"loss_cls": "L_cls"}, "Classification loss", "nats",
          "L_cls: are the image's classes found in the mean logits?"),
    Curve("log", {"loss_adv_complex": "complex", "loss_adv_simple": "simple"}, "Adversarial losses", "nats",
          "L_adv of C2S: how far D is from taking G's predictions for labels; unweighted; simple images in the"
          " iterations without CutMix alone."),
    Curve("log", {"loss_D_pred": "predictions", "loss_D_gt": "labels"}, "Discriminator's losses", "nats",
          "Both halves of L_D. Their sum usually settles at 0.2 to 0.5; near 0, D has won."),
    Curve("log", {"kept": "kept"}, "Kept images", "images a batch", "Simple images of a batch that ONF keeps."),
    Curve("log", {"dropped": "dropped"}, "Dropped pixels", "% of labelled pixels",
          "Share of the labelled pixels that PND drops, in the images that ONF keeps.", 100),
    Curve("val_log", {"Mean IoU": "mIoU"}, "Validation mIoU", "%",
          "Mean IoU on the validation images during stage 1's training.", 100),
    Curve("step2_log", {"loss": "loss"}, "Loss of stage 2", "nats",
          "Sum of the cross-entropies of three scales and their maximum, the mean over the last iterations."),
)  # fmt: skip


def curves(run: RunOutputs) -> list[Markup]:
    """A small chart for each of CURVES that the logs have values of."""
    denoising = run.denoising()
    mark = denoising and (denoising[0], "denoising" if denoising[1] else "first drop")
    charts, lacking = [], {"log": [], "val_log": [], "step2_log": []}
    for curve in CURVES:
        x = "iteration" if curve.log == "step2_log" else "i"
        lines = [
            Line(name, [(i, curve.factor * value) for i, value in points])
            for key, name in curve.names.items()
            if (points := series(getattr(run, curve.log), key, x))
        ]
        if lines:
            charts.append(_chart(curve, lines, None if curve.log == "step2_log" else mark))
        else:
            lacking[curve.log].append(curve.title)
    parts = [tag("div", charts, class_="charts")] if charts else []
    if any(curve.title not in lacking["log"] for curve in CURVES if curve.log == "log"):
        text = (
            "Thin: as logged. Thick: the mean of neighbours. An axis may end below a few early, high values."
        )
        if denoising:
            iteration = f"iteration {denoising[0]:,}, the dashed line."
            text = (f"Denoising begins at {iteration} {text}" if denoising[1] else
                    f"The log shows the first dropped image or pixel at {iteration} {text}")  # fmt: skip
        parts.insert(0, tag("p", text))
    for log, command in (
        ("log", "python train.py"),
        ("val_log", "python train.py"),
        ("step2_log", "cd step2 && python main.py train --config-path configs/voc12.yaml"),
    ):
        if lacking[log]:
            text = f"Not in a log of this run, or left out by its options: {', '.join(lacking[log])}."
            parts.append(missing(text, run.hint(command)))
    return parts


def _chart(curve: Curve, lines: list[Line], mark: tuple[float, str] | None) -> Markup:
    chart = line_chart(curve.title, lines, curve.unit, mark=mark, whole=curve.unit.startswith("images"))
    names = [line.name for line in lines]
    legend = signs(names, [f"curve s{n}" for n in range(len(names))]) if len(names) > 1 else None
    return figure(chart, [legend, tag("b", curve.title), ". ", curve.text])
