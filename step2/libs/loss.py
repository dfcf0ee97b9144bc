"""Stage 2's loss: a cross-entropy at every scale and one of the scales' maximum."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from utils.denoising import segmentation_loss


def msc_loss(logits: list[Tensor], labels: Tensor, ignore_label: int) -> tuple[Tensor, list[Tensor]]:
    """Sum of the cross-entropies at every scale and of their maximum, and its parts.

    Args:
        logits: as MSC returns them in training, B x C x h x w each.
        labels: B x H x W, resized to each of them, to the nearest as PIL does it.
    """
    parts = [
        segmentation_loss(out, resize_labels(labels, out.shape[2:]), ignore_label=ignore_label)[0]
        for out in logits
    ]
    return torch.stack(parts).sum(), parts


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """B x H x W labels resized to (h, w), to the nearest as PIL does it; int64."""
    rows, columns = (nearest(*sides, labels.device) for sides in zip(labels.shape[1:], size))
    return labels[:, rows][:, :, columns].long()


@functools.lru_cache(maxsize=64)
def nearest(source: int, target: int, device: torch.device) -> Tensor:
    """Where each of `target` pixels finds its own among `source`: PIL adds up the step, rounding errors included."""
    step = source / target
    places = torch.tensor([step / 2] + [step] * (target - 1), dtype=torch.float64).cumsum(0)
    return places.long().to(device)
