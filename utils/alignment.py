"""Bidirectional alignment: S2C mixes simple images into complex ones, C2S aligns the outputs (section III-C)."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.voc import IGNORE_LABEL
from utils.core.device import send
from utils.core.distributed import batch_mean


class CutMix(NamedTuple):
    """The draw of one CutMix: how much is left of an image, where the box's centre lies, who is pasted."""

    lam: float
    cx: int  # centre on axis 2 of the image batch
    cy: int  # centre on axis 3
    permutation: tuple[int, ...]  # of the whole batch; after ONF, its entries below the images kept


def draw_cutmix(
    rng: np.random.Generator, batch: int, size: tuple[int, int], probability: float
) -> CutMix | None:
    """The CutMix decision of one iteration: None, or a draw for `batch` images of `size` (axis 2, axis 3)."""
    if rng.random() >= probability:
        return None
    lam = rng.beta(1, 1)
    centre = rng.integers(size[0]), rng.integers(size[1])
    return CutMix(float(lam), int(centre[0]), int(centre[1]), tuple(map(int, rng.permutation(batch))))


def cutmix_box(size: tuple[int, int], lam: float, cx: int, cy: int) -> tuple[int, int, int, int]:
    """Start on axis 2, start on axis 3, end on axis 2, end on axis 3 of the box, clipped to the image."""
    ratio = np.sqrt(1.0 - lam)
    half_x, half_y = int(size[0] * ratio) // 2, int(size[1] * ratio) // 2
    (x1, x2), (y1, y2) = (
        np.clip([cx - half_x, cx + half_x], 0, size[0]),
        np.clip([cy - half_y, cy + half_y], 0, size[1]),
    )
    return int(x1), int(y1), int(x2), int(y2)


def cutmix(images: Tensor, labels: Tensor, mix: CutMix) -> tuple[Tensor, Tensor]:
    """S2C: paste one box of a permuted batch into the batch, image and label alike.

    Args:
        images: B x 3 x H x W.
        labels: B x H x W.
        mix: a draw for at least B images.

    Returns:
        The mixed images and labels; the arguments stay as they are.
    """
    x1, y1, x2, y2 = cutmix_box(images.shape[2:], mix.lam, mix.cx, mix.cy)
    source = send(torch.tensor([p for p in mix.permutation if p < len(images)]), images.device)
    images_mix, labels_mix = images.clone(), labels.clone()
    images_mix[:, :, x1:x2, y1:y2] = images[source, :, x1:x2, y1:y2]
    labels_mix[:, x1:x2, y1:y2] = labels[source, x1:x2, y1:y2]
    return images_mix, labels_mix


def domain_loss(logits: Tensor, domain: float, ignored: Tensor | None = None) -> Tensor:
    """C2S: binary cross-entropy of D's logits toward a domain (1: label-like, 0: predicted).

    Args:
        logits: B x 1 x H x W, D's output resized to the crop.
        domain: 0 or 1.
        ignored: B x H x W booleans, pixels that do not count.

    Returns:
        One mean over all pixels of the whole batch that count, as `batch_mean` has it; 0 where none does.
    """
    loss = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain), reduction="none")[:, 0]
    if ignored is None:
        return loss.mean()
    return batch_mean(loss.masked_fill(ignored, 0).sum(), (~ignored).sum())


def one_hot(labels: Tensor, num_classes: int, ignore_label: int = IGNORE_LABEL) -> Tensor:
    """B x H x W labels -> B x num_classes x H x W floats, all zero at ignored pixels; made on the device."""
    ignored = (labels == ignore_label)[:, None]
    index = labels.long()[:, None].masked_fill(ignored, 0)
    shape = (len(labels), num_classes, *labels.shape[1:])
    maps = torch.zeros(shape, device=labels.device)
    return maps.scatter_(1, index, (~ignored).to(maps.dtype))
