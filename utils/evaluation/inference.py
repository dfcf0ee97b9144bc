"""Multi-scale inference, shared by validation, evaluation and label generation."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.core.device import send


@torch.no_grad()
def multi_scale_logits(network: nn.Module, image: Tensor, scales: Sequence[float] = (1.0, 0.75)) -> Tensor:
    """Element-wise maximum of the logits at several scales, at the first scale's resolution.

    Args:
        network: maps images to logits, in eval mode.
        image: 1 x 3 x H x W.
        scales: factors by which the input is resized; all logits are resized to those of the first.

    Returns:
        1 x C x ~H/8 x ~W/8.
    """
    # With scale_factor instead of size, as published: the input is sampled at steps of exactly 1 / factor.
    logits = [
        network(image if factor == 1 else F.interpolate(image, scale_factor=factor, mode="bilinear"))
        for factor in scales
    ]
    size = logits[0].shape[2:]
    resized = (F.interpolate(other, size=size, mode="bilinear") for other in logits[1:])
    return functools.reduce(torch.maximum, resized, logits[0])


def full_size(logits: Tensor, size: Sequence[int], align_corners: bool = True) -> Tensor:
    """Resize 1 x C x h x w logits to the (height, width) of the image; stage 2 uses align_corners=False."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=align_corners)


def infer(
    network: nn.Module,
    loader: Iterable,
    device: torch.device,
    scales: Sequence[float] = (1.0, 0.75),
    align_corners: bool = True,
) -> Iterator[tuple[str, Tensor, Tensor, Any]]:
    """Predict the labels of whole images, (ID, image) or (ID, image, label), with a network in eval mode.

    Yields:
        ID, logits 1 x C x h x w, prediction H x W (uint8) and true label H x W or None; tensors on `device`.
    """
    for id_, image, *label in loader:
        logits = multi_scale_logits(network, send(image, device), scales)
        prediction = full_size(logits, image.shape[2:], align_corners).argmax(1)[0].to(torch.uint8)
        yield id_, logits, prediction, send(label[0], device) if label else None
