"""Reads images of any common format and mode as they are meant to be seen."""

import contextlib
import errno
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from utils.core.errors import InputError, error_reason
from utils.core.files import not_found

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
SUFFIXES = (*JPEG_SUFFIXES, ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
# No other formats: Pillow passes some to external programs (EPS to Ghostscript).
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"]
if "avif" in features.modules and features.check("avif"):  # from Pillow 11.3 on
    FORMATS.append("AVIF")
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}

_stderr = threading.Lock()


@contextlib.contextmanager
def open_image(path: str | Path, if_missing: str = "", if_damaged: str = "") -> Iterator[Image.Image]:
    """Open an image with Pillow and turn its errors, in the block too, into InputError.

    `if_missing` and `if_damaged` are hints that end the error message.
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
    """Read a listed image, of at least 2 x 2 pixels, as H x W x 3 uint8, BGR; see `read_picture`."""
    if_missing = ": the image is in the list, but not in the data directory"
    image, size = read_picture(path, max_side, if_missing, if_damaged=": replace it or remove it from the list")
    if min(size) < 2:  # at a scale of 0.5 or 0.75, nothing would remain
        pixels = "x".join(map(str, size))
        raise InputError(f"{path} has {pixels} pixels, but needs 2 in each direction: remove it from the list")
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
    """
    with open_image(path, if_missing, if_damaged) as image:
        size = width, height = image.size
        factor = min(1, max_side / max(size)) if max_side else 1
        fitted = max(1, round(width * factor)), max(1, round(height * factor))
        pixels = None
        if image.format in ("JPEG", "MPO"):
            pixels = _decode_jpeg(path, min(width // fitted[0], height // fitted[1]))
        if pixels is None:
            image.draft(None, fitted)  # a large JPEG is decoded at a half, a quarter or an eighth
            image.load()
            pixels = _on_white(_resize(_to_8_bit(image), fitted))
        elif pixels.shape[1::-1] != fitted:
            pixels = np.asarray(_resize(Image.fromarray(pixels), fitted))
        orientation = _orientation(image)  # 1 for a loaded TIFF, which Pillow turns itself
    return _turn(pixels, orientation), size[::-1] if orientation > 4 else size


def read_size(path: str | Path, if_missing: str = "") -> tuple[tuple[int, int], int]:
    """The (width, height) of an image as it is meant to be seen, and its EXIF orientation, 1 (stored so) to 8."""
    with open_image(path, if_missing) as image:
        orientation = _orientation(image)
        stored_upright = orientation <= 4 or image.format == "TIFF"
        return image.size if stored_upright else image.size[::-1], orientation


def _decode_jpeg(path: str | Path, reduction: int) -> np.ndarray | None:
    """Decode a JPEG by OpenCV, as for the published results, and print libjpeg's warnings with the name of the file.

    The sides are divided by 8, 4 or 2, if that is not more than `reduction`.

    Returns:
        H x W x 3 uint8 BGR. None if OpenCV cannot decode the file, or if its last bytes are not those of a JPEG:
        OpenCV fills what is missing with grey, and only Pillow can tell.
    """
    content = np.fromfile(path, np.uint8)
    flags = next((flag for step, flag in REDUCED.items() if step <= reduction), cv2.IMREAD_COLOR)
    pixels, printed = _imdecode(content, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is not None and printed:
        print(f"warning: {path}: {printed}", file=sys.stderr)
    return pixels if content[-2:].tobytes() == b"\xff\xd9" else None


def _imdecode(content: np.ndarray, flags: int) -> tuple[np.ndarray | None, str]:
    """Decode with OpenCV, and catch what libjpeg prints on the stderr of the process."""
    with _stderr:
        try:
            stderr = os.dup(2)
        except OSError:  # closed
            return cv2.imdecode(content, flags), ""
        reader, writer = os.pipe()
        for end in (reader, writer):
            os.set_blocking(end, False)
        os.dup2(writer, 2)
        os.close(writer)
        try:
            pixels = cv2.imdecode(content, flags)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            with open(reader, "rb", buffering=0) as caught:
                printed = caught.read() or b""
    return pixels, " ".join(printed.decode(errors="replace").split())


def _orientation(image: Image.Image) -> int:
    """The orientation in the EXIF or XMP data, 1 (upright) to 8."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data do not make the image unusable
        return 1
    return orientation if orientation in range(1, 9) else 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror pixels by an EXIF orientation."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)


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


def _on_white(image: Image.Image) -> np.ndarray:
    """L, RGB or RGBA -> H x W x 3 uint8 BGR."""
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
