"""Two-scale inference: what validation, evaluation and label generation share."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.core.device import send
from utils.core.files import save_array


@torch.no_grad()
def multi_scale_logits(network: nn.Module, image: Tensor, scales: Sequence[float] = (1.0, 0.75)) -> Tensor:
    """Element-wise maximum of the logits at several scales, at the first scale's resolution.

    Args:
        network: images -> logits, in eval mode.
        image: 1 x 3 x H x W.
        scales: factors of the input; the others' logits are resized to the first one's.

    Returns:
        1 x C x ~H/8 x ~W/8.
    """
    best = None
    for factor in scales:
        # By scale_factor and not by size: the published numbers sample at exactly 1 / factor.
        scaled = image if factor == 1 else F.interpolate(image, scale_factor=factor, mode="bilinear")
        logits = network(scaled)
        if best is None:
            best = logits
        else:
            best = torch.maximum(best, F.interpolate(logits, size=best.shape[2:], mode="bilinear"))
    return best


def full_size(logits: Tensor, size: Sequence[int], align_corners: bool = True) -> Tensor:
    """1 x C x h x w logits resized to the image; stage 2 has align_corners=False."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=align_corners)


def infer(
    network: nn.Module,
    loader: Iterable,
    device: torch.device,
    scales: Sequence[float] = (1.0, 0.75),
    align_corners: bool = True,
) -> Iterator[tuple[str, Tensor, Tensor, Tensor | None]]:
    """Run whole images through the network, which is in eval mode.

    Yields:
        ID, logits 1 x C x h x w, the full-size argmax H x W (uint8), and the true label H x W where the
        loader has one; tensors on `device`.
    """
    for id_, image, *label in loader:
        logits = multi_scale_logits(network, send(image, device), scales)
        prediction = full_size(logits, image.shape[2:], align_corners).argmax(1)[0].to(torch.uint8)
        yield id_, logits, prediction, send(label[0], device) if label else None


def save_logits(path: Path, logits: Tensor) -> None:
    """Write 1 x C x h x w logits as C x h x w float32, which is what the CRF reads."""
    save_array(path, logits[0].float().cpu().numpy())
