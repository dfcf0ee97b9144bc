"""Pictures of any format and mode that a user names: found and read."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from utils.core.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
# No others: Pillow hands some formats to programs outside (EPS to Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_Turn = Image.Transpose
TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT, 3: _Turn.ROTATE_180, 4: _Turn.FLIP_TOP_BOTTOM, 5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270, 7: _Turn.TRANSVERSE, 8: _Turn.ROTATE_90,
}  # fmt: skip


class Source(NamedTuple):
    """A picture, and the name of its results: relative, with `/` between folders."""

    path: Path
    name: str


def find_pictures(given: Sequence[Path], out: Path) -> tuple[list[Source], int]:
    """The pictures among files and in folders, each once, and the number of other files in the folders.

    Hidden files and folders are skipped, and so is `out`. A result is named as its picture without the ending, a
    picture of a folder by its path in there. Those that clash keep their ending; if that does not tell them apart,
    all are named by their paths in the folder that holds all of them.

    Raises:
        InputError: a path is missing, there is no picture, or a result would take the place of a picture.
    """
    found: dict[str, tuple[Path, Path]] = {}
    others = set()
    for path in given:
        if os.path.isdir(path):
            if os.path.realpath(path) == os.path.realpath(out):
                raise InputError(f"--out {out} is the folder of the pictures: name another for the results")
            for file in _files(path, out):
                if file.suffix.lower() in ENDINGS:
                    found.setdefault(os.path.abspath(file), (file, file.relative_to(path)))
                else:
                    others.add(os.path.abspath(file))
        elif os.path.isfile(path):
            found.setdefault(os.path.abspath(path), (path, Path(path.name)))
        else:
            raise InputError(f"{path} is no file or folder" if path.exists() else f"{path} not found")
    if not found:
        raise InputError(f"{given[0]} holds no picture ({' '.join(e[1:] for e in ENDINGS)})")
    names = _names([short for _, short in found.values()], list(found))
    sources = [Source(path, name) for (path, _), name in zip(found.values(), names)]
    for source in sources:
        for result in (out / f"{source.name}.png", out / f"{source.name}_overlay.jpg"):
            if os.path.abspath(result) in found:
                raise InputError(f"--out {out}: {result} is itself one of the pictures: name another folder")
    return sources, len(others)


def _files(folder: Path, out: Path) -> Iterator[Path]:
    """The files below a folder that are not hidden, in order; `out` is left out."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be searched: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and os.path.realpath(os.path.join(parent, name)) != os.path.realpath(out)
        )
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _names(short: list[Path], absolute: list[str]) -> list[str]:
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    long = [Path(path).relative_to(common) for path in absolute]
    for paths in (short, long):
        plain = [path.with_suffix("") if path.suffix.lower() in ENDINGS else path for path in paths]
        times = Counter(plain)
        names = [bare if times[bare] == 1 else path for bare, path in zip(plain, paths)]
        if len(set(names)) == len(names):
            return [name.as_posix() for name in names]
    return [path.as_posix() for path in long]


def read_picture(path: Path, max_side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The first frame of a picture of any mode as a person sees it: turned as its EXIF says, on white.

    Args:
        path: the picture.
        max_side: a larger one is scaled down until its longer side has this many pixels.

    Returns:
        H x W x 3 uint8 BGR, and the (width, height) of the picture before it was scaled.

    Raises:
        InputError: it is no picture, damaged, or so large that Pillow takes it for an attack.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"{path} is no file that can be read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size and of small faults: what can be shown is taken
            with Image.open(path, formats=FORMATS) as picture:
                return _read(picture, max_side)
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(f"{path} has more than {most} pixels, too many: make it smaller first") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is no picture that can be read") from None
    except Exception as error:  # what the decoders raise for damaged files is a wide field
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is no picture that can be read ({reason})") from None


def _read(picture: Image.Image, max_side: int) -> tuple[np.ndarray, tuple[int, int]]:
    size = picture.size
    factor = min(1, max_side / max(size))
    fitted = tuple(max(1, round(side * factor)) for side in size)
    picture.draft(None, fitted)  # a large JPEG is decoded at a half, a quarter or an eighth
    picture.load()
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF leaves a picture that can be seen
        orientation = None
    picture = _smooth_mode(picture)
    if picture.size != fitted:
        picture = picture.resize(fitted, Image.Resampling.BILINEAR, reducing_gap=2)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    if orientation in TURNS:
        picture = picture.transpose(TURNS[orientation])
        size = size[::-1] if orientation >= 5 else size
    return np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]), size


def _smooth_mode(picture: Image.Image) -> Image.Image:
    """The picture in a mode of 8 bits in which it can be scaled: L, RGB or RGBA."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture)
        if values.dtype.kind in "ui" and values.min() >= 0 and values.max() < 1 << 16:
            return Image.fromarray((values >> 8).astype(np.uint8))
        values = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)  # no known range: stretched
        least, span = values.min(), np.ptp(values)
        return Image.fromarray(((values - least) * (255 / span if span else 0)).astype(np.uint8))
    if picture.mode in ("L", "RGB", "RGBA") and "transparency" not in picture.info:
        return picture
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
