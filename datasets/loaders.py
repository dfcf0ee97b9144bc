"""Data sets and data loaders of stage 1: simple, complex, gt, cls and val images."""

import copy
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets import transforms as T
from datasets.images import read_image
from datasets.labels import read_label
from datasets.lists import Entry, image_path, unique
from datasets.sampling import InfiniteBatchSampler, generator
from datasets.voc import IGNORE_LABEL
from utils.core import cli, distributed
from utils.core.device import send
from utils.core.errors import InputError

CPU = torch.device("cpu")
SHARED_MEMORY = Path("/dev/shm")
ENOUGH_FILES = 256  # that a process may open
ENOUGH = 1 << 30  # bytes; training has up to 8 batches of 4 MB for each of its worker processes there


@dataclass(frozen=True)
class DataConfig:
    """Locations of images and labels, and how they are augmented."""

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
                f"{self.num_classes} classes do not work with the ignore label {self.ignore_label}: at most 255"
                " classes are possible, and the ignore label must lie between their number and 255 (--num-classes,"
                " --ignore-label; stage 2: DATASET.N_CLASSES, DATASET.IGNORE_LABEL)"
            )


class ImageDataset(Dataset):
    """The images of a list. Subclasses define `__getitem__`."""

    purpose = ""  # seeds the random draws
    needs_label = False
    origin = ""  # hint: where missing labels can be obtained

    def __init__(self, entries: Sequence[Entry], config: DataConfig) -> None:
        self.entries, self.config = list(entries), config

    def __len__(self) -> int:
        return len(self.entries)

    def image_path(self, entry: Entry) -> Path:
        return image_path(self.config.image_dir, entry.id)

    def label_path(self, entry: Entry) -> Path:
        assert self.config.label_dir is not None
        return self.config.label_dir / f"{entry.id}.png"

    def read(self, entry: Entry) -> T.Pair:
        """The image and, if `needs_label`, its label."""
        image = read_image(self.image_path(entry))
        if not self.needs_label:
            return image, None
        labels = self.config.num_classes, image.shape[:2], self.config.ignore_label
        return image, read_label(self.label_path(entry), *labels)

    def files(self) -> dict[str, list[Path]]:
        """The files that the items are read from: images and, if `needs_label`, labels, for `require_files`."""
        files = {"image": list(map(self.image_path, self.entries))}
        if self.needs_label:
            files["label"] = list(map(self.label_path, self.entries))
        return files


class ComplexDataset(ImageDataset):
    """Complex images: 4 x H x W uint8, see `transforms.to_input`; with labels, also H x W uint8 and 0-based class."""

    purpose = "complex"

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        position, index = key
        entry, config = self.entries[index], self.config
        rng = generator(config.seed, self.purpose, position)
        image, label = self.rescaled(*self.read(entry), rng)
        image, label = T.random_crop(image, label, config.crop, rng)
        image, label = T.pad(T.mark_inside(image), label, config.crop, config.ignore_label)
        if config.random_mirror:
            image, label = T.random_mirror(image, label, rng)
        planes = T.to_planes(image)
        return (planes,) if label is None else (planes, np.ascontiguousarray(label), entry.classes[0])

    def rescaled(self, image: np.ndarray, label: np.ndarray | None, rng: np.random.Generator) -> T.Pair:
        """Resize by a random factor if `random_scale` is set."""
        return T.scale(image, label, T.random_scale_factor(rng)) if self.config.random_scale else (image, label)


class SimpleDataset(ComplexDataset):
    """Simple images and their pseudo labels."""

    purpose = "simple"
    needs_label = True
    origin = (
        ": create the pseudo labels with gen_sal2gt.py, whose --list-dir also writes lists of the images that have"
        " one, or use the published labels (--pseudo-label-dir)"
    )


