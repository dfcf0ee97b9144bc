"""Finds the input images of prediction."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.images import SUFFIXES
from datasets.lists import without_suffix
from utils.core.errors import InputError


def find_inputs(given: Sequence[Path], out: Path) -> tuple[dict[str, Path], int]:
    """Find images among the given files and, recursively, in the given directories.

    Hidden files and directories are skipped, and so is `out`. A result has the name of its image without the suffix,
    or, for an image found in a directory, its path relative to that directory. Names that clash keep their suffix; if
    they still clash, all names become paths relative to the common parent directory.

    Returns:
        The images, each once, by the names of their results; the number of other files in the directories.
    """
    found: dict[str, tuple[Path, str]] = {}  # absolute path -> path, path for the name
    others = set()
    for path in given:
        if path.is_dir():
            if path.resolve() == out.resolve():
                raise InputError(f"--out {out} is the directory of the images: choose another one")
            for file in _files(path, out):
                if file.suffix.lower() in SUFFIXES:
                    found.setdefault(os.path.abspath(file), (file, file.relative_to(path).as_posix()))
                else:
                    others.add(os.path.abspath(file))
        elif path.is_file():
            found.setdefault(os.path.abspath(path), (path, path.name))
        else:
            raise InputError(f"{path} is no file or directory" if path.exists() else f"{path} not found")
    if not found:
        raise InputError(f"{given[0]} contains no image ({' '.join(e[1:] for e in SUFFIXES)})")
    names = _names([short for _, short in found.values()], list(found))
    for name in names:
        for result in (out / f"{name}.png", out / f"{name}_overlay.jpg"):
            if os.path.abspath(result) in found:
                raise InputError(f"--out {out}: {result} is one of the input images: choose another directory")
    return {name: path for (path, _), name in zip(found.values(), names)}, len(others)


def _files(directory: Path, out: Path) -> Iterator[Path]:
    """The files below a directory in sorted order, without hidden files and without `out`."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be searched: {error.strerror}")

    seen = {out.resolve(), directory.resolve()}  # a symbolic link may lead back to a folder
    for parent, folders, files in os.walk(directory, onerror=refuse, followlinks=True):
        for name in sorted(folders):
            target = Path(parent, name).resolve()
            if name.startswith(".") or target in seen:
                folders.remove(name)
            seen.add(target)
        folders.sort()
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _names(short: list[str], absolute: list[str]) -> list[str]:
    """Unique names of the results: short paths if they suffice, else paths relative to the common parent."""
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    long = [Path(path).relative_to(common).as_posix() for path in absolute]
    for paths in (short, long):
        stems = [without_suffix(path) for path in paths]
        times = Counter(stems)
        names = [stem if times[stem] == 1 else path for stem, path in zip(stems, paths)]
        if len(set(names)) == len(names):
            return names
    return long
