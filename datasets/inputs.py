"""Finds and reads the input images of prediction, of any common format and mode."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from utils.core.errors import InputError
from utils.core.files import error_reason

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
SUFFIXES = (*JPEG_SUFFIXES, ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
# No other formats: Pillow passes some to external programs (EPS to Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")


class Source(NamedTuple):
    """An image file and the name of its results, a relative path without suffix."""

    path: Path
    name: str


def find_inputs(given: Sequence[Path], out: Path) -> tuple[list[Source], int]:
    """Find images among the given files and, recursively, in the given directories.

    Hidden files and directories are skipped, and so is `out`. A result has the name of its image without the suffix,
    or, for an image found in a directory, its path relative to that directory. Names that clash keep their suffix; if
    they still clash, all names become paths relative to the common parent directory.

    Returns:
        The images, each once, and the number of other files in the directories.

    Raises:
        InputError: a path does not exist, there is no image, or a result would overwrite an image.
    """
    found: dict[str, tuple[Path, Path]] = {}  # absolute path -> path, path for the name
    others = set()
    for path in given:
        if path.is_dir():
            if path.resolve() == out.resolve():
                raise InputError(f"--out {out} is the directory of the images: choose another one")
            for file in _files(path, out):
                if file.suffix.lower() in SUFFIXES:
                    found.setdefault(os.path.abspath(file), (file, file.relative_to(path)))
                else:
                    others.add(os.path.abspath(file))
        elif path.is_file():
            found.setdefault(os.path.abspath(path), (path, Path(path.name)))
        else:
            raise InputError(f"{path} is no file or directory" if path.exists() else f"{path} not found")
    if not found:
        raise InputError(f"{given[0]} contains no image ({' '.join(e[1:] for e in SUFFIXES)})")
    names = _names([short for _, short in found.values()], list(found))
    sources = [Source(path, name) for (path, _), name in zip(found.values(), names)]
    for source in sources:
        for result in (out / f"{source.name}.png", out / f"{source.name}_overlay.jpg"):
            if os.path.abspath(result) in found:
                raise InputError(
                    f"--out {out}: {result} is one of the input images: choose another directory"
                )
    return sources, len(others)


def _files(directory: Path, out: Path) -> Iterator[Path]:
    """The files below a directory in sorted order, without hidden files and without `out`."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be searched: {error.strerror}")

    excluded = out.resolve()
    for parent, folders, files in os.walk(directory, onerror=refuse):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if Path(parent, name).resolve() != excluded]
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _names(short: list[Path], absolute: list[str]) -> list[str]:
    """Unique names of the results: short paths if they suffice, else paths relative to the common parent."""
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    long = [Path(path).relative_to(common) for path in absolute]
    for paths in (short, long):
        stems = [path.with_suffix("") if path.suffix.lower() in SUFFIXES else path for path in paths]
        times = Counter(stems)
        names = [stem if times[stem] == 1 else path for stem, path in zip(stems, paths)]
        if len(set(names)) == len(names):
            return [name.as_posix() for name in names]
    return [path.as_posix() for path in long]


def read_input(path: Path, max_side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Read the first frame of an image as it is meant to be seen: rotated by its EXIF orientation, on white.

    Args:
        path: an image of any mode.
        max_side: larger images are downscaled until the longer side has this many pixels.

    Returns:
        H x W x 3 uint8 BGR, and the (width, height) before downscaling.

    Raises:
        InputError: the file is no image, is damaged, or exceeds Pillow's limit for decompression bombs.
    """
    if not path.is_file():  # reading a pipe would block
        raise InputError(f"{path} is no regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about size and minor damage: whatever can be shown is used
            with Image.open(path, formats=FORMATS) as image:
                return _read(image, max_side)
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(f"{path} has more than {limit} pixels: make it smaller first") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} cannot be read as an image") from None
    except Exception as error:  # decoders raise any exception on a damaged file
        raise InputError(f"{path} cannot be read as an image ({error_reason(error)})") from None


def _read(image: Image.Image, max_side: int) -> tuple[np.ndarray, tuple[int, int]]:
    width, height = image.size
    factor = min(1, max_side / max(width, height))
    fitted = max(1, round(width * factor)), max(1, round(height * factor))
    image.draft(None, fitted)  # a large JPEG is decoded at a half, a quarter or an eighth
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF data do not make the image unusable
        orientation = None
    image = _to_8_bit(image)
    if image.size != fitted:
        image = image.resize(fitted, Image.Resampling.BILINEAR, reducing_gap=2)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if orientation:
        image.getexif()[ExifTags.Base.Orientation] = orientation  # the conversions above can drop it
        ImageOps.exif_transpose(image, in_place=True)
    size = (height, width) if orientation in (5, 6, 7, 8) else (width, height)
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1]), size


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
