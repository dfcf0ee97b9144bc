"""Data sets of stage 2.

Unlike in stage 1, images stay BGR, are scaled as float32 and padded with the mean, which is subtracted last, in
float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets import transforms as T
from datasets.loaders import DataConfig, EvalDataset, ImageDataset
from datasets.sampling import generator


@dataclass(frozen=True)
class Stage2Config(DataConfig):
    """The configuration of stage 1 plus the mean colour and the random scale factors."""

    mean_bgr: tuple[float, float, float] = (104.008, 116.669, 122.675)
    factors: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5)


def to_network(image: np.ndarray, mean_bgr: Sequence[float]) -> np.ndarray:
    """Subtract the mean: H x W x 3 float32 BGR -> 3 x H x W float32 BGR."""
    return (image.astype(np.float64) - np.array(mean_bgr)).transpose(2, 0, 1).astype(np.float32)


class PseudoLabelDataset(ImageDataset):
    """Training images and their pseudo labels: 3 x H x W float32, H x W uint8."""

    purpose = "stage 2"
    needs_label = True
    origin = (
        ": generate the pseudo labels with gen_label.py, gen_label_crf.py and gen_label_mining.py, or remove the"
        " images from DATASET.SPLIT.TRAIN"
    )
    config: Stage2Config

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        position, index = key
        config = self.config
        rng = generator(config.seed, self.purpose, position)
        image, label = self.read(self.entries[index])
        factor = config.factors[int(rng.integers(len(config.factors)))]
        height, width = (int(side * factor) for side in image.shape[:2])
        image, label = T.resize(image.astype(np.float32), label, (height, width))
        image, label = T.pad(image, label, config.crop, config.ignore_label, fill=config.mean_bgr)
        image, label = T.random_crop(image, label, config.crop, rng)
        image, label = T.random_mirror(image, label, rng)
        return to_network(image, config.mean_bgr), np.ascontiguousarray(label)


class EvalDatasetBGR(EvalDataset):
    """Whole images for inference: ID, 1 x 3 x H x W float32 and, with `labels`, H x W uint8."""

    align_corners = False
    config: Stage2Config

    def to_network(self, image: np.ndarray) -> np.ndarray:
        return to_network(image.astype(np.float32), self.config.mean_bgr)
