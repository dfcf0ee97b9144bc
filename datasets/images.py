"""Reads images of any common format and mode as they are meant to be seen."""

import contextlib
import errno
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from utils.core.errors import InputError
from utils.core.files import error_reason, not_found

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
SUFFIXES = (*JPEG_SUFFIXES, ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
# No other formats: Pillow passes some to external programs (EPS to Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MIN_SIDE = 2  # of a listed image: at a scale of 0.5 or 0.75, nothing would remain of a single pixel
_T = Image.Transpose
TURNS = {  # by EXIF orientation
    2: _T.FLIP_LEFT_RIGHT,
    3: _T.ROTATE_180,
    4: _T.FLIP_TOP_BOTTOM,
    5: _T.TRANSPOSE,
    6: _T.ROTATE_270,
    7: _T.TRANSVERSE,
    8: _T.ROTATE_90,
}


@contextlib.contextmanager
def open_image(path: str | Path, if_missing: str = "", if_damaged: str = "") -> Iterator[Image.Image]:
    """Open an image with Pillow and turn its errors, in the block too, into InputError.

    Args:
        path: the file.
        if_missing, if_damaged: hints that end the error message.

    Raises:
        InputError: the file does not exist, cannot be decoded, or exceeds Pillow's limit for decompression bombs.
    """
    if not os.path.isfile(path):  # reading a pipe would block
        raise InputError(f"{path} is no regular file" if os.path.exists(path) else f"{not_found(path)}{if_missing}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about size and minor damage: whatever can be shown is used
            with Image.open(path, formats=FORMATS) as image:
                yield image
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(f"{path} has more than {limit} pixels: make it smaller first") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} cannot be read as an image{if_damaged}") from None
    except Exception as error:  # decoders raise any exception on a damaged file
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            raise
        raise InputError(f"{path} cannot be read as an image ({error_reason(error)}){if_damaged}") from None


def read_image(path: str | Path, max_side: int | None = None) -> np.ndarray:
    """Read a listed image as H x W x 3 uint8, BGR; see `read_picture`.

    Raises:
        InputError: as `read_picture`, or a side is shorter than MIN_SIDE.
    """
    image, (width, height) = read_picture(
        path,
        max_side,
        if_missing=": the image is in the list, but not in the data directory",
        if_damaged=": replace it or remove it from the list",
    )
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{path} has {width}x{height} pixels, but needs {MIN_SIDE} in each direction: remove it from the list"
        )
    return image


def read_picture(
    path: str | Path, max_side: int | None = None, if_missing: str = "", if_damaged: str = ""
) -> tuple[np.ndarray, tuple[int, int]]:
    """Read the first frame of an image as it is meant to be seen: turned by its EXIF orientation, on white.

    Args:
        path: an image of any mode.
        max_side: larger images are downscaled until the longer side has this many pixels; None: as they are.
        if_missing, if_damaged: as in `open_image`.

    Returns:
        H x W x 3 uint8 BGR, and the (width, height) before downscaling.

    Raises:
        InputError: as `open_image`.
    """
    with open_image(path, if_missing, if_damaged) as image:
        width, height = image.size
        factor = min(1, max_side / max(width, height)) if max_side else 1
        fitted = max(1, round(width * factor)), max(1, round(height * factor))
        if image.format == "JPEG" and image.size == fitted and _orientation(image) not in TURNS:
            decoded = _decode_jpeg(path)
            if decoded is not None:
                return decoded, image.size
        image.draft(None, fitted)  # a large JPEG is decoded at a half, a quarter or an eighth
        image.load()
        turn = TURNS.get(_orientation(image))  # none in a TIFF, which Pillow turns itself
        image = _to_8_bit(image)
        if image.size != fitted:
            image = image.resize(fitted, Image.Resampling.BILINEAR, reducing_gap=2)
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if image.mode != "RGB":
            image = image.convert("RGB")
        if turn is not None:
            image = image.transpose(turn)
    swapped = turn in (_T.TRANSPOSE, _T.ROTATE_270, _T.TRANSVERSE, _T.ROTATE_90)
    return cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR), (height, width) if swapped else (width, height)


def _decode_jpeg(path: str | Path) -> np.ndarray | None:
    """H x W x 3 uint8 BGR, decoded by OpenCV as for the published results, a quarter faster than by Pillow.

    None if OpenCV cannot decode the file, or if its last bytes are not those of a JPEG: OpenCV fills what is missing
    with grey, and only Pillow can tell.
    """
    content = np.fromfile(path, np.uint8)
    if content[-2:].tobytes() != b"\xff\xd9":
        return None
    return cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def _orientation(image: Image.Image) -> int:
    """The orientation in the EXIF or XMP data."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data do not make the image unusable
        return 1


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Convert to L, RGB or RGBA, the modes that can be resized smoothly."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if values.dtype.kind in "ui" and values.min() >= 0 and values.max() < 1 << 16:
            return Image.fromarray((values >> 8).astype(np.uint8))
        # The range is unknown: stretch it to 0..255.
        values = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
        least, span = values.min(), np.ptp(values)
        return Image.fromarray(((values - least) * (255 / span if span else 0)).astype(np.uint8))
    if image.mode in ("L", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def turned_unseen(path: str | Path) -> bool:
    """Whether an image is turned by its EXIF orientation, but not to another size.

    The size of a label then does not show whether it is turned as well.
    """
    with open_image(path) as image:
        orientation = _orientation(image)
        return orientation in TURNS and (orientation <= 4 or image.width == image.height)


def jpeg_warning(path: str | Path) -> str:
    """What libjpeg prints about a damaged JPEG, which it decodes all the same; empty if nothing."""
    content = np.fromfile(path, np.uint8)
    if content[:2].tobytes() != b"\xff\xd8":
        return ""
    with tempfile.TemporaryFile() as caught:
        stderr = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            cv2.imdecode(content, cv2.IMREAD_REDUCED_COLOR_8)  # through Pillow, libjpeg prints nothing
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        caught.seek(0)
        return " ".join(caught.read().decode(errors="replace").split())
