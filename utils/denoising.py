"""Multi-granularity denoising: ONF drops images whose label is wrong, PND drops pixels (paper, section III-B)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.voc import IGNORE_LABEL
from utils.core.distributed import all_reduce_sum, batch_mean

# T_class of the published run, in VOC's order of classes; measured on VOC, so good for its 20 classes alone.
VOC_IOU_THRESHOLDS = (
    0.4, 0.5, 0.5, 0.5, 0.5, 0.6, 0.6, 0.6, 0.4, 0.6,
    0.0, 0.7, 0.6, 0.5, 0.6, 0.4, 0.6, 0.4, 0.5, 0.4,
)  # fmt: skip


def foreground_iou(logits: Tensor, labels: Tensor, ignore_label: int = IGNORE_LABEL) -> Tensor:
    """IoU of the predicted with the labelled foreground, image by image.

    Args:
        logits: B x C x H x W; a pixel is foreground where its argmax is not 0.
        labels: B x H x W; foreground where 0 < label and it is not ignored. Ignored pixels still count
            where they are predicted as foreground.

    Returns:
        B values; areas are fractions of the image, so that the 1e-4 in the denominator is one too.
    """
    predicted = logits.argmax(1) != 0
    labelled = (labels > 0) & (labels != ignore_label)
    intersection = (predicted & labelled).float().mean((1, 2))
    union = (predicted | labelled).float().mean((1, 2))
    return intersection / (union + 1e-4)


def online_noise_filter(iou: Tensor, thresholds: Tensor) -> Tensor:
    """ONF: keep the images whose IoU exceeds their class's threshold, else half of it, else all.

    Whether any does is asked of the whole batch, the other processes' images included.

    Args:
        iou: B foreground IoUs.
        thresholds: B thresholds, T_class of each image's class.

    Returns:
        B booleans, at least one of the whole batch's true, on the device: nothing waits for them here.
    """
    keep = iou > thresholds
    halved = iou > thresholds / 2
    some, some_halved = all_reduce_sum(torch.stack([keep.any(), halved.any()]).int()) > 0
    return torch.where(some, keep, halved | ~some_halved)


def noise_threshold(i: int, start: int, end: int, high: float, low: float) -> float | None:
    """T(i) of PND: none before iteration `start`, then from `high` down to `low` at iteration `end`."""
    if i < start:
        return None
    return high - min(1.0, (i - start) / max(1, end - start)) * (high - low)


def noisy_pixels(loss: Tensor, labels: Tensor, threshold: float, exempt: Tensor | None = None) -> Tensor:
    """PND's decision: true where the loss of a pixel exceeds the threshold and its label is not exempt."""
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
    """Cross-entropy, from the warm-up's end with PND: pixels whose loss exceeds the threshold count as zero.

    Args:
        logits: B x C x H x W.
        labels: B x H x W integers.
        threshold: T(i), or None for the plain mean.
        exempt: labels (values of `labels`) that are never dropped: the long-tail classes.

    Returns:
        The mean over *all* labelled pixels of the whole batch, dropped ones included (0 where none is
        labelled), and the share of labelled pixels that were dropped; both as `batch_mean` has them.
    """
    loss = F.cross_entropy(logits, labels.long(), ignore_index=ignore_label, reduction="none")
    labelled = (labels != ignore_label).sum()
    if threshold is None:
        return batch_mean(loss.sum(), labelled), loss.new_zeros(())
    noisy = noisy_pixels(loss.detach(), labels, threshold, exempt)
    return batch_mean(loss.masked_fill(noisy, 0).sum(), labelled), batch_mean(noisy.sum(), labelled)
