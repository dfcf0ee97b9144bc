"""Reads image files and checks that they are complete."""

import contextlib
import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from utils.core.errors import InputError
from utils.core.files import error_reason, not_found

# First and last bytes of the formats whose truncation the last bytes show.
JPEG, PNG = (b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND\xaeB`\x82")


@contextlib.contextmanager
def open_image(path: str | Path, if_missing: str = "", if_damaged: str = "") -> Iterator[Image.Image]:
    """Open an image with Pillow and turn its errors, in the block too, into InputError.

    Args:
        path: the file.
        if_missing, if_damaged: hints that end the error message.

    Raises:
        InputError: the file does not exist or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise InputError(f"{not_found(path)}{if_missing}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an image ({error_reason(error)}){if_damaged}") from None


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as H x W x 3 uint8, BGR, rotated according to its EXIF orientation.

    Raises:
        InputError: the file does not exist, is no image, or is truncated.
    """
    if not Path(path).exists():
        raise InputError(f"{not_found(path)}: the image is in the list, but not in the data directory")
    truncated = is_truncated(path)  # before decoding, which would print a line of libjpeg or libpng
    image = None if truncated else _decode(path)
    if image is None:
        problem = "is truncated" if truncated else "cannot be read as an image"
        raise InputError(f"{path} {problem}: replace it or remove it from the list")
    return image


def _decode(path: str | Path) -> np.ndarray | None:
    """Decode with OpenCV; None if it cannot. cv2.imread crashes on file names that are not valid UTF-8."""
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or more pixels than OpenCV accepts
        return None


def image_size(path: str | Path, if_missing: str = "", if_damaged: str = "") -> tuple[int, int]:
    """(height, width) from the header, after the EXIF rotation that `read_image` applies.

    Raises:
        InputError: as `open_image`.
    """
    with open_image(path, if_missing, if_damaged) as image:
        return image.size if _swaps_sides(image) else (image.height, image.width)


def is_truncated(path: str | Path) -> bool:
    """Whether the end of a JPEG or PNG is missing. OpenCV fills that of a JPEG with grey without an error."""
    with open(path, "rb") as file:
        start, length = file.read(8), file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 8))
        end = file.read()
    suspect = any(start.startswith(first) and not end.endswith(last) for first, last in (JPEG, PNG))
    # Some cameras append data to a complete JPEG, so only a decoder can tell.
    return suspect and not _decodes(path, length)


@functools.cache
def _decodes(path: str | Path, _length: int) -> bool:
    """Whether Pillow decodes the file; cached until its length changes."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    except Image.DecompressionBombError:
        pass  # too large for Pillow to check
    return True


def _swaps_sides(image: Image.Image) -> bool:
    """Whether OpenCV swaps width and height, because the EXIF orientation is a quarter turn."""
    exif = Image.Exif()  # image.getexif() also reads XMP data, which OpenCV ignores
    try:
        exif.load(image.info.get("exif", b""))
    except (OSError, SyntaxError, ValueError, struct.error):
        return False
    return exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
