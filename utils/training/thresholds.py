"""Measures T_class of ONF for `--iou-thresholds auto`."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from tqdm import tqdm

from utils.core.device import send
from utils.core.distributed import all_reduce_sum, is_main
from utils.denoising import foreground_iou
from utils.evaluation.inference import full_size


@torch.no_grad()
def measure_iou_thresholds(
    G: nn.Module, loader: Iterable, classes: dict[str, int], num_classes: int, ignore_label: int
) -> list[float]:
    """The mean foreground IoU of each class over the simple images, floored to a tenth.

    The paper calls its thresholds class-adaptive and floored; that they are these means is an interpretation.

    Args:
        G: in training mode before and after; evaluated in eval mode.
        loader: yields ID, 1 x 3 x H x W image and H x W pseudo label of the images of this process.
        classes: 0-based class by ID.
        num_classes: number of labels.
        ignore_label: label of ignored pixels.

    Returns:
        num_classes - 1 thresholds; 0 for a class without a simple image.
    """
    device = next(G.parameters()).device
    sums, counts = torch.zeros(2, num_classes - 1, dtype=torch.float64)
    G.eval()
    bar = tqdm(loader, desc="IoU thresholds", leave=False, unit="img", disable=not is_main())
    for id_, image, label in bar:
        logits = full_size(G(send(image, device)), label.shape)
        sums[classes[id_]] += float(foreground_iou(logits, send(label, device)[None], ignore_label))
        counts[classes[id_]] += 1
    G.train()
    sums, counts = all_reduce_sum(sums).tolist(), all_reduce_sum(counts).tolist()
    return [floor_to_tenth(s / n) if n else 0.0 for s, n in zip(sums, counts)]


def floor_to_tenth(value: float) -> float:
    """0.69 -> 0.6. The offset keeps 0.7 at 0.7, although 10 * 0.7 may be slightly below 7."""
    return math.floor(value * 10 + 1e-6) / 10
