"""Checks of lists, images and labels, so that errors in a data set are found before training."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.images import image_size, is_truncated
from datasets.labels import read_label
from datasets.lists import Entry, image_path
from utils.core.distributed import is_main
from utils.core.errors import InputError


class Finding(NamedTuple):
    """One kind of problem."""

    level: str  # "error": training would fail or be worthless; "warning": worth a look
    text: str
    number: int  # of occurrences
    first: str  # the first occurrence


def collect(level: str, text: str, where: Sequence[str]) -> Iterator[Finding]:
    """Yield one finding for all occurrences in `where`, nothing if there are none."""
    if where:
        yield Finding(level, text, len(where), where[0])


def check_start(data_list: Path, entries: Sequence[Entry], files: Sequence[Path], hint: str = "") -> None:
    """The checks at the start of every script: warn about duplicates in the list, require its files.

    Raises:
        InputError: as `require_files`.
    """
    for finding in _duplicates(data_list.name, [entry.id for entry in entries]):
        warn(str(data_list.parent), finding)
    require_files(files, hint)


def require_files(files: Sequence[Path], hint: str = "") -> None:
    """Raise InputError if files are missing; the message names the first one and the number."""
    missing = [path for path in files if not path.exists()]
    if missing:
        raise InputError(
            f"{missing[0]} not found, the first of {len(missing)} missing files of {len(files)} listed{hint}"
        )


def warn(where: str, finding: Finding) -> None:
    """Print a finding as one line on stderr, in the main process only."""
    if is_main():
        print(f"warning: {where}: {finding.text} ({finding.number}, first {finding.first})", file=sys.stderr)


def _duplicates(name: str, ids: Sequence[str]) -> Iterator[Finding]:
    repeated = [id_ for id_, number in Counter(ids).items() if number > 1]
    return collect("warning", f"{name}: listed more than once", repeated)


def check_lists(lists: Mapping[str, Sequence[Entry]], names: Sequence[str]) -> Iterator[Finding]:
    """Find duplicates, overlaps and classes without images. Fast enough for every start of a training.

    Args:
        lists: any of train_cls, simple_list, complex_list and val, by name.
        names: names of all labels, background first.
    """
    ids = {name: [entry.id for entry in entries] for name, entries in lists.items()}
    for name, listed in ids.items():
        yield from _duplicates(name, listed)
    val = set(ids.get("val", ()))
    for name in ("train_cls", "simple_list", "complex_list"):
        both = [id_ for id_ in ids.get(name, ()) if id_ in val]
        yield from collect("error", f"{name}: also in val, which makes the scores worthless", both)
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
    """Find images that are missing, unreadable or truncated."""
    missing, unreadable = [], []
    for entry in entries:
        path = image_path(image_dir, entry.id)
        if not path.exists():
            missing.append(str(path))
        elif _image_size(path) is None or is_truncated(path):
            unreadable.append(str(path))
    yield from collect("error", "image not found", missing)
    yield from collect("error", "image cannot be read", unreadable)


def check_labels(
    entries: Sequence[Entry],
    image_dir: Path,
    label_dir: Path,
    num_classes: int,
    ignore_label: int,
    simple: bool,
) -> Iterator[Finding]:
    """Find labels that are missing, unreadable or of the wrong size; with `simple`, also those of other classes."""
    unreadable, sizes, foreign, empty = [], [], [], []
    for entry in entries:
        path = label_dir / f"{entry.id}.png"
        try:
            label = read_label(path, num_classes, ignore_label=ignore_label)
        except InputError as error:
            unreadable.append(str(error))
            continue
        size = _image_size(image_path(image_dir, entry.id))
        if size is not None and size != label.shape:
            sizes.append(f"{path}: {label.shape[1]}x{label.shape[0]}, its image {size[1]}x{size[0]}")
        if simple:
            found = set(np.unique(label).tolist()) - {0, ignore_label}
            if found - {c + 1 for c in entry.classes}:
                foreign.append(f"{path}: labels {sorted(found)}, class {entry.classes[0]}")
            if not found:
                empty.append(str(path))
    yield from collect("error", "label missing or unusable", unreadable)
    yield from collect("error", "label and image differ in size", sizes)
    yield from collect("error", "label of a class that the image does not have", foreign)
    yield from collect("warning", "label without foreground", empty)


def check_not_ground_truth(
    entries: Sequence[Entry], label_dir: Path, truth_dir: Path, num_classes: int, ignore_label: int
) -> Iterator[Finding]:
    """Find pseudo labels that equal the ground truth: training on them would not be weakly supervised."""
    same, compared = [], 0
    for entry in entries:
        paths = [folder / f"{entry.id}.png" for folder in (label_dir, truth_dir)]
        if all(path.exists() for path in paths):
            compared += 1
            pseudo, truth = (read_label(path, num_classes, ignore_label=ignore_label) for path in paths)
            if np.array_equal(pseudo, truth):
                same.append(str(paths[0]))
    level = "error" if compared and len(same) > compared / 2 else "warning"
    yield from collect(level, f"pseudo label identical to the ground truth (of {compared} compared)", same)


def _image_size(path: Path) -> tuple[int, int] | None:
    """(height, width); None if the image cannot be read."""
    try:
        return image_size(path)
    except InputError:
        return None
