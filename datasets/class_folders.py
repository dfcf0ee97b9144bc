"""Images sorted into one directory per class, for pre-training a trunk as a classifier."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from datasets import transforms as T
from datasets.lists import SUFFIXES, Entry
from datasets.loaders import DataConfig, ImageDataset
from datasets.sampling import generator
from utils.core.errors import InputError


class ClassFolders(NamedTuple):
    """Class names and images; the ID of an image is its path relative to `root`."""

    root: Path
    classes: list[str]
    train: list[Entry]
    val: list[Entry]

    def checksum(self) -> str:
        """Number and CRC-32 checksum of the images' paths, to notice that files were added or removed."""
        ids = "\n".join(entry.id for entry in [*self.train, *self.val])
        return f"{len(self.train)}+{len(self.val)} images, {zlib.crc32(os.fsencode(ids)):08x}"


def find_class_folders(root: Path, val_fraction: float, seed: int) -> ClassFolders:
    """Find the images of ROOT/train/CLASS and ROOT/val/CLASS or, without ROOT/train, of ROOT/CLASS.

    Subdirectories of a class are searched too. Without ROOT/val, a random `val_fraction` of each class is held out.

    Raises:
        InputError: there is no directory, fewer than two classes, a class without images, or a class that occurs in
            ROOT/val only.
    """
    if not root.is_dir():
        raise InputError(
            f"{root} is not a directory: pass a directory with one subdirectory of images per class"
        )
    folder = root
    if "train" in _subdirectories(root) and _subdirectories(root / "train"):  # otherwise a class of this name
        folder = root / "train"
    classes = _subdirectories(folder)
    if len(classes) < 2:
        found = f"only one class, {classes[0]}" if classes else "no class"
        raise InputError(
            f"{folder} contains {found}: create one subdirectory of images per class, at least two"
        )
    images = [_images(root, folder / name, c) for c, name in enumerate(classes)]
    if folder != root and (root / "val").is_dir():
        val = _val_images(root, classes)
    else:
        val = []
        for c, entries in enumerate(images):
            count = min(round(val_fraction * len(entries)), len(entries) - 1)
            held_out = {int(n) for n in generator(seed, "held out", c).permutation(len(entries))[:count]}
            val += [entry for n, entry in enumerate(entries) if n in held_out]
            images[c] = [entry for n, entry in enumerate(entries) if n not in held_out]
    return ClassFolders(root, classes, [entry for entries in images for entry in entries], val)


def _val_images(root: Path, classes: list[str]) -> list[Entry]:
    """The images of ROOT/val, whose classes must be those of training; some may be missing."""
    names = _subdirectories(root / "val")
    for name in names:
        if name not in classes:
            raise InputError(
                f"{root / 'val' / name}: {root / 'train'} has no such class: sort the images into directories named"
                f" after the classes, or pass {root / 'train'} to hold out a part of it"
            )
    return [entry for name in names for entry in _images(root, root / "val" / name, classes.index(name))]


def _subdirectories(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(root: Path, folder: Path, c: int) -> list[Entry]:
    """The images below a directory, of class c; hidden files are skipped."""
    paths = [p for p in folder.rglob("*") if p.suffix in SUFFIXES and not p.name.startswith(".")]
    if not paths:
        raise InputError(
            f"{folder} contains no image ({' '.join(SUFFIXES)}): add some or remove the directory"
        )
    return [Entry(name, (c,)) for name in sorted(path.relative_to(root).as_posix() for path in paths)]


class ClassFolderImages(ImageDataset):
    """The images of class folders. Subclasses define `__getitem__`: 3 x H x W float32, 0-based class."""

    def image_path(self, entry: Entry) -> Path:
        return self.config.image_dir / entry.id


class ClassFolderEvalDataset(ClassFolderImages):
    """The centre of each image, as large as possible, resized to the crop."""

    def __getitem__(self, index: int) -> tuple:
        entry = self.entries[index]
        image, _ = self.read(entry)
        height, width = window_size(image, self.config.crop)
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        image = resize(image[top : top + height, left : left + width], self.config.crop)
        return self.to_network(image), entry.classes[0]


class ClassFolderDataset(ClassFolderImages):
    """Random windows of the images, resized to the crop, mirrored and shifted at random.

    Args:
        shift: largest shift in pixels; the mean colour fills the border.
        min_area: smallest area of a window, relative to that of the largest one.
    """

    purpose = "pretrain"

    def __init__(
        self, entries: Sequence[Entry], config: DataConfig, shift: int = 0, min_area: float = 1.0
    ) -> None:
        super().__init__(entries, config)
        self.shift, self.min_area = shift, min_area

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        position, index = key
        entry = self.entries[index]
        rng = generator(self.config.seed, self.purpose, position)
        image, _ = self.read(entry)
        area = rng.uniform(self.min_area, 1)
        image, _ = T.random_crop(image, None, window_size(image, self.config.crop, area), rng)
        image = resize(image, self.config.crop)
        if self.config.random_mirror:
            image, _ = T.random_mirror(image, None, rng)
        image = cv2.copyMakeBorder(T.subtract_mean(image), *(self.shift,) * 4, cv2.BORDER_CONSTANT)
        image, _ = T.random_crop(image, None, self.config.crop, rng)
        return T.to_network(image), entry.classes[0]


def window_size(image: np.ndarray, size: tuple[int, int], area: float = 1.0) -> tuple[int, int]:
    """(height, width) of a window of an image with the aspect ratio of `size`.

    Args:
        area: of the window, relative to that of the largest one.
    """
    factor = area**0.5 * min(n / s for n, s in zip(image.shape[:2], size))
    height, width = (max(1, round(factor * s)) for s in size)
    return height, width


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (H, W), averaging pixels if the image becomes smaller."""
    shrinks = image.shape[0] > size[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
