"""Image lists: text files with one image per line, `ID` or `ID c [c ...]`.

The classes are 0-based and do not count the background.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import not_found

LIST_HINT = (
    "write one `ID c [c ...]` per line; prepare_voc.py creates the lists of VOC, gen_sal2gt.py --list-dir splits your"
    " own list"
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


class Entry(NamedTuple):
    """One line of a list: image ID and 0-based classes."""

    id: str
    classes: tuple[int, ...] = ()


def read_list(path: str | Path, num_classes: int, labelled: bool = True) -> list[Entry]:
    """Read an image list.

    Args:
        path: the list.
        num_classes: number of labels, background included; classes must be below num_classes - 1.
        labelled: whether every line must have at least one class; otherwise classes are optional.

    Raises:
        InputError: the list is missing, empty or not text, or a line has no class or one out of range.
    """
    entries = []
    for number, line in _lines(path, LIST_HINT):
        id_, *words = line.split()
        try:
            classes = tuple(int(word) for word in words)
        except ValueError:
            raise InputError(
                f"{path}, line {number}: classes must be integers, and an ID has no spaces: write `ID c [c ...]`, not"
                f" {line!r}"
            ) from None
        if labelled and not classes:
            raise InputError(f"{path}, line {number}: {id_} has no class; write `ID c [c ...]`")
        for c in classes:
            if not 0 <= c < num_classes - 1:
                raise InputError(
                    f"{path}, line {number}: class {c} is out of range 0..{num_classes - 2}"
                    " (0-based, without background; see --num-classes; an ID has no spaces)"
                )
        entries.append(Entry(_file_name(id_), classes))
    return entries


def _file_name(id_: str) -> str:
    """The ID as Python represents it in file names, where the locale's encoding lacks some of its characters."""
    try:
        os.fsencode(id_)
    except UnicodeEncodeError:  # such as `é` in an ASCII locale: its UTF-8 bytes, escaped
        return os.fsdecode(id_.encode())
    return id_


def unique(entries: Iterable[Entry]) -> list[Entry]:
    """The first entry of each image, so that nothing is scored or written twice."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.setdefault(entry.id, entry)
    return list(found.values())


def image_path(image_dir: Path, id_: str) -> Path:
    """The path of an image: the first of `SUFFIXES` for which a file exists, ID.jpg if none does."""
    paths = [image_dir / f"{id_}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if path.exists()), paths[0])


def read_class_names(path: str | Path | None, num_classes: int) -> list[str]:
    """Names of all labels, background first.

    Args:
        path: a file with one name per line, background omitted; None: VOC's names for 21 classes, else
            `class 0`, `class 1`, ...
        num_classes: number of labels, background included.

    Raises:
        InputError: the file is missing, or has another number of names.
    """
    if path is not None:
        names = [line for _, line in _lines(path, "write one class name per line, background omitted")]
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


def _lines(path: str | Path, hint: str) -> list[tuple[int, str]]:
    """The non-blank lines of a file with their 1-based numbers; InputError, ending with the hint, if none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{not_found(path)}: {hint}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as text ({error}): save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read as text ({error.strerror or error})") from None
    # Byte order marks: some editors write them, and `cat` leaves them in the middle.
    text = text.replace("\ufeff", "")
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty: {hint}")
    return lines
