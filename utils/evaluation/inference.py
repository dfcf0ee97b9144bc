"""Multi-scale inference, shared by validation, evaluation and label generation."""

import functools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import EvalDataset, eval_loader


@torch.no_grad()
def multi_scale_logits(network: nn.Module, image: Tensor, scales: Sequence[float] = (1.0, 0.75)) -> Tensor:
    """Element-wise maximum of the logits of an image (1 x 3 x H x W) resized by several factors.

    All logits are resized to those of the first factor, 1 x C x ~H/8 x ~W/8.
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
    network: nn.Module, images: EvalDataset, num_workers: int, device: torch.device, scales: Sequence[float]
) -> Iterator[tuple[str, Tensor, Tensor, Tensor | None]]:
    """Predict the labels of whole images with a network in eval mode on `device`.

    Yields:
        ID, logits 1 x C x h x w, prediction H x W (uint8) and true label H x W or None.
    """
    for id_, image, *label in eval_loader(images, num_workers, device):
        logits = multi_scale_logits(network, image, scales)
        prediction = full_size(logits, image.shape[2:], images.align_corners).argmax(1)[0].to(torch.uint8)
        yield id_, logits, prediction, label[0] if label else None
