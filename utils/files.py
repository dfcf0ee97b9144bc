"""Files that are either whole or absent, and the one kind of error a user is meant to read."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image


class InputError(Exception):
    """Something the user gave is missing or wrong. The text is one line: it names the file and the mend."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; a bad input becomes one line on stderr and exit status 2, Ctrl-C status 130."""
    try:
        main()
    except InputError as error:
        # A data loader's worker wraps the error in its traceback; the message is the last line.
        message = str(error).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it to `path` once the block has ended well.

    A killed run leaves the old file or none, never half a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, mode) as file:
            yield file
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide results from the group
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
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
    """Write a picture in the format that the ending of `path` names."""
    format_name = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}[Path(path).suffix.lower()]
    with atomic_write(path) as file:
        image.save(file, format_name, **({"quality": 92} if format_name == "JPEG" else {}))
