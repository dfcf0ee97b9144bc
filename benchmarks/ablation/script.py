"""Running the project's scripts in this process, and locks between processes that share a folder."""

import contextlib
import fcntl
import runpy
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from utils.core.files import ROOT


def script(name: str, *options: object) -> None:
    """Run a script of the project as its command line does; if it fails, this process exits with its status."""
    with mock.patch("sys.argv", [f"{name}.py", *map(str, options)]):
        runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")


@contextlib.contextmanager
def lock(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file, which ends with the process at the latest.

    Args:
        path: an empty file, created if it does not exist.
        wait: wait for the process that holds it.

    Yields:
        Whether the lock is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
