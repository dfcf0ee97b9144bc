"""Checks of lists, images and labels, so that errors in a data set are found before training.

What is an error is decided here alone: what train.py refuses. All other findings are warnings.
"""

import contextlib
import glob
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.images import SUFFIXES, jpeg_warning, read_image, read_picture, turned_unseen
from datasets.labels import read_label
from datasets.lists import Entry, image_path
from utils.core.distributed import is_main
from utils.core.errors import InputError
from utils.core.files import not_found

QUICK_SIDE = 64  # of decoded images; JPEGs are then decoded at an eighth, in two thirds of the time


class Finding(NamedTuple):
    """One kind of problem."""

    level: str  # "error": training refuses the data; "warning": worth a look
    text: str
    number: int  # of occurrences
    first: str  # the first occurrence


def collect(level: str, text: str, where: Sequence[str]) -> Iterator[Finding]:
    """Yield one finding for all occurrences in `where`, nothing if there are none."""
    if where:
        yield Finding(level, text, len(where), where[0])


def check_start(
    data_list: Path, entries: Sequence[Entry], files: Mapping[str, Sequence[Path]], hint: str = ""
) -> None:
    """The checks at the start of every script: warn of duplicates in the list and turned images, require its files.

    Raises:
        InputError: as `require_files`.
    """
    for finding in _duplicates(data_list.name, [entry.id for entry in entries]):
        warn(str(data_list.parent), finding)
    require_files(files, hint)
    for finding in check_turned(files["image"]) if {"image", "label"} <= files.keys() else ():
        warn(str(data_list), finding)


