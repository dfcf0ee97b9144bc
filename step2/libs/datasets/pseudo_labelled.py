"""Stage 2's images: BGR, scaled as float32, padded with the mean, the mean taken off last and in float64."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from datasets import transforms as T
from datasets.loaders import DataConfig, EvalDataset, ImageDataset
from datasets.sampling import generator


@dataclass(frozen=True)
class Stage2Config(DataConfig):
    """What stage 2 has beyond stage 1."""

    mean_bgr: tuple[float, float, float] = (104.008, 116.669, 122.675)
    factors: Sequence[float] = field(default=(0.5, 0.75, 1.0, 1.25, 1.5))


def to_network(image: np.ndarray, mean_bgr: Sequence[float]) -> np.ndarray:
    """H x W x 3 float32 BGR with the mean -> 3 x H x W float32 BGR without it."""
    return (image.astype(np.float64) - np.array(mean_bgr)).transpose(2, 0, 1).astype(np.float32)


class PseudoLabelDataset(ImageDataset):
    """Training images with their pseudo labels: 3 x H x W floats, H x W uint8."""

    purpose = "stage 2"
    needs_label = True
    config: Stage2Config

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        position, index = key
        config = self.config
        rng = generator(config.seed, self.purpose, position)
        image, label = self.read(self.entries[index])
        factor = config.factors[int(rng.integers(len(config.factors)))]
        image, label = scale(image.astype(np.float32), label, factor)
        image, label = T.pad(image, label, config.crop, config.ignore_label, fill=config.mean_bgr)
        image, label = T.random_crop(image, label, config.crop, rng)
        image, label = T.random_mirror(image, label, rng)
        return to_network(image, config.mean_bgr), np.ascontiguousarray(label)


def scale(image: np.ndarray, label: np.ndarray, factor: float) -> T.Pair:
    """Both resized to sides of int(side * factor)."""
    size = tuple(int(side * factor) for side in image.shape[1::-1])
    return (
        cv2.resize(image, size, interpolation=cv2.INTER_LINEAR),
        cv2.resize(label, size, interpolation=cv2.INTER_NEAREST),
    )


class EvalDatasetBGR(EvalDataset):
    """Whole images for inference: ID, 1 x 3 x H x W floats, H x W uint8."""

    config: Stage2Config

    def to_network(self, image: np.ndarray) -> np.ndarray:
        return to_network(image.astype(np.float32), self.config.mean_bgr)
