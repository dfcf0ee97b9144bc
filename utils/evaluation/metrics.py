"""Scores of a segmentation from a confusion matrix that grows with the classes, not with the images."""

from pathlib import Path

import torch
from torch import Tensor

from datasets.voc import IGNORE_LABEL
from utils.core.distributed import all_reduce_sum, is_main
from utils.core.errors import InputError
from utils.core.files import save_json
from utils.core.provenance import save_provenance

COUNTS = "rows are true labels"  # confusion.json's key


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs of labels, gathered image by image on the tensors' own device."""

    def __init__(self, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self.counts = torch.zeros(num_classes**2, dtype=torch.int64)

    def update(self, truth: Tensor, prediction: Tensor) -> None:
        """Add one label map or a batch of them: integer tensors of one shape; ignored pixels do not count."""
        counted = truth != self.ignore_label
        pairs = truth.long() * self.num_classes + prediction.long()
        self.counts = self.counts.to(truth.device)
        self.counts += torch.bincount(pairs[counted], minlength=self.num_classes**2)

    def gather(self) -> "ConfusionMatrix":
        """Add up the counts of all processes."""
        self.counts = all_reduce_sum(self.counts.cpu())
        return self

    def matrix(self) -> Tensor:
        """num_classes x num_classes counts; a row is a true label, a column a predicted one."""
        return self.counts.cpu().view(self.num_classes, self.num_classes)

    def transposed(self) -> "ConfusionMatrix":
        """The same counts with truth and prediction exchanged."""
        other = ConfusionMatrix(self.num_classes, self.ignore_label)
        other.counts = self.matrix().t().reshape(-1)
        return other

    def scores(self) -> dict:
        """Pixel Accuracy, Mean Accuracy, Frequency Weighted IoU, Mean IoU, Class IoU by label, Min IoU.

        Means and the minimum run over the labels that occur in the truth. A label in neither truth nor
        prediction has no IoU (None); one that is only predicted has 0.
        """
        matrix = self.matrix().double()
        hits, truth, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
        present, union = truth > 0, truth + predicted - hits
        if not present.any():
            raise InputError(
                "no labelled pixel among the images: there is nothing to score (list, shard or labels)"
            )
        iou = hits / union
        return {
            "Pixel Accuracy": float(hits.sum() / matrix.sum()),
            "Mean Accuracy": float((hits / truth)[present].mean()),
            "Frequency Weighted IoU": float((truth * iou)[present].sum() / truth.sum()),
            "Mean IoU": float(iou[present].mean()),
            "Class IoU": {str(c): float(iou[c]) if union[c] else None for c in range(self.num_classes)},
            "Min IoU": float(iou[present].min()),
        }


def score_table(scores: dict, names: list[str]) -> str:
    """Scores for a person to read: a line per class by name, the summary below; IoU in percent."""
    width = max(map(len, [*names, "Frequency Weighted IoU"]))
    lines = [f"{'class':<{width}}   IoU %"]
    for name, iou in zip(names, scores["Class IoU"].values()):
        lines.append(f"{name:<{width}}  {'-':>6}" if iou is None else f"{name:<{width}}  {100 * iou:6.2f}")
    lines.append("-" * (width + 8))
    lines += [f"{key:<{width}}  {100 * value:6.2f}" for key, value in scores.items() if key != "Class IoU"]
    return "\n".join(lines)


def report_scores(
    confusion: ConfusionMatrix, names: list[str], path: Path, options: dict, device: torch.device
) -> None:
    """Write scores as JSON and print them as a table.

    Beside `scores.json` go `confusion.json`, the counts behind them, and `scores_run.json`, what they were made with.
    With several processes, it is the first one that does so, for the images of all.
    """
    scores = confusion.gather().scores()
    if not is_main():
        return
    counts = {"labels": names, COUNTS: confusion.matrix().tolist()}
    save_json(path.with_name(path.name.replace("scores", "confusion", 1)), counts)
    save_provenance(path.with_name(f"{path.stem}_run.json"), options, device)
    save_json(path, scores)
    print(score_table(scores, names))
    print(f"scores: {path}")
