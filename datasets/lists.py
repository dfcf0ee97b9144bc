"""Image lists: one image a line, `ID` or `ID c [c ...]` with 0-based classes, background not among them."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError

LIST_HINT = (
    "write `ID c [c ...]` a line; prepare_voc.py makes the lists of VOC, gen_sal2gt.py --list-dir splits a list of"
    " your own"
)


class Entry(NamedTuple):
    """One line of a list."""

    id: str
    classes: tuple[int, ...] = ()


def read_list(path: str | Path, num_classes: int, labelled: bool = True) -> list[Entry]:
    """Read a list.

    Args:
        path: the list.
        num_classes: number of labels, background included; a class is below num_classes - 1.
        labelled: every line must name at least one class; else classes are read where they stand.

    Raises:
        InputError: the list is missing, empty or not text; a line has no class, or one out of range.
    """
    lines = _lines(path, LIST_HINT)
    entries = []
    for number, line in lines:
        id_, *words = line.split()
        try:
            classes = tuple(int(word) for word in words)
        except ValueError:
            raise InputError(f"{path}, line {number}: classes must be whole numbers, not {line!r}") from None
        if labelled and not classes:
            raise InputError(f"{path}, line {number}: {id_} has no class; write `ID c [c ...]`")
        for c in classes:
            if not 0 <= c < num_classes - 1:
                raise InputError(
                    f"{path}, line {number}: class {c} is out of range 0..{num_classes - 2}"
                    " (0-based, without background; see --num-classes)"
                )
        entries.append(Entry(id_, classes))
    return entries


def unique(entries: Iterable[Entry]) -> list[Entry]:
    """Each image once: what is scored or written for one of them is so once, though a list names it twice."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.setdefault(entry.id, entry)
    return list(found.values())


def image_path(image_dir: Path, id_: str) -> Path:
    """Where the picture of an ID lies: ID.jpg, or another ending if only that is there."""
    jpg = image_dir / f"{id_}.jpg"
    if jpg.exists():
        return jpg
    others = (image_dir / f"{id_}{ending}" for ending in (".jpeg", ".png", ".JPG", ".JPEG", ".PNG"))
    return next((path for path in others if path.exists()), jpg)


def read_class_names(path: str | Path | None, num_classes: int) -> list[str]:
    """Names of all labels, background first: from a file (one a line, without background), VOC's, or numbers."""
    if path is not None:
        names = [line for _, line in _lines(path, "write a class name a line, background left out")]
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
    """The lines that are not blank, with their numbers counted from 1; errors end with the mend."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} not found: {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from None
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty: {hint}")
    return lines
