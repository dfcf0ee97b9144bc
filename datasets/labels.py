"""Label files: palette PNGs, read and written."""

from pathlib import Path

import numpy as np
from PIL import Image

from datasets.voc import palette
from utils.core.errors import InputError
from utils.core.files import save_image


def palette_image(labels: np.ndarray) -> Image.Image:
    """H x W uint8 labels as a palette picture in VOC's colours; reading it gives the labels back."""
    picture = Image.fromarray(labels.astype(np.uint8), "P")
    picture.putpalette(palette().ravel().tolist())
    return picture


def save_labels(path: str | Path, labels: np.ndarray, tag: str | None = None) -> None:
    """Write H x W labels as a palette PNG; `tag` goes into it as text, for `read_tag`."""
    picture = palette_image(labels)
    if tag is not None:
        picture.info["mdba"] = tag
    save_image(path, picture)


def read_tag(path: str | Path) -> str | None:
    """The tag of a label PNG; None where there is no such file, or no tag in it."""
    try:
        with Image.open(path) as picture:
            return picture.info.get("mdba")
    except (OSError, SyntaxError):
        return None


def read_label(
    path: str | Path, num_classes: int, size: tuple[int, int] | None = None, ignore_label: int = 255
) -> np.ndarray:
    """H x W uint8, values below `num_classes` or `ignore_label`; `size` (H, W) is its image's, if known."""
    try:
        with Image.open(path) as picture:
            mode, label = picture.mode, np.array(picture)
    except FileNotFoundError:
        raise InputError(f"{path} not found: the image is in the list, but has no label") from None
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} is no picture that can be read ({error}): make it again") from None
    if mode not in ("L", "P"):
        raise InputError(f"{path} is a {mode} picture: a label needs 8 bits of grey or palette (mode L or P)")
    if size is not None and label.shape != tuple(size):
        raise InputError(
            f"{path} is {_size(label.shape)}, but its image is {_size(size)} pixels (width x height)"
        )
    wrong = (label >= num_classes) & (label != ignore_label)
    if wrong.any():
        raise InputError(
            f"{path} holds the label {label[wrong][0]}: only 0..{num_classes - 1} and {ignore_label} are allowed"
            " (see --num-classes)"
        )
    return label


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
