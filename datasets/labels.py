"""Reads and writes label maps, which are palette PNGs."""

from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images import open_image
from datasets.voc import IGNORE_LABEL, palette
from utils.core.errors import InputError
from utils.core.files import save_image

TAG_KEY = "mdba"  # of the PNG text chunk


def palette_image(labels: np.ndarray) -> Image.Image:
    """Convert an H x W label map to a palette image in VOC's colours; its pixel values are the labels."""
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette(palette().ravel().tolist())
    return image


def save_labels(path: str | Path, labels: np.ndarray, tag: str | None = None) -> None:
    """Write an H x W label map as a palette PNG, with an optional text that `read_tag` returns."""
    image = palette_image(labels)
    if tag is not None:
        image.info[TAG_KEY] = tag
    save_image(path, image)


def read_tag(path: str | Path) -> str | None:
    """The tag of a label map; None if the file does not exist, is damaged or has no tag."""
    try:
        with Image.open(path) as image:
            return image.info.get(TAG_KEY)
    except (OSError, SyntaxError):
        return None


def read_label(
    path: str | Path, num_classes: int, size: tuple[int, int] | None = None, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """Read a label map as H x W uint8.

    Args:
        path: a PNG of mode L or P.
        num_classes: number of labels, background included.
        size: expected (height, width), that of the image; None: any.
        ignore_label: the only value allowed outside 0..num_classes - 1.

    Raises:
        InputError: the file is missing or damaged, or its mode, size or values are wrong.
    """
    hints = ": the image is in the list, but has no label", ": create it again"
    with open_image(path, *hints) as image:
        mode, label = image.mode, np.array(image)
    if mode not in ("L", "P"):
        raise InputError(
            f"{path} is an image of mode {mode}: labels must be 8-bit grey or palette (mode L or P)"
        )
    return validate_labels(label, path, num_classes, size, ignore_label, " (see --num-classes)")


def validate_labels(
    labels: np.ndarray,
    path: str | Path,
    num_classes: int,
    size: tuple[int, int] | None = None,
    ignore_label: int = IGNORE_LABEL,
    hint: str = "",
) -> np.ndarray:
    """Check the size and the values of the label map in `path`; returns it as uint8.

    Args:
        labels: H x W integers.
        size, num_classes, ignore_label: as in `read_label`.
        hint: ends the message about a wrong value.

    Raises:
        InputError: it has another size, or a value that is no label.
    """
    if size is not None and labels.shape != tuple(size):
        found, expected = ("x".join(map(str, shape[::-1])) for shape in (labels.shape, size))
        raise InputError(f"{path} is {found}, but its image is {expected} pixels (width x height)")
    wrong = (labels < 0) | (labels >= num_classes) & (labels != ignore_label)
    if wrong.any():
        raise InputError(
            f"{path} contains the label {labels[wrong][0]}: only 0..{num_classes - 1} and {ignore_label} are allowed"
            f"{hint}"
        )
    return labels.astype(np.uint8)
