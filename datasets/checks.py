"""What can be wrong with a data set, found before training finds it."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.labels import read_label
from datasets.lists import Entry, image_path
from datasets.transforms import is_cut_short, is_turned
from utils.core.distributed import is_main
from utils.core.errors import InputError


class Finding(NamedTuple):
    """One kind of problem: how bad, what, how often, and where first."""

    level: str  # "error": training would go wrong; "warning": look at it
    text: str
    count: int
    first: str


def collect(level: str, text: str, where: Sequence[str]) -> Iterator[Finding]:
    """One finding of everything in `where`; none if it is empty."""
    if where:
        yield Finding(level, text, len(where), where[0])


def check_start(data_list: Path, entries: Sequence[Entry], files: Sequence[Path], hint: str = "") -> None:
    """What every script looks at before it starts: a warning about duplicates in its list, no missing file.

    Raises:
        InputError: as `require_files`.
    """
    for finding in _duplicates(data_list.name, [entry.id for entry in entries]):
        warn(str(data_list.parent), finding)
    require_files(files, hint)


def require_files(files: Sequence[Path], hint: str = "") -> None:
    """Raise InputError where a listed file does not exist: the first, and how many."""
    missing = [path for path in files if not path.exists()]
    if missing:
        raise InputError(
            f"{missing[0]} not found, the first of {len(missing)} missing files of {len(files)} listed{hint}"
        )


def warn(where: str, finding: Finding) -> None:
    """One line on stderr, from the first process."""
    if is_main():
        print(f"warning: {where}: {finding.text} ({finding.count}, first {finding.first})", file=sys.stderr)


def _duplicates(name: str, ids: Sequence[str]) -> Iterator[Finding]:
    twice = [id_ for id_, count in Counter(ids).items() if count > 1]
    return collect("warning", f"{name}: listed more than once", twice)


def check_lists(lists: Mapping[str, Sequence[Entry]], names: Sequence[str]) -> Iterator[Finding]:
    """Duplicates, overlaps and classes without images; quick, for every start of a training.

    Args:
        lists: by file name, without `.txt`; those of train_cls, simple_list, complex_list and val that there are.
        names: names of all labels, background first.
    """
    ids = {name: [entry.id for entry in entries] for name, entries in lists.items()}
    for name, listed in ids.items():
        yield from _duplicates(name, listed)
    val = set(ids.get("val", ()))
    for name in ("train_cls", "simple_list", "complex_list"):
        both = [id_ for id_ in ids.get(name, ()) if id_ in val]
        yield from collect("error", f"{name}: is in val as well, which makes its scores worthless", both)
    both = sorted(set(ids.get("simple_list", ())) & set(ids.get("complex_list", ())))
    yield from collect("error", "in simple_list and complex_list", both)
    several = [entry.id for entry in lists.get("simple_list", ()) if len(set(entry.classes)) > 1]
    yield from collect("error", "simple_list: has several classes", several)
    for name, level in (("train_cls", "warning"), ("simple_list", "error")):
        if name in lists:
            found = {c for entry in lists[name] for c in entry.classes}
            missing = [label for c, label in enumerate(names[1:]) if c not in found]
            yield from collect(level, f"{name}: class without an image", missing)


def check_images(entries: Sequence[Entry], image_dir: Path) -> Iterator[Finding]:
    """Every listed image is there and its header can be read."""
    missing, broken = [], []
    for entry in entries:
        path = image_path(image_dir, entry.id)
        if not path.exists():
            missing.append(str(path))
        elif image_size(path) is None or is_cut_short(path):
            broken.append(str(path))
    yield from collect("error", "image not found", missing)
    yield from collect("error", "image cannot be read", broken)


def check_labels(
    entries: Sequence[Entry],
    image_dir: Path,
    label_dir: Path,
    num_classes: int,
    ignore_label: int,
    simple: bool,
) -> Iterator[Finding]:
    """Every label is there, readable, of its image's size; a simple image's holds its class and no other."""
    unreadable, sizes, foreign, empty = [], [], [], []
    for entry in entries:
        path = label_dir / f"{entry.id}.png"
        try:
            label = read_label(path, num_classes, ignore_label=ignore_label)
        except InputError as error:
            unreadable.append(str(error))
            continue
        size = image_size(image_path(image_dir, entry.id))
        if size is not None and size != label.shape[::-1]:
            sizes.append(f"{path}: {label.shape[1]}x{label.shape[0]}, its image {size[0]}x{size[1]}")
        if simple:
            found = set(np.unique(label).tolist()) - {0, ignore_label}
            if found - {c + 1 for c in entry.classes}:
                foreign.append(f"{path}: labels {sorted(found)}, class {entry.classes[0]}")
            if not found:
                empty.append(str(path))
    yield from collect("error", "label missing or unusable", unreadable)
    yield from collect("error", "label of another size than its image", sizes)
    yield from collect("error", "label of another class than the image's", foreign)
    yield from collect("warning", "label without foreground", empty)


def check_not_ground_truth(
    entries: Sequence[Entry], label_dir: Path, truth_dir: Path, num_classes: int, ignore_label: int
) -> Iterator[Finding]:
    """Pseudo labels that are the ground truth, pixel by pixel: then nothing is weakly supervised."""
    same, compared = [], 0
    for entry in entries:
        ours, theirs = label_dir / f"{entry.id}.png", truth_dir / f"{entry.id}.png"
        if not (ours.exists() and theirs.exists()):
            continue
        compared += 1
        a, b = (read_label(path, num_classes, ignore_label=ignore_label) for path in (ours, theirs))
        if np.array_equal(a, b):
            same.append(str(ours))
    level = "error" if compared and len(same) > compared / 2 else "warning"
    yield from collect(level, f"pseudo label identical to the ground truth (of {compared} compared)", same)


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height from the header, turned as OpenCV turns the picture; None where there is none to read."""
    try:
        with Image.open(path) as picture:
            return picture.size[::-1] if is_turned(picture) else picture.size
    except (OSError, SyntaxError):
        return None
