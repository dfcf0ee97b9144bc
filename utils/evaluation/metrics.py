"""Segmentation scores, computed from a confusion matrix."""

import sys
from collections.abc import Container
from pathlib import Path

import torch
from torch import Tensor

from datasets.voc import IGNORE_LABEL
from utils.core.distributed import all_reduce_sum, is_main
from utils.core.errors import InputError
from utils.core.files import save_json
from utils.core.provenance import save_provenance

COUNTS = "rows are true labels"  # key in confusion.json


class ConfusionMatrix:
    """Counts pairs of true and predicted labels, on the device of the labels."""

    def __init__(self, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self.counts = torch.zeros(num_classes**2, dtype=torch.int64)

    def update(self, truth: Tensor, prediction: Tensor) -> None:
        """Add one label map or a batch: two integer tensors of the same shape. Ignored pixels are not counted."""
        pairs = truth.long() * self.num_classes + prediction.long()
        pairs = pairs.masked_fill(truth == self.ignore_label, self.num_classes**2).flatten()
        counts = pairs.new_zeros(self.num_classes**2 + 1)  # the last one is of ignored pixels
        counts.scatter_add_(0, pairs, torch.ones_like(pairs))  # unlike bincount, does not wait for a GPU
        self.counts = self.counts.to(truth.device) + counts[:-1]

    def gather(self) -> "ConfusionMatrix":
        """Sum the counts over all processes, in place; returns itself."""
        self.counts = all_reduce_sum(self.counts.cpu())
        return self

    def matrix(self) -> Tensor:
        """Counts as num_classes x num_classes; rows are true labels, columns predicted ones."""
        return self.counts.cpu().view(self.num_classes, self.num_classes)

    def occurring(self) -> set[int]:
        """The labels that occur in the truth, over which the means are formed."""
        return set(self.matrix().sum(1).nonzero().flatten().tolist())

    def scores(self) -> dict:
        """Pixel Accuracy, Mean Accuracy, Frequency Weighted IoU, Mean IoU, Class IoU by label and Min IoU.

        Means and minimum are over the labels in the truth. Class IoU is None for labels that occur neither there nor
        in the prediction, and 0 for those that are only predicted.
        """
        matrix = self.matrix().double()
        hits, truth, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
        present, union = truth > 0, truth + predicted - hits
        if not present.any():
            raise InputError("the images have no labelled pixel to score: check the list, --shard and the labels")
        iou = hits / union
        return {
            "Pixel Accuracy": float(hits.sum() / matrix.sum()),
            "Mean Accuracy": float((hits / truth)[present].mean()),
            "Frequency Weighted IoU": float((truth * iou)[present].sum() / truth.sum()),
            "Mean IoU": float(iou[present].mean()),
            "Class IoU": {str(c): float(iou[c]) if union[c] else None for c in range(self.num_classes)},
            "Min IoU": float(iou[present].min()),
        }


def percent(value: float | None) -> str:
    """A share as `41.30`; a dash for None."""
    return "-" if value is None else f"{100 * value:.2f}"


def class_ious(scores: dict, occurring: Container[int] | None = None) -> list[float | None]:
    """The IoU of each label; None for those not in `occurring` (if given), as the means leave them out."""
    ious = enumerate(scores["Class IoU"].values())
    return [iou if occurring is None or label in occurring else None for label, iou in ious]


def score_table(scores: dict, names: list[str], occurring: Container[int] | None = None) -> str:
    """Format scores in percent as a table: the IoU of each class as in `class_ious`, then the other scores."""
    width = max(map(len, [*names, "Frequency Weighted IoU"]))
    lines = [f"{'class':<{width}}   IoU %"]
    lines += [f"{name:<{width}}  {percent(iou):>6}" for name, iou in zip(names, class_ious(scores, occurring))]
    lines.append("-" * (width + 8))
    lines += [f"{key:<{width}}  {percent(value):>6}" for key, value in scores.items() if key != "Class IoU"]
    return "\n".join(lines)


def warn_of_background(confusion: ConfusionMatrix, what: str = "prediction") -> None:
    """Warn if the true labels of all images, or the predicted ones, contain background alone."""
    if not confusion.matrix()[1:].any():
        hint = "in masks of 0 and 255, 255 is the ignore label, not an object"
        print(f"warning: the true labels contain background alone: {hint}", file=sys.stderr)
    if not confusion.matrix()[:, 1:].any():
        print(f"warning: the {what} contains background alone", file=sys.stderr)


def report_scores(
    confusion: ConfusionMatrix, names: list[str], path: Path, options: dict, device: torch.device
) -> None:
    """Sum the counts over all processes; the main process then prints the scores and writes them as JSON.

    `path` is scores.json; the confusion matrix goes to confusion.json, the provenance to scores_run.json.
    """
    scores = confusion.gather().scores()
    if not is_main():
        return
    warn_of_background(confusion)
    counts = {"labels": names, COUNTS: confusion.matrix().tolist()}
    save_json(path.with_name(path.name.replace("scores", "confusion", 1)), counts)
    save_provenance(path.with_name(f"{path.stem}_run.json"), options, device)
    save_json(path, scores)
    print(score_table(scores, names, confusion.occurring()))
    print(f"scores: {path}")