class GTDataset(SimpleDataset):
    """Simple images for the discriminator, never padded.

    The random factor is drawn again, up to nine times, until the image covers the crop; if it never does, the image
    is stretched.
    """

    purpose = "gt"

    def rescaled(self, image: np.ndarray, label: np.ndarray | None, rng: np.random.Generator) -> T.Pair:
        for _ in range(10 if self.config.random_scale else 1):
            scaled = super().rescaled(image, label, rng)
            if all(n >= s for n, s in zip(scaled[0].shape[:2], self.config.crop)):
                return scaled
        return T.resize(image, label, self.config.crop)


class ClsDataset(ImageDataset):
    """Training images resized to the crop: 4 x H x W uint8; their classes: multi-hot, num_classes - 1 float32."""

    purpose = "cls"

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        entry = self.entries[key[1]]
        image, _ = T.resize(*self.read(entry), self.config.crop)
        classes = np.zeros(self.config.num_classes - 1, np.float32)
        classes[list(entry.classes)] = 1
        return T.to_planes(T.mark_inside(image)), classes


class EvalDataset(ImageDataset):
    """Whole images, each once: ID, 1 x 3 x H x W float32 and, with `labels`, H x W uint8."""

    align_corners = True  # of the resizing of their logits

    def __init__(self, entries: Sequence[Entry], config: DataConfig, labels: bool = True) -> None:
        super().__init__(unique(entries), config)
        self.needs_label = labels

    def part(self, k: int, n: int) -> "EvalDataset":
        """A copy with every n-th image, starting with the k-th."""
        other = copy.copy(self)
        other.entries = self.entries[k::n]
        return other

    def __getitem__(self, index: int) -> tuple:
        entry = self.entries[index]
        image, label = self.read(entry)
        item = entry.id, self.to_network(image)[None]
        return item if label is None else (*item, label)

    def to_network(self, image: np.ndarray) -> np.ndarray:
        """Convert H x W x 3 uint8 BGR to the network's input, 3 x H x W float32."""
        return T.to_network(image)


def train_loader(
    images: ImageDataset, batch_size: int, num_workers: int, device: torch.device = CPU, start: int = 0
) -> Iterator[list[Tensor]]:
    """Batches of training images without end, from batch `start` on: the part of this process, on the device."""
    part = distributed.rank(), distributed.world_size()
    sampler = InfiniteBatchSampler(len(images), batch_size, images.config.seed, images.purpose, start, part)
    yield from _load(num_workers, device, _stack, dataset=images, batch_sampler=sampler)


def eval_loader(images: ImageDataset, num_workers: int, device: torch.device = CPU) -> Iterator[list]:
    """The items of a data set in order, on the device, one by one without a batch dimension added."""
    return _load(num_workers, device, list, dataset=images, batch_size=None)


def _init_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one thread per worker process
    # Signals sent to the process group must reach the main process only, which then stops its workers.
    os.setpgrp()


def _stack(items: Sequence[tuple]) -> list[np.ndarray]:
    return [np.stack(values) for values in zip(*items)]


def _load(num_workers: int, device: torch.device, to_arrays: Callable, **options: Any) -> Iterator[list]:
    """What a DataLoader yields, on the device.

    Workers pass tensors through shared memory and a file descriptor each. Where there is little of either, as in a
    container, they pass the arrays that `to_arrays` makes of their items through a pipe, which takes a few
    milliseconds a batch.
    """
    little_memory = SHARED_MEMORY.exists() and shutil.disk_usage(SHARED_MEMORY).free < ENOUGH
    if little_memory or resource.getrlimit(resource.RLIMIT_NOFILE)[0] < ENOUGH_FILES:
        options["collate_fn"] = to_arrays
    workers = min(num_workers, cli.CORES)  # torch warns about more
    pin = device.type == "cuda"
    loader = DataLoader(num_workers=workers, worker_init_fn=_init_worker, pin_memory=pin, **options)
    return ([v if isinstance(v, str) else send(torch.as_tensor(v), device) for v in values] for values in loader)
