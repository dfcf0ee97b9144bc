"""Which training images are simple and which complex, and the writing of lists."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from datasets.labels import read_label
from datasets.lists import Entry
from datasets.voc import IGNORE_LABEL
from utils.core.files import atomic_write


def has_foreground(path: str | Path, num_classes: int, ignore_label: int = IGNORE_LABEL) -> bool:
    """Whether there is a pseudo label that shows any class.

    Raises:
        InputError: there is a file, but it is no label map of `num_classes` labels.
    """
    if not Path(path).exists():
        return False
    labels = read_label(path, num_classes, ignore_label=ignore_label)
    return bool(((labels != 0) & (labels != ignore_label)).any())


def split(
    entries: Iterable[Entry], label_dir: Path, num_classes: int, ignore_label: int = IGNORE_LABEL
) -> tuple[list[Entry], list[Entry]]:
    """The simple images, which have exactly one class and a pseudo label with foreground, and all others.

    Args:
        entries: the training images with their classes.
        label_dir: folder of the pseudo labels, ID.png.

    Raises:
        InputError: the pseudo label of a one-class image cannot be read.
    """
    simple, complex_ = [], []
    with tqdm(entries, desc="simple or complex", unit="img") as bar:
        for entry in bar:
            path = label_dir / f"{entry.id}.png"
            one = len(set(entry.classes)) == 1 and has_foreground(path, num_classes, ignore_label)
            (simple if one else complex_).append(entry)
    return simple, complex_


def write_list(path: Path, entries: Sequence[Entry]) -> None:
    """Write `ID c [c ...]` a line, unless the list is there already; say which."""
    text = "".join(" ".join(map(str, (entry.id, *entry.classes))) + "\n" for entry in entries)
    same = path.exists() and path.read_bytes() == text.encode()
    if not same:
        with atomic_write(path) as file:
            file.write(text.encode())
    print(f"{path}: {len(entries):,} images, {'unchanged' if same else 'written'}")


def write_split(
    list_dir: Path,
    entries: Iterable[Entry],
    label_dir: Path,
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
) -> tuple[list[Entry], list[Entry]]:
    """Write simple_list.txt and complex_list.txt by the rule of `split`, and return the two."""
    simple, complex_ = split(entries, label_dir, num_classes, ignore_label)
    write_list(list_dir / "simple_list.txt", simple)
    write_list(list_dir / "complex_list.txt", complex_)
    return simple, complex_
