"""Atomic writing and checked reading of files, and the guard that keeps scripts from overwriting other files."""

import contextlib
import functools
import json
import os
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from utils.core.errors import InputError, error_reason

ROOT = Path(__file__).resolve().parents[2]  # of the repository
LEFTOVER_SECONDS = 3600  # a file being written is changed more often
NOTE_BYTES = 4096  # more than a note has
NOTE_KEY = "mdba"  # of the text chunk in a PNG; begins the line behind the array in a .npy file

Note = Mapping[str, Any]  # values of JSON


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file that replaces `path` when the block succeeds; so `path` is never incomplete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    # A name of its own, since another process may be writing the same file.
    temporary = path.with_name(f".mdba-{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, mode) as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a full disk does not say where
        raise


@functools.cache
def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder, once per process."""
    for path in folder.glob(".mdba-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()


def save_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON. NaN raises ValueError, since JSON has none."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")


def save_array(path: str | os.PathLike, array: np.ndarray, note: Note | None = None) -> None:
    """Write one array as `.npy`, followed by a note, which `np.load` ignores and `read_note` reads."""
    with atomic_write(path) as file:
        np.save(file, array)
        if note:
            file.write(f"\n{NOTE_KEY} {json.dumps(note)}".encode())


def save_image(path: str | os.PathLike, image: Image.Image, note: Note | None = None) -> None:
    """Write an image as PNG, with a note that `read_note` reads, or as JPEG, depending on the suffix."""
    with atomic_write(path) as file:
        if Path(path).suffix.lower() == ".png":
            texts = PngInfo()
            if note:
                texts.add_text(NOTE_KEY, json.dumps(note))
            image.save(file, "PNG", pnginfo=texts)
        else:
            image.save(file, "JPEG", quality=92)


def read_note(path: Path) -> Note | None:
    """The note in a `.npy` or image file; None if there is none."""
    try:
        if path.suffix == ".npy":
            with open(path, "rb") as file:
                file.seek(-min(NOTE_BYTES, path.stat().st_size), os.SEEK_END)
                _, found, text = file.read().rpartition(f"\n{NOTE_KEY} ".encode())
        else:
            with Image.open(path) as image:
                found = text = image.info.get(NOTE_KEY)
        note = json.loads(text) if found else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return note if isinstance(note, dict) else None


def check_same_origin(paths: Sequence[Path]) -> None:
    """Refuse files whose notes differ, such as logits of two networks; those without a note are not compared."""
    noted = [(path, note) for path in paths if (note := read_note(path)) is not None]
    for path, note in noted:
        if note != noted[0][1]:
            raise InputError(f"{noted[0][0]} and {path} were not made in the same way: create one of them again")


def fingerprint(path: Path) -> list[int]:
    """What tells a file from a changed one: the time of its last change and its size."""
    stat = path.stat()
    return [stat.st_mtime_ns, stat.st_size]


def not_found(path: str | os.PathLike) -> str:
    """The text `PATH not found`; for a relative path, with the directory where the script is meant to run."""
    cwd, script = Path.cwd(), Path(sys.argv[0]).resolve()
    home = script.parent if script == ROOT / "step2/main.py" else ROOT
    if Path(path).is_absolute() or cwd == home or (home in cwd.parents and not (home / path).exists()):
        return f"{path} not found"
    return f"{path} not found in {cwd} (default paths are relative to {home}: run the script there)"


def read_array(path: str | os.PathLike, hint: str) -> np.ndarray:
    """Read one `.npy` file; `hint` ends the message if it is missing or damaged."""
    try:
        array = np.load(path)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive instead of one array")
        return array
    except FileNotFoundError:
        raise InputError(f"{not_found(path)}: {hint}") from None
    except OSError:
        raise  # of the system, such as a missing permission, and not of the file
    except Exception as error:  # numpy raises any exception on a damaged header
        raise InputError(f"{path} cannot be read ({error_reason(error)}): {hint}") from None


class Results:
    """The results of a script, one file per image: FOLDER/ID.png or FOLDER/ID.npy.

    Each file has a note of its kind and of what it was made from. Thus results of other settings are not taken for
    finished work, and files that the script has not written are never replaced.

    Args:
        kind: what the files are; files of another kind count as foreign.
        made_from: what the result of each image depends on, in values of JSON, by ID.
        inputs: directories that the script reads; `folder` may not be one of them.
    """

    def __init__(
        self, folder: Path, suffix: str, kind: str, made_from: Mapping[str, Note], inputs: Iterable[Path] = ()
    ) -> None:
        self.folder, self.suffix, self.kind, self.made_from = folder, suffix, kind, made_from
        if any(folder.resolve() == other.resolve() for other in inputs):
            raise InputError(f"{folder} is read by this script: choose another directory for the {kind}")

    def path(self, id_: str) -> Path:
        """The file of an image."""
        return self.folder / f"{id_}{self.suffix}"

    def note(self, id_: str) -> Note:
        """The note of an image's result, for `save_array` or `save_image`, as it is read again."""
        return json.loads(json.dumps({"kind": self.kind, **self.made_from[id_]}))

    def finished(self, overwrite: bool = True) -> set[str]:
        """The IDs of `made_from` whose results exist.

        Results made from something else are to be replaced with `overwrite`, and refused without it. Other files are
        refused in any case.
        """
        finished, other, foreign = set(), {}, []
        for id_ in self.made_from:
            path, expected = self.path(id_), self.note(id_)
            if not os.path.lexists(path):
                continue
            note = read_note(path)
            if note is None or note.get("kind", self.kind) != self.kind:
                foreign.append(path)
            elif note == expected:
                finished.add(id_)
            else:
                other[path] = [key for key, value in expected.items() if note.get(key) != value]
        if foreign:
            raise InputError(
                f"{foreign[0]} is not one of the {self.kind}, the first of {len(foreign)} such files, which are not"
                " replaced: choose another directory for the results, or delete a damaged one"
            )
        if other and not overwrite:
            path, keys = next(iter(other.items()))
            raise InputError(
                f"{path} was made with other {' and '.join(keys)}, the first of {len(other)} such files: choose"
                " another directory, or use --overwrite"
            )
        return finished
