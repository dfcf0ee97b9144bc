"""Splits the training images into simple and complex ones, and writes image lists."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from datasets.labels import read_label
from datasets.lists import Entry, read_lines
from datasets.voc import IGNORE_LABEL
from utils.core.files import atomic_write


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
