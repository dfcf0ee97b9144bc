"""The multi-scale loss of stage 2."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from utils.denoising import segmentation_loss


def msc_loss(logits: list[Tensor], labels: Tensor, ignore_label: int) -> tuple[Tensor, list[Tensor]]:
    """Sum of the cross-entropies of the outputs of MSC in training mode, B x C x h x w each, and its parts.

    The labels, B x H x W, are resized to the size of each output.
    """
    parts = [
        segmentation_loss(out, resize_labels(labels, out.shape[2:]), ignore_label=ignore_label)[0] for out in logits
    ]
    return torch.stack(parts).sum(), parts


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Resize B x H x W labels to `size` (h, w) by nearest neighbour, with the rounding of PIL; returns int64."""
    rows, columns = (nearest(*sides, labels.device) for sides in zip(labels.shape[1:], size))
    return labels[:, rows][:, :, columns].long()


@functools.lru_cache(maxsize=64)
def nearest(source: int, target: int, device: torch.device) -> Tensor:
    """Source index of each of `target` pixels. As in PIL, the step and its rounding errors accumulate."""
    step = source / target
    positions = torch.tensor([step / 2] + [step] * (target - 1), dtype=torch.float64).cumsum(0)
    return positions.long().to(device)
