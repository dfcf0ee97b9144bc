"""Splits the training images into simple and complex ones, and writes image lists."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from datasets.labels import read_label
from datasets.lists import Entry, read_lines
from datasets.voc import IGNORE_LABEL
from utils.core.files import atomic_write


def has_foreground(path: Path, num_classes: int, ignore_label: int = IGNORE_LABEL) -> bool:
    """Whether a pseudo label exists and has a foreground pixel.

    Raises:
        InputError: the file is not a label map of `num_classes` labels.
    """
    if not path.exists():
        return False
    labels = read_label(path, num_classes, ignore_label=ignore_label)
    return bool(((labels != 0) & (labels != ignore_label)).any())


def write_list(path: Path, entries: Sequence[Entry], overwrite: bool) -> None:
    """Write `ID c [c ...]` lines and print what was done.

    A file with the same entries is left unchanged, an empty one is replaced. One with other entries is replaced only
    with `overwrite`; without it, `NAME.new.txt` is written beside it.
    """
    # In a locale that lacks a character of an ID, read_list escapes its bytes.
    lines = [" ".join(map(str, (e.id, *e.classes))).encode(errors="surrogateescape") for e in entries]
    # The published lists have spaces at the ends of lines.
    existing = None
    if path.exists():
        existing = [" ".join(line.split()).encode() for _, line in read_lines(path, "")]
    if existing == lines:
        print(f"{path}: {len(entries):,} images, unchanged")
        return
    action = "written"
    if existing and not overwrite:
        action = f"written, because {path} has other contents: use this list, or --overwrite to replace that one"
        path = path.with_suffix(".new.txt")
    with atomic_write(path) as file:
        file.writelines(line + b"\n" for line in lines)
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

    Raises:
        InputError: the pseudo label of a one-class image cannot be read.
    """
    parts: dict[str, list[Entry]] = {"simple": [], "complex": []}
    with tqdm(entries, desc="simple or complex", unit="img") as bar:
        for entry in bar:
            path = label_dir / f"{entry.id}.png"
            simple = len(set(entry.classes)) == 1 and has_foreground(path, num_classes, ignore_label)
            parts["simple" if simple else "complex"].append(entry)
    for name, part in parts.items():
        write_list(list_dir / f"{name}_list.txt", part, overwrite)
    return parts["simple"], parts["complex"]