def require_files(files: Mapping[str, Sequence[Path]], hint: str = "") -> None:
    """Check that files exist.

    Args:
        files: paths by kind, such as "image" and "label"; each kind is counted on its own.
        hint: ends the message about a missing file, unless that is an image.

    Raises:
        InputError: files are missing; the message names the first one and the number.
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
            same = [other for suffix in SUFFIXES if (other := path.with_suffix(suffix)).exists()]
            if len(same) > 1:
                both = " and ".join(other.name for other in same)
                raise InputError(f"{path.parent} has {both} for one ID: rename or remove all but one")


def _space_hint(missing: Path) -> str:
    """For `IMG.jpg`, a hint if `IMG 1.jpg` exists: the list then has an ID with a space."""
    similar = sorted(missing.parent.glob(f"{glob.escape(missing.stem)} *"))
    return f": {similar[0].name!r} exists, but an ID has no spaces: rename the image" if similar else ""


def warn(where: str, finding: Finding) -> None:
    """Print a finding as one line on stderr, in the main process only."""
    if is_main():
        print(f"warning: {where}: {finding.text} ({finding.number}, first {finding.first})", file=sys.stderr)


def _duplicates(name: str, ids: Sequence[str]) -> Iterator[Finding]:
    repeated = [id_ for id_, number in Counter(ids).items() if number > 1]
    return collect("warning", f"{name}: listed more than once", repeated)


def check_lists(lists: Mapping[str, Sequence[Entry]], names: Sequence[str]) -> Iterator[Finding]:
    """Find duplicates, contradictions and classes without images. Fast enough for every start of a training.

    Args:
        lists: any of train_cls, simple_list, complex_list and val, by name.
        names: names of all labels, background first.
    """
    by_id = {name: {entry.id: set(entry.classes) for entry in entries} for name, entries in lists.items()}
    for name, entries in lists.items():
        yield from _duplicates(name, [entry.id for entry in entries])
    simple, val = by_id.get("simple_list", {}), by_id.get("val", {})
    several = [id_ for id_, classes in simple.items() if len(classes) > 1]
    yield from collect("error", "simple_list: has several classes", several)
    both = [id_ for id_ in simple if id_ in by_id.get("complex_list", {})]
    yield from collect("warning", "in simple_list and complex_list", both)
    for name in ("train_cls", "simple_list", "complex_list"):
        if name not in by_id:
            continue
        found, expected = by_id[name], by_id.get("train_cls", by_id[name])
        both = [id_ for id_ in found if id_ in val]
        yield from collect("warning", f"{name}: also in val, which makes the scores worthless", both)
        absent = [id_ for id_ in found if id_ not in expected]
        yield from collect("warning", f"{name}: not in train_cls", absent)
        other = [
            f"{id_}: {_show(classes)}, in train_cls {_show(expected[id_])}"
            for id_, classes in found.items()
            if expected.get(id_, classes) != classes
        ]
        yield from collect("warning", f"{name}: other classes than in train_cls", other)
        if name != "complex_list":
            seen = set().union(*found.values())
            missing = [label for c, label in enumerate(names[1:]) if c not in seen]
            yield from collect("warning", f"{name}: class without an image", missing)


def _show(numbers: set[int]) -> str:
    return " ".join(map(str, sorted(numbers)))


def check_images(entries: Iterable[Entry], image_dir: Path) -> Iterator[Finding]:
    """Find images that are missing or that training cannot read."""
    missing, unreadable = [], []
    for entry in entries:
        path = image_path(image_dir, entry.id)
        if not path.exists():
            missing.append(f"{not_found(path)}{_space_hint(path)}")
            continue
        try:
            read_image(path, QUICK_SIDE)
        except InputError as error:
            unreadable.append(str(error))
    yield from collect("error", "image not found", missing)
    yield from collect("error", "image cannot be read", unreadable)


def check_decoding(entries: Iterable[Entry], image_dir: Path) -> Iterator[Finding]:
    """Find damaged JPEGs whose pixels are partly wrong, and which training reads without an error."""
    paths = [path for entry in entries if (path := image_path(image_dir, entry.id)).exists()]
    damaged = [f"{path} ({warning})" for path in paths if (warning := jpeg_warning(path))]
    yield from collect("warning", "image damaged, a part of it is wrong", damaged)


def check_turned(paths: Iterable[Path]) -> Iterator[Finding]:
    """Find images with labels that EXIF turns, where the size of a label does not show whether it is turned too."""
    turned = []
    for path in paths:
        with contextlib.suppress(InputError):  # reported by check_images
            if turned_unseen(path):
                turned.append(str(path))
    text = "image turned by its EXIF orientation: see that its label is turned as well"
    yield from collect("warning", text, turned)


def check_labels(
    entries: Iterable[Entry],
    image_dir: Path,
    label_dir: Path,
    num_classes: int,
    ignore_label: int,
    truth_dir: Path | None = None,
) -> Iterator[Finding]:
    """Find labels that are missing, unreadable or of the wrong size.

    With `truth_dir`, the labels are pseudo labels of simple images: those of other classes, without foreground, or
    equal to the ground truth, on which training would not be weakly supervised, are found as well. Training never
    reads the true masks of these images, so an unusable one is a warning.
    """
    unusable, sizes, foreign, empty, same, no_truth, compared = [], [], [], [], [], [], 0
    for entry in entries:
        path, truth = label_dir / f"{entry.id}.png", None
        if truth_dir is not None and (truth_dir / f"{entry.id}.png").exists():
            try:
                truth = read_label(truth_dir / f"{entry.id}.png", num_classes, ignore_label=ignore_label)
            except InputError as error:
                no_truth.append(str(error))
        try:
            label = read_label(path, num_classes, ignore_label=ignore_label)
        except InputError as error:
            unusable.append(str(error))
            continue
        with contextlib.suppress(InputError):  # reported by check_images
            width, height = read_picture(image_path(image_dir, entry.id), QUICK_SIDE)[1]
            if label.shape != (height, width):
                sizes.append(f"{path}: {label.shape[1]}x{label.shape[0]}, its image {width}x{height}")
        if truth is not None:
            compared += 1
            if np.array_equal(label, truth):
                same.append(str(path))
        if truth_dir is not None:
            found, expected = (set(np.unique(label).tolist()) - {0, ignore_label}, {c + 1 for c in entry.classes})
            if found - expected:
                foreign.append(f"{path}: labels {_show(found)}, but its class has label {_show(expected)}")
            if not found:
                empty.append(str(path))
    hint = "; gen_sal2gt.py --list-dir writes lists of the images that have one" if truth_dir else ""
    yield from collect("error", f"label missing or unusable{hint}", unusable)
    yield from collect("error", "label and image differ in size", sizes)
    yield from collect("warning", "label of a class that the image does not have", foreign)
    yield from collect("warning", "label without foreground", empty)
    text = f"pseudo label identical to the ground truth (of {compared} compared)"
    yield from collect("warning", text, same)
    yield from collect("warning", "ground truth of a training image unusable, not compared", no_truth)
