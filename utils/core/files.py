"""Atomic writing and checked reading of files."""

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

ROOT = Path(__file__).resolve().parents[2]  # of the repository


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file next to `path` and rename it to `path` when the block succeeds.

    If the process is killed, `path` keeps its old content or stays absent; it is never incomplete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A fixed name per file: the next run overwrites what a killed one left.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, mode) as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say where
        raise


def save_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON. NaN raises ValueError, since JSON has none."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")


def save_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write one array as `.npy`."""
    with atomic_write(path) as file:
        np.save(file, array)


def save_image(path: str | os.PathLike, image: Image.Image) -> None:
    """Write an image as PNG, with the strings in its `info` as text chunks, or as JPEG, depending on the suffix."""
    with atomic_write(path) as file:
        if Path(path).suffix.lower() == ".png":
            texts = PngInfo()
            for key, value in image.info.items():
                if isinstance(key, str) and isinstance(value, str):
                    texts.add_text(key, value)
            image.save(file, "PNG", pnginfo=texts)
        else:
            image.save(file, "JPEG", quality=92)


def not_found(path: str | os.PathLike) -> str:
    """The text `PATH not found`; for a relative path outside the repository, with both directories."""
    cwd = Path.cwd()
    if Path(path).is_absolute() or cwd == ROOT or (ROOT in cwd.parents and not (ROOT / path).exists()):
        return f"{path} not found"
    return f"{path} not found in {cwd} (default paths are relative to {ROOT}: run the script there)"


def error_reason(error: Exception) -> str:
    """An error's message on one line, or its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


def read_array(path: str | os.PathLike, hint: str) -> np.ndarray:
    """Read one `.npy` file.

    Raises:
        InputError: the file is missing or damaged; the message ends with `hint`.
    """
    try:
        return np.load(path)
    except FileNotFoundError:
        raise InputError(f"{not_found(path)}: {hint}") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error_reason(error)}): {hint}") from None


def claim_folder(
    folder: Path, made_by: dict, pattern: str, overwrite: bool = False, replaceable: Container[str] = ()
) -> None:
    """Record in `folder` how its files are made, so that files made differently are not taken for finished work.

    Args:
        folder: gets made_by.json.
        made_by: what the files depend on.
        pattern: glob of the files; those made differently are deleted.
        overwrite: whether any of them may be deleted.
        replaceable: stems of the files that may always be deleted, because the script makes them again.

    Raises:
        InputError: files made differently exist that may not be deleted.
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
        hint = "delete the folder or choose another one" + ("" if replaceable else ", or use --overwrite")
        raise InputError(f"{folder} contains {origin} (first {lost[0]}): {hint}")
    for path in files:
        path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):  # the process of another shard is writing the same
        save_json(note, made_by)
