"""Transforms of an image and its label. Random transforms take a generator.

Images are H x W x 3 arrays in BGR order, labels H x W uint8 arrays. A label may be None.
"""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

MEAN_BGR = np.array((104.00698793, 116.66876762, 122.67891434), np.float32)

Pair = tuple[np.ndarray, np.ndarray | None]


def random_scale_factor(rng: np.random.Generator) -> float:
    """A random factor out of 0.5, 0.6, ..., 1.6."""
    return 0.5 + int(rng.integers(12)) / 10


def scale(image: np.ndarray, label: np.ndarray | None, factor: float) -> Pair:
    """Resize by a factor, a uint8 image bilinearly and the label to the nearest neighbour."""
    return resize(image, label, None, factor)


def resize(image: np.ndarray, label: np.ndarray | None, size: tuple[int, int] | None, factor: float = 0) -> Pair:
    """Resize to (H, W), ignoring the aspect ratio; None: by a factor."""
    width_height = size and size[::-1]
    image = cv2.resize(image, width_height, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    if label is not None:
        label = cv2.resize(label, width_height, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    return image, label


def pad(
    image: np.ndarray,
    label: np.ndarray | None,
    size: tuple[int, int],
    ignore_label: int,
    fill: Sequence[float] = (0, 0, 0),
) -> Pair:
    """Pad bottom and right to at least (H, W), the image with `fill` (BGR), the label with `ignore_label`."""
    bottom, right = (max(0, s - n) for s, n in zip(size, image.shape[:2]))
    if bottom or right:
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=fill)
        if label is not None:
            label = cv2.copyMakeBorder(label, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=ignore_label)
    return image, label


def random_crop(image: np.ndarray, label: np.ndarray | None, size: tuple[int, int], rng: np.random.Generator) -> Pair:
    """Crop to a random window of (H, W); a side shorter than that is kept whole."""
    top, left = (int(rng.integers(max(n - s, 0) + 1)) for s, n in zip(size, image.shape[:2]))
    window = slice(top, top + size[0]), slice(left, left + size[1])
    return image[window], None if label is None else label[window]


def random_mirror(image: np.ndarray, label: np.ndarray | None, rng: np.random.Generator) -> Pair:
    """Flip left to right with probability 1/2."""
    if rng.integers(2):
        image, label = image[:, ::-1], None if label is None else label[:, ::-1]
    return image, label


def to_network(image: np.ndarray) -> np.ndarray:
    """Convert H x W x 3 uint8 BGR to the network's input, 3 x H x W float32: RGB with the mean subtracted."""
    planes = np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)).astype(np.float32)
    planes -= MEAN_BGR[::-1, None, None]
    return planes


def mark_inside(image: np.ndarray) -> np.ndarray:
    """H x W x 3 uint8 -> H x W x 4: with a channel of ones, so that padding can be told from black."""
    return cv2.merge([*cv2.split(image), np.ones(image.shape[:2], np.uint8)])


def to_planes(image: np.ndarray) -> np.ndarray:
    """Convert H x W x 4 BGR and inside to contiguous 4 x H x W RGB and inside."""
    return image.transpose(2, 0, 1)[[2, 1, 0, 3]]


def to_input(planes: Tensor) -> Tensor:
    """B x 4 x H x W uint8 -> the network's input, B x 3 x H x W: RGB with the mean subtracted, 0 in the padding.

    Transferring bytes to a device and converting them there is faster than transferring the input.
    """
    mean = _mean_rgb(torch.get_default_dtype(), planes.device)
    return (planes[:, :3] - mean).masked_fill_(planes[:, 3:] == 0, 0)


@functools.cache
def _mean_rgb(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(MEAN_BGR[::-1].copy()).to(device, dtype)[:, None, None]
