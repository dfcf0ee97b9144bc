"""Multi-granularity denoising: ONF drops images whose label is wrong, PND drops pixels (paper, section III-B)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.voc import IGNORE_LABEL
from utils.core.distributed import all_reduce_sum, batch_mean

# T_class of the published run, aeroplane to tvmonitor. Measured on VOC, so valid for its 20 classes only.
VOC_IOU_THRESHOLDS = tuple(n / 10 for n in (4, 5, 5, 5, 5, 6, 6, 6, 4, 6, 0, 7, 6, 5, 6, 4, 6, 4, 5, 4))


def foreground_iou(logits: Tensor, labels: Tensor, ignore_label: int = IGNORE_LABEL) -> Tensor:
    """IoU(F_p, F_l) of the predicted and the labelled foreground of each of B images.

    Args:
        logits: B x C x H x W; F_p is where the argmax is not 0.
        labels: B x H x W; F_l is where the label is neither 0 nor ignored. Ignored pixels count in F_p.
    """
    predicted = logits.argmax(1) != 0
    labelled = (labels > 0) & (labels != ignore_label)
    intersection = (predicted & labelled).float().mean((1, 2))  # areas are fractions of the image, as is 1e-4
    union = (predicted | labelled).float().mean((1, 2))
    return intersection / (union + 1e-4)


def online_noise_filter(iou: Tensor, thresholds: Tensor) -> Tensor:
    """ONF: keep the images with IoU > T_class; if there is none, those with IoU > T_class / 2, or else all.

    "None" refers to the whole batch, over all processes.

    Args:
        iou: B foreground IoUs.
        thresholds: B values, T_class of the class of each image.
    """
    keep = iou > thresholds
    halved = iou > thresholds / 2
    some, some_halved = all_reduce_sum(torch.stack([keep.any(), halved.any()]).int()) > 0
    return torch.where(some, keep, halved | ~some_halved)


def noise_threshold(i: int, start: int, end: int, high: float, low: float) -> float | None:
    """T(i) of PND: None before iteration `start`, then linear from `high` to `low` at iteration `end`."""
    if i < start:
        return None
    return high - min(1.0, (i - start) / max(1, end - start)) * (high - low)


def noisy_pixels(loss: Tensor, labels: Tensor, threshold: float, exempt: Tensor | None = None) -> Tensor:
    """PND: true where the loss of a pixel exceeds the threshold and its label is not exempt."""
    noisy = loss > threshold
    if exempt is not None and exempt.numel():
        noisy &= ~torch.isin(labels, exempt.to(labels.dtype))
    return noisy


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    threshold: float | None = None,
    exempt: Tensor | None = None,
    ignore_label: int = IGNORE_LABEL,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy; with PND, the loss of a pixel is set to zero where it exceeds the threshold.

    Args:
        logits, labels: B x C x H x W, B x H x W integers.
        threshold: T(i); None: no PND.
        exempt: labels that PND never drops (the long-tail classes).

    Returns:
        The mean over *all* labelled pixels of the whole batch, dropped ones included (0 if no pixel is labelled), and
        the share of labelled pixels that were dropped. See `batch_mean` for several processes.
    """
    loss = F.cross_entropy(logits, labels.long(), ignore_index=ignore_label, reduction="none")
    labelled = (labels != ignore_label).sum()
    if threshold is None:
        return batch_mean(loss.sum(), labelled), loss.new_zeros(())
    noisy = noisy_pixels(loss.detach(), labels, threshold, exempt)
    return batch_mean(loss.masked_fill(noisy, 0).sum(), labelled), batch_mean(noisy.sum(), labelled)
