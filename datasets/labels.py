"""Reads and writes label maps, which are palette PNGs."""

from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images import open_image
from datasets.voc import IGNORE_LABEL, palette
from utils.core.errors import InputError
from utils.core.files import Note, save_image

HINTS = ": the image is in the list, but has no label", ": create it again"
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
    path: str | Path,
    num_classes: int,
    size: tuple[int, int] | None = None,
    ignore_label: int = IGNORE_LABEL,
    hints: tuple[str, str] = HINTS,
) -> np.ndarray:
    """Read a label map as H x W uint8: the values of a grey image, the colours of VOC's colour map in any other.

    Colours count, because programs that reduce a palette renumber the values. A palette of other colours gives the
    values.

    Args:
        path: a grey, palette or RGB image.
        num_classes: number of labels, background included.
        size: expected (height, width), that of the image; None: any.
        ignore_label: the only value allowed outside 0..num_classes - 1.
        hints: end the messages about a missing and about a damaged file.

    Raises:
        InputError: the file is missing or damaged, or its mode, size, values or colours are wrong.
    """
    with open_image(path, *hints) as image:
        tiles = getattr(image, "tile", None)  # how the file stores the pixels
        step = GREY_STEPS.get(str(tiles[0][3])) if tiles else None
        labels = np.array(image, np.uint8)
        if step is not None:
            labels //= np.uint8(step)
        elif image.mode == "P" and not has_voc_palette(image):
            labels = _renumber(labels, image, path, num_classes, ignore_label)
        elif image.mode in ("RGB", "RGBA"):
            labels = _from_colours(np.array(image.convert("RGB")), path, num_classes, ignore_label)
        elif image.mode not in ("1", "L", "P"):
            raise InputError(
                f"{path} is an image of mode {image.mode}: labels must be 8-bit grey, palette or RGB images"
            )
    return validate_labels(labels, path, num_classes, size, ignore_label)


def has_voc_palette(image: Image.Image) -> bool:
    """Whether an image has a palette, in which the values have VOC's colours."""
    if image.mode != "P":
        return False
    return palette().tobytes().startswith(bytes(image.getpalette() or ()))


def _codes(colours: np.ndarray) -> np.ndarray:
    """... x 3 uint8 RGB -> one integer for each colour."""
    return colours @ np.array((1 << 16, 1 << 8, 1))


def _labels_by_colour(num_classes: int, ignore_label: int) -> dict[int, int]:
    labels = [*range(num_classes), ignore_label]
    return dict(zip(_codes(palette()[labels]).tolist(), labels))


def _renumber(
    values: np.ndarray, image: Image.Image, path: str | Path, num_classes: int, ignore_label: int
) -> np.ndarray:
    """The labels that the colours stand for if all are VOC's, else the values, in a palette of its own.

    Raises:
        InputError: some colours are VOC's, but in another order, and some are not.
    """
    colours, known = image.getpalette() or [], _labels_by_colour(num_classes, ignore_label)
    codes = {v: int(_codes(np.array(colours[3 * v : 3 * v + 3] or (-1, -1, -1)))) for v in np.unique(values).tolist()}
    other = [value for value, code in codes.items() if code not in known]
    moved = [value for value, code in codes.items() if known.get(code, value) != value]
    if other and moved:
        raise InputError(
            f"{path} has VOC's colours in another order, and {tuple(colours[3 * other[0] :][:3])}, which is none of"
            " them (see --num-classes): create it again, with labels as values of a grey image"
        )
    table = np.arange(256, dtype=np.uint8)
    for value in moved:
        table[value] = known[codes[value]]
    return table[values]


def _from_colours(rgb: np.ndarray, path: str | Path, num_classes: int, ignore_label: int) -> np.ndarray:
    known = _labels_by_colour(num_classes, ignore_label)
    codes, inverse = np.unique(_codes(rgb), return_inverse=True)
    for code in codes.tolist():
        if code not in known:
            colour = (code >> 16, code >> 8 & 255, code & 255)
            raise InputError(f"{path} contains the colour {colour}, which is not in VOC's colour map")
    return np.array([known[code] for code in codes.tolist()], np.uint8)[inverse].reshape(rgb.shape[:2])


def validate_labels(
    labels: np.ndarray,
    path: str | Path,
    num_classes: int,
    size: tuple[int, int] | None = None,
    ignore_label: int = IGNORE_LABEL,
) -> np.ndarray:
    """Check the size and the values of the H x W label map read from `path`; returns it as uint8.

    Raises:
        InputError: it has another size, or a value that is no label.
    """
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
