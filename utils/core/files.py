"""Files that are either whole or absent."""

import contextlib
import json
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from utils.core.errors import InputError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it to `path` once the block has ended well.

    A killed run leaves the old file or none, never half a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name for each file: what a killed run leaves there is overwritten by the next.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, mode) as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a disk that is full does not say where
        raise


def save_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON; NaN is refused, for JSON has none."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")


def save_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write one array as `.npy`."""
    with atomic_write(path) as file:
        np.save(file, array)


def save_image(path: str | os.PathLike, image: Image.Image) -> None:
    """Write a picture as PNG, with the texts of its `info`, or as JPEG, by the ending of `path`."""
    with atomic_write(path) as file:
        if Path(path).suffix.lower() == ".png":
            texts = PngInfo()
            for key, value in image.info.items():
                if isinstance(value, str):
                    texts.add_text(key, value)
            image.save(file, "PNG", pnginfo=texts)
        else:
            image.save(file, "JPEG", quality=92)


def read_array(path: str | os.PathLike, hint: str) -> np.ndarray:
    """Read one `.npy`; InputError, with the mend, where it is missing or damaged."""
    try:
        return np.load(path)
    except FileNotFoundError:
        raise InputError(f"{path} not found: {hint}") from None
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}): {hint}") from None


def claim_folder(
    folder: Path, made_by: dict, pattern: str, overwrite: bool = False, replaceable: Container[str] = ()
) -> None:
    """Note in `folder` what makes its files; what was made otherwise must not pass for finished work.

    Args:
        pattern: of the files that the note is about; those made otherwise are deleted.
        overwrite: whether that was asked for.
        replaceable: stems of files that may be deleted unasked, for the script makes them again.

    Raises:
        InputError: the folder holds other files that were made otherwise, and they are not to be overwritten.
    """
    note = folder / "made_by.json"
    try:
        earlier = json.loads(note.read_text())
    except (OSError, ValueError):
        earlier = {}
    if earlier == made_by:
        return
    files = list(folder.glob(pattern))
    lost = sorted(path.name for path in files if path.stem not in replaceable)
    if lost and not overwrite:
        changed = " and ".join(key for key in made_by if earlier.get(key) != made_by[key])
        origin = f"files made with other {changed}" if earlier else "files of another program"
        raise InputError(
            f"{folder} holds {origin} (first {lost[0]}): delete the folder or name another"
            f"{'' if replaceable else ', or give --overwrite'}"
        )
    for path in files:
        path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):  # a process of another shard has just written the same
        save_json(note, made_by)
