"""Bidirectional alignment: S2C mixes simple images into complex ones, C2S aligns the outputs (section III-C)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.voc import IGNORE_LABEL
from utils.core.distributed import batch_mean


class CutMix(NamedTuple):
    """One draw of CutMix."""

    lam: float  # lambda: the share of an image that stays, before the box is clipped
    cx: int  # centre of the box on axis 2 of the image batch
    cy: int  # centre on axis 3
    # Which image is pasted into each; after ONF, the entries below the number of kept images.
    permutation: tuple[int, ...]


def draw_cutmix(rng: np.random.Generator, batch: int, size: tuple[int, int], probability: float) -> CutMix | None:
    """With the given probability a draw for `batch` images of `size` (axis 2, axis 3), else None."""
    if rng.random() >= probability:
        return None
    lam = rng.beta(1, 1)
    centre = rng.integers(size[0]), rng.integers(size[1])
    return CutMix(float(lam), int(centre[0]), int(centre[1]), tuple(map(int, rng.permutation(batch))))


def cutmix_box(size: Sequence[int], lam: float, cx: int, cy: int) -> tuple[int, int, int, int]:
    """The box: start on axis 2, start on axis 3, end on axis 2, end on axis 3, clipped to the image."""
    ratio = np.sqrt(1.0 - lam)
    half_x, half_y = int(size[0] * ratio) // 2, int(size[1] * ratio) // 2
    x1, x2 = np.clip([cx - half_x, cx + half_x], 0, size[0])
    y1, y2 = np.clip([cy - half_y, cy + half_y], 0, size[1])
    return int(x1), int(y1), int(x2), int(y2)


def cutmix(images: Tensor, labels: Tensor, mix: CutMix) -> tuple[Tensor, Tensor]:
    """S2C: paste one box from a permutation of the batch into copies of images B x 3 x H x W and labels B x H x W.

    `mix` is a draw for at least B images.
    """
    x1, y1, x2, y2 = cutmix_box(images.shape[2:], mix.lam, mix.cx, mix.cy)
    source = torch.tensor([p for p in mix.permutation if p < len(images)])
    source = source.to(images.device, non_blocking=images.is_cuda)
    images_mix, labels_mix = images.clone(), labels.clone()
    images_mix[:, :, x1:x2, y1:y2] = images[source, :, x1:x2, y1:y2]
    labels_mix[:, x1:x2, y1:y2] = labels[source, x1:x2, y1:y2]
    return images_mix, labels_mix


def domain_loss(logits: Tensor, domain: float, ignored: Tensor | None = None) -> Tensor:
    """C2S: binary cross-entropy of the logits of D with a domain; see `batch_mean`.

    Args:
        logits: B x 1 x H x W, the output of D resized to the crop.
        domain: 1 (label map) or 0 (prediction).
        ignored: B x H x W booleans, pixels that are left out.
    """
    loss = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain), reduction="none")[:, 0]
    if ignored is None:
        return loss.mean()
    return batch_mean(loss.masked_fill(ignored, 0).sum(), (~ignored).sum())


def one_hot(labels: Tensor, num_classes: int, ignore_label: int = IGNORE_LABEL) -> Tensor:
    """B x H x W labels -> B x num_classes x H x W floats on the same device; all zero at ignored pixels."""
    ignored = (labels == ignore_label)[:, None]
    index = labels.long()[:, None].masked_fill(ignored, 0)
    maps = torch.zeros((len(labels), num_classes, *labels.shape[1:]), device=labels.device)
    return maps.scatter_(1, index, (~ignored).to(maps.dtype))
