"""Reads and writes label maps, which are palette PNGs."""

from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images import open_image
from datasets.voc import IGNORE_LABEL, palette
from utils.core.errors import InputError
from utils.core.files import Note, save_image

GREY_STEPS = {"L;2": 85, "L;4": 17}  # by which Pillow multiplies the values of PNGs of 2 and 4 bits


def palette_image(labels: np.ndarray) -> Image.Image:
    """Convert an H x W label map to a palette image in VOC's colours; its pixel values are the labels."""
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette(palette().ravel().tolist())
    return image


def save_labels(path: str | Path, labels: np.ndarray, note: Note | None = None) -> None:
    """Write an H x W label map as a palette PNG, with an optional note, see `save_image`."""
    save_image(path, palette_image(labels), note)


def read_label(
    path: str | Path, num_classes: int, size: tuple[int, int] | None = None, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """Read a label map as H x W uint8: the values of a grey image, the colours of VOC's colour map in any other.

    Colours count, because programs that reduce a palette renumber the values. A palette of other colours gives the
    values.

    Args:
        path: a grey, palette or RGB image.
        num_classes, ignore_label: the only values allowed are 0..num_classes - 1 and `ignore_label`.
        size: expected (height, width), that of the image; None: any.
    """
    with open_image(path, ": the image is in the list, but has no label", ": create it again") as image:
        tiles = getattr(image, "tile", None)  # how the file stores the pixels
        step = GREY_STEPS.get(str(tiles[0][3])) if tiles else None
        labels = np.array(image, np.uint8)
        if step is not None:
            labels //= np.uint8(step)
        elif image.mode in ("P", "RGB", "RGBA"):
            labels = _by_colour(image, path, num_classes, ignore_label)
        elif image.mode not in ("1", "L"):
            raise InputError(
                f"{path} is an image of mode {image.mode}: labels must be 8-bit grey, palette or RGB images"
            )
    return validate_labels(labels, path, num_classes, size, ignore_label)


def _codes(colours: np.ndarray) -> np.ndarray:
    """... x 3 RGB -> one integer for each colour."""
    return colours @ np.array((1 << 16, 1 << 8, 1))


def _by_colour(image: Image.Image, path: str | Path, num_classes: int, ignore_label: int) -> np.ndarray:
    """The labels that the colours of an image stand for, or the values of an image with a palette of its own."""
    if image.mode == "P":
        values, colours = np.array(image), np.reshape(image.getpalette() or (), (-1, 3))
        if np.array_equal(colours, palette()[: len(colours)]):
            return values
        codes = np.full(256, -1)  # in no palette
        codes[: len(colours)] = _codes(colours)
    else:
        codes, values = np.unique(_codes(np.array(image.convert("RGB"))), return_inverse=True)
        values = values.reshape(image.height, image.width)
    labels = [*range(num_classes), ignore_label]
    known = dict(zip(_codes(palette()[labels]).tolist(), labels))
    table = np.array([known.get(code, -1) for code in codes.tolist()])
    used = np.flatnonzero(np.bincount(values.ravel()))
    other = used[table[used] < 0]
    if not len(other):
        return table[values]
    if image.mode == "P" and ((table[used] < 0) | (table[used] == used)).all():
        return values
    code = int(codes[other[0]])
    raise InputError(
        f"{path} contains the colour {(code >> 16, code >> 8 & 255, code & 255)}, which is none of VOC's for labels"
        f" 0..{num_classes - 1} and {ignore_label} (see --num-classes): create it again, with labels as values of a"
        " grey image"
    )


def validate_labels(
    labels: np.ndarray,
    path: str | Path,
    num_classes: int,
    size: tuple[int, int] | None = None,
    ignore_label: int = IGNORE_LABEL,
) -> np.ndarray:
    """Check the size and the values of the H x W label map read from `path`; returns it as uint8."""
    if size is not None and labels.shape != tuple(size):
        found, expected = ("x".join(map(str, shape[::-1])) for shape in (labels.shape, size))
        raise InputError(f"{path} is {found}, but its image is {expected} pixels (width x height)")
    wrong = (labels >= num_classes) & (labels != ignore_label) | (labels < 0)
    if wrong.any():
        raise InputError(
            f"{path} contains the label {labels[wrong][0]}: only 0..{num_classes - 1} and {ignore_label} are allowed"
            " (see --num-classes)"
        )
    return labels.astype(np.uint8, copy=False)
