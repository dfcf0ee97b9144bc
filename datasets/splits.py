"""Splits the training images into simple and complex ones, and writes image lists."""

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


def write_list(path: Path, entries: Sequence[Entry]) -> None:
    """Write `ID c [c ...]` lines, unless the file already has them, and print what was done."""
    text = "".join(" ".join(map(str, (entry.id, *entry.classes))) + "\n" for entry in entries)
    unchanged = path.exists() and path.read_bytes() == text.encode()
    if not unchanged:
        with atomic_write(path) as file:
            file.write(text.encode())
    print(f"{path}: {len(entries):,} images, {'unchanged' if unchanged else 'written'}")


def write_split(
    list_dir: Path,
    entries: Iterable[Entry],
    label_dir: Path,
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
) -> tuple[list[Entry], list[Entry]]:
    """Write simple_list.txt and complex_list.txt as defined by `split`; returns both lists."""
    simple, complex_ = split(entries, label_dir, num_classes, ignore_label)
    write_list(list_dir / "simple_list.txt", simple)
    write_list(list_dir / "complex_list.txt", complex_)
    return simple, complex_
