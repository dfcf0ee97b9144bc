"""Checks of lists, images and labels, so that errors in a data set are found before training.

What is an error is decided here alone: what train.py refuses. All other problems are warnings.
"""

import contextlib
import glob
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.images import read_image, read_size
from datasets.labels import read_label
from datasets.lists import Entry, image_path, images_of
from utils.core.distributed import is_main
from utils.core.errors import InputError
from utils.core.files import not_found

QUICK_SIDE = 64  # of decoded images; large JPEGs are then decoded at an eighth
ERROR, WARNING = "error", "warning"  # training refuses the data; worth a look
Problem = tuple[str, str, str]  # one occurrence: level and text, the same for all of its kind; where


def by_kind(problems: Iterable[Problem]) -> dict[tuple[str, str], list[str]]:
    """Where each kind of problem, (level, text), occurs."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for level, text, where in problems:
        kinds.setdefault((level, text), []).append(where)
    return kinds


def warn(source: str | Path, problems: Iterable[Problem]) -> None:
    """Print each kind of warning in one line on stderr, in the main process only. An error raises InputError."""
    for (level, text), found in by_kind(problems).items():
        if level == ERROR:
            raise InputError(f"{source}: {text}; first: {found[0]}")
        if is_main():
            print(f"warning: {source}: {text} ({len(found)}, first {found[0]})", file=sys.stderr)


def check_start(
    data_list: Path, entries: Sequence[Entry], files: Mapping[str, Sequence[Path]], hint: str = ""
) -> None:
    """The checks at the start of every script: `require_files`, and warnings of duplicates and turned images."""
    warn(data_list.parent, _duplicates(data_list.name, entries))
    require_files(files, hint)
    if {"image", "label"} <= files.keys():
        warn(data_list, check_turned(files["image"]))


def require_files(files: Mapping[str, Sequence[Path]], hint: str = "") -> None:
    """Check that files, by kind, such as "image" and "label", exist, and that an ID has one image only.

    `hint` ends the message about a missing file, unless that is an image.
    """
    for kind, paths in files.items():
        missing = [path for path in paths if not path.exists()]
        if missing:
            number = f"the first of {len(missing)} missing among {len(paths)} listed {kind}s"
            if kind == "image":
                every = ": see --data-dir (stage 2: DATASET.ROOT)" if len(missing) == len(paths) else ""
                hint = _space_hint(missing[0]) or every
            raise InputError(f"{not_found(missing[0])}, {number}{hint}")
        for path in paths if kind == "image" else ():
            if len(same := images_of(path.parent, path.stem)) > 1:
                names = " and ".join(other.name for other in same)
                raise InputError(f"{path.parent} has {names} for one ID: rename or remove all but one")


def _space_hint(missing: Path) -> str:
    """For `IMG.jpg`, a hint if `IMG 1.jpg` exists: the list then has an ID with a space."""
    similar = sorted(missing.parent.glob(f"{glob.escape(missing.stem)} *"))
    return f": {similar[0].name!r} exists, but an ID has no spaces: rename the image" if similar else ""


def _duplicates(name: str, entries: Iterable[Entry]) -> Iterator[Problem]:
    for id_, number in Counter(entry.id for entry in entries).items():
        if number > 1:
            yield WARNING, f"{name}: listed more than once", id_


def check_lists(lists: Mapping[str, Sequence[Entry]], names: Sequence[str]) -> Iterator[Problem]:
    """Find duplicates, contradictions and classes without images; `names` are those of all labels."""
    classes_in = {name: {entry.id: set(entry.classes) for entry in entries} for name, entries in lists.items()}
    val, complex_ = classes_in.get("val", {}), classes_in.get("complex_list", {})
    for name, found in classes_in.items():
        yield from _duplicates(name, lists[name])
        if name == "val":
            continue
        train = classes_in.get("train_cls", found)
        for id_, classes in found.items():
            if name == "simple_list" and len(classes) > 1:
                yield ERROR, "simple_list: has several classes", id_
            if name == "simple_list" and id_ in complex_:
                yield WARNING, "in simple_list and complex_list", id_
            if id_ in val:
                yield WARNING, f"{name}: also in val, which makes the scores worthless", id_
            if id_ not in train:
                yield WARNING, f"{name}: not in train_cls", id_
            elif classes != train[id_]:
                both = f"{id_}: {_show(classes)}, in train_cls {_show(train[id_])}"
                yield WARNING, f"{name}: other classes than in train_cls", both
        if name != "complex_list":
            seen = set().union(*found.values())
            for c in set(range(len(names) - 1)) - seen:
                yield WARNING, f"{name}: class without an image", names[c + 1]


def _show(numbers: set[int]) -> str:
    return " ".join(map(str, sorted(numbers)))


def check_images(entries: Iterable[Entry], image_dir: Path) -> Iterator[Problem]:
    """Find images that are missing, that training cannot read, or that are partly wrong, as a damaged JPEG."""
    for entry in entries:
        path = image_path(image_dir, entry.id)
        if not path.exists():
            yield ERROR, "image not found", f"{not_found(path)}{_space_hint(path)}"
            continue
        try:
            with contextlib.redirect_stderr(io.StringIO()) as printed:  # warnings of damage
                read_image(path, QUICK_SIDE)
        except InputError as error:
            yield ERROR, "image cannot be read", str(error)
        else:
            if text := printed.getvalue():
                text = text.strip().removeprefix("warning: ")
                yield WARNING, "image damaged, a part of it is wrong", text


def check_turned(paths: Iterable[Path]) -> Iterator[Problem]:
    """Find images with labels that EXIF turns, where the size of a label does not show whether it is turned too."""
    for path in paths:
        with contextlib.suppress(InputError):  # reported by check_images
            (width, height), orientation = read_size(path)
            if orientation > 1 and (orientation <= 4 or width == height):
                text = "image turned by its EXIF orientation: see that its label is turned as well"
                yield WARNING, text, str(path)


def check_labels(
    entries: Iterable[Entry],
    image_dir: Path,
    label_dir: Path,
    num_classes: int,
    ignore_label: int,
    truth_dir: Path | None = None,
) -> Iterator[Problem]:
    """Find labels that are missing, unreadable or of the wrong size.

    With `truth_dir`, also pseudo labels of simple images that have other classes, no foreground, or equal the ground
    truth: training would not be weakly supervised. It never reads these true masks: an unusable one is a warning.
    """
    hint = "; gen_sal2gt.py --list-dir writes lists of the images that have one" if truth_dir else ""
    for entry in entries:
        path = label_dir / f"{entry.id}.png"
        try:
            label = read_label(path, num_classes, ignore_label=ignore_label)
        except InputError as error:
            yield ERROR, f"label missing or unusable{hint}", str(error)
            continue
        with contextlib.suppress(InputError):  # reported by check_images
            (width, height), _ = read_size(image_path(image_dir, entry.id))
            if label.shape != (height, width):
                sizes = f"{path}: {label.shape[1]}x{label.shape[0]}, its image {width}x{height}"
                yield ERROR, "label and image differ in size", sizes
        if truth_dir is None:
            continue
        found, expected = set(np.unique(label).tolist()) - {0, ignore_label}, {c + 1 for c in entry.classes}
        if found - expected:
            labels = f"{path}: labels {_show(found)}, but its class has label {_show(expected)}"
            yield WARNING, "label of a class that the image does not have", labels
        if not found:
            yield WARNING, "label without foreground", str(path)
        truth = truth_dir / f"{entry.id}.png"
        try:
            if truth.exists() and np.array_equal(label, read_label(truth, num_classes, ignore_label=ignore_label)):
                yield WARNING, "pseudo label identical to the ground truth", str(path)
        except InputError as error:
            yield WARNING, "ground truth of a training image unusable, not compared", str(error)
