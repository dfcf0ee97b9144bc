"""The loss of stage 2: cross-entropy at each scale and of the maximum over the scales."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from utils.denoising import segmentation_loss


def msc_loss(logits: list[Tensor], labels: Tensor, ignore_label: int) -> tuple[Tensor, list[Tensor]]:
    """The sum of the cross-entropies at each scale and of the maximum, and its parts.

    Args:
        logits: the output of MSC in training mode, B x C x h x w each.
        labels: B x H x W; resized to each of the logits by nearest neighbour as in PIL.
        ignore_label: label of ignored pixels.
    """
    parts = [
        segmentation_loss(out, resize_labels(labels, out.shape[2:]), ignore_label=ignore_label)[0]
        for out in logits
    ]
    return torch.stack(parts).sum(), parts


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """B x H x W labels resized to (h, w) by nearest neighbour as in PIL; int64."""
    rows, columns = (nearest(*sides, labels.device) for sides in zip(labels.shape[1:], size))
    return labels[:, rows][:, :, columns].long()


@functools.lru_cache(maxsize=64)
def nearest(source: int, target: int, device: torch.device) -> Tensor:
    """Source index of each of `target` pixels. PIL accumulates the step, and so its rounding errors."""
    step = source / target
    places = torch.tensor([step / 2] + [step] * (target - 1), dtype=torch.float64).cumsum(0)
    return places.long().to(device)
