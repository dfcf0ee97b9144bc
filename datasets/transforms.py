"""What happens to an image and its label between the disk and the network; randomness comes as a generator."""

import functools
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from utils.core.errors import InputError

MEAN_BGR = np.array((104.00698793, 116.66876762, 122.67891434), np.float32)

Pair = tuple[np.ndarray, np.ndarray | None]


def read_image(path: str | Path) -> np.ndarray:
    """H x W x 3 uint8, BGR."""
    if not Path(path).exists():
        raise InputError(f"{path} not found: it is in the list, but not in the data directory")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None or is_cut_short(path):
        what = "no picture that can be read" if image is None else "cut short: its end is missing"
        raise InputError(f"{path} is {what}: replace it, or take it off the list")
    return image


def is_cut_short(path: str | Path) -> bool:
    """Whether the end of a JPEG is missing, where OpenCV sees grey and says nothing."""
    with open(path, "rb") as file:
        start, length = file.read(2), file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 2))
        end = file.read()
    # Some cameras write something behind the end.
    return start == b"\xff\xd8" and end != b"\xff\xd9" and not _can_be_decoded(path, length)


@functools.cache
def _can_be_decoded(path: str | Path, _: int) -> bool:
    """What Pillow says of a file, once for each length of it."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except OSError:
        return False
    except Image.DecompressionBombError:
        pass  # of such a size Pillow says nothing
    return True


def is_turned(picture: Image.Image) -> bool:
    """Whether OpenCV shows the picture with width and height exchanged, as its EXIF data ask for."""
    exif = Image.Exif()
    try:
        exif.load(picture.info.get("exif", b""))
    except (OSError, SyntaxError, ValueError, struct.error):
        return False
    return exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)


def draw_factor(rng: np.random.Generator) -> float:
    """0.5, 0.6, ... or 1.6."""
    return 0.5 + int(rng.integers(12)) / 10


def scale(image: np.ndarray, label: np.ndarray | None, factor: float) -> Pair:
    """Both resized by a factor, the image bilinear while it is still uint8, the label to the nearest."""
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    if label is not None:
        label = cv2.resize(label, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    return image, label


def resize(image: np.ndarray, label: np.ndarray | None, size: tuple[int, int]) -> Pair:
    """Both resized to (H, W), aspect ignored."""
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    if label is not None:
        label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
    return image, label


def subtract_mean(image: np.ndarray) -> np.ndarray:
    """uint8 BGR -> float32 BGR without the mean, 0..255 scale."""
    height, width = image.shape[:2]
    # Row by row, the mean repeated along it: numpy is several times slower on an axis of three.
    rows = image.reshape(height, -1).astype(np.float32)
    rows -= np.tile(MEAN_BGR, width)
    return rows.reshape(image.shape)


def pad(
    image: np.ndarray,
    label: np.ndarray | None,
    size: tuple[int, int],
    ignore_label: int,
    fill: Sequence[float] = (0, 0, 0),
) -> Pair:
    """Pad bottom and right up to (H, W): the image with `fill` (BGR), the label with `ignore_label`."""
    bottom, right = (max(0, s - n) for s, n in zip(size, image.shape[:2]))
    if bottom or right:
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=fill)
        if label is not None:
            label = cv2.copyMakeBorder(label, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=ignore_label)
    return image, label


def random_crop(
    image: np.ndarray, label: np.ndarray | None, size: tuple[int, int], rng: np.random.Generator
) -> Pair:
    """A window of (H, W) of both; along a side that is smaller, all there is."""
    top, left = (int(rng.integers(max(n - s, 0) + 1)) for s, n in zip(size, image.shape[:2]))
    window = slice(top, top + size[0]), slice(left, left + size[1])
    return image[window], None if label is None else label[window]


def random_mirror(image: np.ndarray, label: np.ndarray | None, rng: np.random.Generator) -> Pair:
    """Both mirrored left to right, or neither."""
    if rng.integers(2):
        image, label = image[:, ::-1], None if label is None else label[:, ::-1]
    return image, label


def to_network(image: np.ndarray) -> np.ndarray:
    """H x W x 3 BGR -> 3 x H x W RGB, contiguous."""
    return np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))
