"""Splits the training images into simple and complex ones, and writes image lists."""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from datasets.labels import read_label
from datasets.lists import Entry
from datasets.voc import IGNORE_LABEL
from utils.core.files import atomic_write


def has_foreground(path: str | Path, num_classes: int, ignore_label: int = IGNORE_LABEL) -> bool:
    """Whether a pseudo label exists and has a foreground pixel.

    Raises:
        InputError: the file is not a label map of `num_classes` labels.
    """
    if not Path(path).exists():
        return False
    labels = read_label(path, num_classes, ignore_label=ignore_label)
    return bool(((labels != 0) & (labels != ignore_label)).any())


def split(
    entries: Iterable[Entry], label_dir: Path, num_classes: int, ignore_label: int = IGNORE_LABEL
) -> tuple[list[Entry], list[Entry]]:
    """Split into simple images, which have exactly one class and a pseudo label with foreground, and complex ones.

    Args:
        entries: the training images with their classes.
        label_dir: directory of the pseudo labels, ID.png.

    Raises:
        InputError: the pseudo label of a one-class image cannot be read.
    """
    parts: tuple[list[Entry], list[Entry]] = [], []
    with tqdm(entries, desc="simple or complex", unit="img") as bar:
        for entry in bar:
            path = label_dir / f"{entry.id}.png"
            simple = len(set(entry.classes)) == 1 and has_foreground(path, num_classes, ignore_label)
            parts[0 if simple else 1].append(entry)
    return parts


def write_list(path: Path, entries: Sequence[Entry], overwrite: bool = False) -> None:
    """Write `ID c [c ...]` lines and print what was done.

    A file with the same entries is left unchanged, an empty one is replaced. One with other entries is replaced only
    with `overwrite`; without it, `NAME.new.txt` is written beside it.
    """
    # In a locale that lacks a character of an ID, read_list escapes its bytes.
    lines = [" ".join(map(str, (e.id, *e.classes))).encode(errors="surrogateescape") for e in entries]
    existing = _lines(path) if path.exists() else None
    if existing == lines:
        print(f"{path}: {len(entries):,} images, unchanged")
        return
    action = "written"
    if existing and not overwrite:
        action = (
            f"written, because {path} has other contents: use this list, or --overwrite to replace that one"
        )
        path = path.with_suffix(".new.txt")
    with atomic_write(path) as file:
        file.writelines(line + b"\n" for line in lines)
    print(f"{path}: {len(entries):,} images, {action}")


def _lines(path: Path) -> list[bytes]:
    """The non-blank lines of a list, with single spaces: the published lists have more at the ends of lines."""
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    return [b" ".join(line.split()) for line in content.splitlines() if line.strip()]


def write_split(
    list_dir: Path,
    entries: Iterable[Entry],
    label_dir: Path,
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
    overwrite: bool = False,
) -> tuple[list[Entry], list[Entry]]:
    """Write simple_list.txt and complex_list.txt as defined by `split`; returns both lists.

    Args:
        list_dir: directory of the lists.
        entries, label_dir, num_classes, ignore_label: as in `split`.
        overwrite: as in `write_list`.
    """
    simple, complex_ = split(entries, label_dir, num_classes, ignore_label)
    write_list(list_dir / "simple_list.txt", simple, overwrite)
    write_list(list_dir / "complex_list.txt", complex_, overwrite)
    return simple, complex_
