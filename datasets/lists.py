"""Image lists: text files with one image per line, `ID` or `ID c [c ...]`, with 0-based classes of the foreground."""

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from tqdm import tqdm

from datasets.images import SUFFIXES
from datasets.labels import read_label
from datasets.voc import IGNORE_LABEL, VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import atomic_write, not_found

LIST_HINT = (
    "write one `ID c [c ...]` per line; prepare_voc.py creates the lists of VOC, gen_sal2gt.py --list-dir splits your"
    " own list"
)


class Entry(NamedTuple):
    """One line of a list: image ID and 0-based classes."""

    id: str
    classes: tuple[int, ...] = ()


def read_list(path: str | Path, num_classes: int, labelled: bool = True) -> list[Entry]:
    """Read an image list; classes must be below num_classes - 1, and are optional if not `labelled`."""
    entries, last = [], num_classes - 2
    for number, line in read_lines(path, LIST_HINT):
        id_, *words = line.split()
        classes = tuple(int(word) for word in words if word.isdecimal())
        problem = None
        if len(classes) < len(words):
            problem = "classes must be integers from 0, and an ID has no spaces"
        elif labelled and not classes:
            problem = "the image has no class"
        elif max(classes, default=0) > last:
            problem = f"a class is not in 0..{last} (without background; see --num-classes), or the ID has a space"
        elif PurePath(id_).is_absolute() or ".." in PurePath(id_).parts:
            problem = "the ID leaves the folders of images and results, and must be relative to JPEGImages"
        if problem:
            raise InputError(f"{path}, line {number}: {problem}: write `ID c [c ...]`, not {line!r}")
        entries.append(Entry(without_suffix(id_), classes))
    if not entries:
        raise InputError(f"{path} is empty: {LIST_HINT}")
    return entries


def without_suffix(name: str) -> str:
    """A file name without the suffix of an image."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def unique(entries: Iterable[Entry]) -> list[Entry]:
    """The first entry of each image, so that nothing is scored or written twice."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.setdefault(entry.id, entry)
    return list(found.values())


def image_path(image_dir: Path, id_: str) -> Path:
    """The path of an image: ID with any of SUFFIXES, in any case; ID.jpg if there is none."""
    path = image_dir / f"{id_}.jpg"
    return path if path.exists() else next(iter(images_of(image_dir, id_)), path)


def images_of(image_dir: Path, id_: str) -> list[Path]:
    """All images of an ID."""
    folder, stem = os.path.split(image_dir / id_)
    try:
        names = _image_names(folder, os.stat(folder).st_mtime_ns)[stem]
    except (OSError, KeyError):
        return []
    return [Path(folder, name) for name in names]


@functools.cache
def _image_names(folder: str, changed: int) -> dict[str, list[str]]:
    """Names of the images in a folder, by their stems. A folder that has `changed` is listed anew."""
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES:
            names.setdefault(stem, []).append(name)
    return names


def read_class_names(path: str | Path | None, num_classes: int) -> list[str]:
    """Names of all labels, background first, from a file without it.

    For None, VOC's names if there are 21, else `class 0`, `class 1`, ...
    """
    if path is not None:
        names = [line for _, line in read_lines(path, "write one class name per line, background omitted")]
        if len(names) != num_classes - 1:
            raise InputError(
                f"{path} has {len(names)} class names, but --num-classes {num_classes} (with background) needs"
                f" {num_classes - 1}"
            )
    elif num_classes == len(VOC_CLASSES) + 1:
        names = list(VOC_CLASSES)
    else:
        names = [f"class {c}" for c in range(num_classes - 1)]
    return ["background", *names]


def read_lines(path: str | Path, hint: str) -> list[tuple[int, str]]:
    """The non-blank lines of a text file with their 1-based numbers; `hint` ends the message about a missing one."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{not_found(path)}: {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text in UTF-8 ({error})") from None
    # Byte order marks: some editors write them, and `cat` leaves them in the middle.
    lines = text.replace("\ufeff", "").splitlines()
    return [(n, line.strip()) for n, line in enumerate(lines, 1) if line.strip()]


def write_list(path: Path, entries: Sequence[Entry], overwrite: bool) -> None:
    """Write `ID c [c ...]` lines and print what was done.

    A file with the same entries is left unchanged, an empty one is replaced. One with other entries is replaced only
    with `overwrite`; without it, `NAME.new.txt` is written beside it.
    """
    lines = [" ".join(map(str, (entry.id, *entry.classes))) for entry in entries]
    # The published lists have spaces at the ends of lines.
    existing = [" ".join(line.split()) for _, line in read_lines(path, "")] if path.exists() else None
    if existing == lines:
        print(f"{path}: {len(entries):,} images, unchanged")
        return
    action = "written"
    if existing and not overwrite:
        action = f"written, because {path} has other contents: use this list, or --overwrite to replace that one"
        path = path.with_suffix(".new.txt")
    with atomic_write(path) as file:
        file.writelines(f"{line}\n".encode() for line in lines)
    print(f"{path}: {len(entries):,} images, {action}")


def write_split(
    list_dir: Path,
    entries: Iterable[Entry],
    label_dir: Path,
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
    overwrite: bool = False,
) -> tuple[list[Entry], list[Entry]]:
    """Split the training images, write simple_list.txt and complex_list.txt, and return both lists.

    Simple images have exactly one class and a pseudo label with foreground; all others are complex.
    """
    simple: list[Entry] = []
    complex_: list[Entry] = []
    for entry in tqdm(entries, desc="simple or complex", unit="img"):
        path, foreground = label_dir / f"{entry.id}.png", False
        if len(set(entry.classes)) == 1 and path.exists():
            labels = read_label(path, num_classes, ignore_label=ignore_label)
            foreground = ((labels != 0) & (labels != ignore_label)).any()
        (simple if foreground else complex_).append(entry)
    write_list(list_dir / "simple_list.txt", simple, overwrite)
    write_list(list_dir / "complex_list.txt", complex_, overwrite)
    return simple, complex_
