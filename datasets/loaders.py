"""The loaders of stage 1: simple, complex, gt, cls and val images, as the published run sees them."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from datasets import transforms as T
from datasets.labels import read_label
from datasets.lists import Entry, image_path, unique
from datasets.sampling import Stream, generator
from datasets.voc import IGNORE_LABEL
from utils.core.errors import InputError, hide_lost_connections


@dataclass(frozen=True)
class DataConfig:
    """Where images and labels lie, and what is done to them."""

    image_dir: Path
    label_dir: Path | None = None
    crop: tuple[int, int] = (321, 321)  # height, width
    random_scale: bool = False
    random_mirror: bool = False
    num_classes: int = 21
    ignore_label: int = IGNORE_LABEL
    seed: int = 1234

    def __post_init__(self) -> None:
        if self.num_classes > 255 or not self.num_classes <= self.ignore_label <= 255:
            raise InputError(
                f"{self.num_classes} classes and the ignored label {self.ignore_label} do not go together: labels are"
                " 0..254, and the ignored one lies above them, at 255 at most (--num-classes, --ignore-label; in"
                " stage 2 DATASET.N_CLASSES, DATASET.IGNORE_LABEL)"
            )


class ImageDataset(Dataset):
    """The images of a list; a subclass says what one of them becomes."""

    purpose = ""
    needs_label = False
    origin = ""  # where missing files may come from

    def __init__(self, entries: Sequence[Entry], config: DataConfig) -> None:
        self.entries, self.config = list(entries), config

    def __len__(self) -> int:
        return len(self.entries)

    def part(self, k: int, n: int) -> "ImageDataset":
        """Every n-th image, from the k-th on."""
        other = copy.copy(self)
        other.entries = self.entries[k::n]
        return other

    def image_path(self, entry: Entry) -> Path:
        return image_path(self.config.image_dir, entry.id)

    def label_path(self, entry: Entry) -> Path:
        return self.config.label_dir / f"{entry.id}.png"

    def read(self, entry: Entry) -> T.Pair:
        """The image and, where this loader needs one, its label."""
        image = T.read_image(self.image_path(entry))
        if not self.needs_label:
            return image, None
        config = self.config
        path = self.label_path(entry)
        return image, read_label(path, config.num_classes, image.shape[:2], config.ignore_label)

    def to_network(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR -> 3 x H x W floats as this stage's network wants them."""
        return T.to_network(T.subtract_mean(image))

    def files(self) -> list[Path]:
        """Every file that the items are read from."""
        paths = [self.image_path(entry) for entry in self.entries]
        return paths + [self.label_path(entry) for entry in self.entries] if self.needs_label else paths


class ComplexDataset(ImageDataset):
    """Complex images: 3 x H x W floats."""

    purpose = "complex"

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        position, index = key
        entry = self.entries[index]
        rng = generator(self.config.seed, self.purpose, position)
        image, label = self.cropped(*self.sized(*self.read(entry), rng), rng)
        if self.config.random_mirror:
            image, label = T.random_mirror(image, label, rng)
        return self.finish(entry, image, label)

    def sized(self, image: np.ndarray, label: np.ndarray | None, rng: np.random.Generator) -> T.Pair:
        """Both scaled, where that is asked for."""
        return T.scale(image, label, T.draw_factor(rng)) if self.config.random_scale else (image, label)

    def cropped(self, image: np.ndarray, label: np.ndarray | None, rng: np.random.Generator) -> T.Pair:
        """A crop of floats less the mean, padded where the image is smaller."""
        # Cropped before it becomes floats: the same numbers for less work.
        image, label = T.random_crop(image, label, self.config.crop, rng)
        return T.pad(T.subtract_mean(image), label, self.config.crop, self.config.ignore_label)

    def finish(self, entry: Entry, image: np.ndarray, label: np.ndarray | None) -> tuple:
        return (T.to_network(image),)


class SimpleDataset(ComplexDataset):
    """Simple images with their pseudo labels: 3 x H x W floats, H x W uint8, the 0-based class."""

    purpose = "simple"
    needs_label = True
    origin = " (saliency labels: the published code's sal2gt, or make your own with gen_sal2gt.py)"

    def finish(self, entry: Entry, image: np.ndarray, label: np.ndarray | None) -> tuple:
        return T.to_network(image), np.ascontiguousarray(label), entry.classes[0]


class GTDataset(SimpleDataset):
    """Simple images for the discriminator, without padding: an image smaller than the crop is stretched."""

    purpose = "gt"
    REDRAWS: ClassVar[int] = 10

    def sized(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> T.Pair:
        scaled = image, label
        for _ in range(self.REDRAWS if self.config.random_scale else 0):
            scaled = T.scale(image, label, T.draw_factor(rng))
            if self._covers_crop(scaled[0]):
                break
        return scaled if self._covers_crop(scaled[0]) else T.resize(image, label, self.config.crop)

    def _covers_crop(self, image: np.ndarray) -> bool:
        return all(n >= s for n, s in zip(image.shape[:2], self.config.crop))


class ClsDataset(ImageDataset):
    """Training images stretched to the crop: 3 x H x W floats, (num_classes - 1) floats of 0 and 1."""

    purpose = "cls"

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        entry = self.entries[key[1]]
        image, _ = T.resize(*self.read(entry), self.config.crop)
        classes = np.zeros(self.config.num_classes - 1, np.float32)
        classes[list(entry.classes)] = 1
        return self.to_network(image), classes


class EvalDataset(ImageDataset):
    """Whole images for inference, each once: ID, 1 x 3 x H x W floats; with labels, H x W uint8 behind."""

    def __init__(self, entries: Sequence[Entry], config: DataConfig, labels: bool = True) -> None:
        super().__init__(unique(entries), config)
        self.needs_label = labels

    def __getitem__(self, index: int) -> tuple:
        entry = self.entries[index]
        image, label = self.read(entry)
        item = entry.id, self.to_network(image)[None]
        return item if label is None else (*item, label)


def _init_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the processes are the parallelism
    # Signals to the training's group are for the training, which ends its iteration first and its workers then.
    os.setpgrp()
    hide_lost_connections()


def train_loader(
    dataset: ImageDataset,
    batch_size: int,
    num_workers: int,
    start: int = 0,
    pin: bool = False,
    part: tuple[int, int] = (0, 1),
) -> DataLoader:
    """Endless batches of one kind of training image, from batch number `start` on; arguments as Stream's."""
    stream = Stream(len(dataset), batch_size, dataset.config.seed, dataset.purpose, start, part)
    return DataLoader(
        dataset,
        batch_sampler=stream,
        num_workers=num_workers,
        worker_init_fn=_init_worker,
        pin_memory=pin,
        persistent_workers=num_workers > 0,
    )


def eval_loader(dataset: EvalDataset, num_workers: int, pin: bool = False) -> DataLoader:
    """The images of a list one by one and in order, each in its own size."""
    return DataLoader(
        dataset, batch_size=None, num_workers=num_workers, worker_init_fn=_init_worker, pin_memory=pin
    )
