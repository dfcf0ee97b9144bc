"""Check the lists, images and labels of a data set before training.

    python check_data.py
    python check_data.py --data-dir own --list-dir own/lists --pseudo-label-dir own/sal2gt --num-classes 4 --no-val

Prints the number of images by list and class and the number of files found, then each kind of problem with its number
of occurrences and the first one. Errors are what train.py refuses; with them, the exit status is 2. All others are
warnings.
"""

import argparse
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from datasets import checks
from datasets.lists import Entry, image_path, read_class_names, unique
from datasets.options import add_data_options, add_stage1_data_options
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.training.options import LISTS, needed_lists, read_needed_list

Lists = Mapping[str, Sequence[Entry]]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add_stage1_data_options(add_data_options(parser))
    for name, without in LISTS.items():
        if without:
            text = f"as in train.py: do not use {name}.txt"
            parser.add_argument(without, action="store_true", help=text)
    return parser.parse_args(argv)


def read_lists(args: argparse.Namespace) -> tuple[dict[str, list[Entry]], list[checks.Problem]]:
    """The lists by name, and a problem for each that cannot be used."""
    lists, problems = {}, []
    for name in needed_lists(args):
        try:
            lists[name] = read_needed_list(args, name)
        except InputError as error:
            problems.append((checks.ERROR, f"{name}: unusable", str(error)))
    return lists, problems


def count_table(lists: Lists, names: Sequence[str]) -> str:
    """Format the number of images in each list, in total and by class; `-` where a list has no classes."""

    def count(entries: Sequence[Entry], c: int) -> str:
        return f"{sum(c in e.classes for e in entries):,}" if any(e.classes for e in entries) else "-"

    rows = [["", *lists], ["images", *(f"{len(entries):,}" for entries in lists.values())]]
    rows += [[name, *(count(entries, c) for entries in lists.values())] for c, name in enumerate(names[1:])]
    width = max(map(len, names))
    return "\n".join(" ".join([f"{name:<{width}}", *(f"{cell:>12}" for cell in cells)]) for name, *cells in rows)


def print_found(lists: Lists, images: Path, labels: Path, truth: Path) -> None:
    """Print how many of the listed images, pseudo labels and true masks exist."""
    everything = unique(itertools.chain(*lists.values()))
    files = {f"images in {images}": [image_path(images, entry.id) for entry in everything]}
    for name, text, folder in (("simple_list", "pseudo labels", labels), ("val", "validation masks", truth)):
        if name in lists:
            files[f"{text} in {folder}"] = [folder / f"{e.id}.png" for e in unique(lists[name])]
    for text, paths in files.items():
        print(f"found {sum(path.exists() for path in paths):,} of {len(paths):,} {text}")


def check_files(
    args: argparse.Namespace, lists: Lists, images: Path, labels: Path, truth: Path
) -> Iterator[checks.Problem]:
    """Find the problems in the files that the lists name."""

    def bar(entries: Iterable[Entry], title: str) -> Iterable[Entry]:
        return tqdm(unique(entries), desc=title, leave=False)

    sizes = args.num_classes, args.ignore_label
    simple, val = lists.get("simple_list", ()), lists.get("val", ())
    yield from checks.check_images(bar(itertools.chain(*lists.values()), "images"), images)
    yield from checks.check_turned(image_path(images, entry.id) for entry in bar([*simple, *val], "orientation"))
    yield from checks.check_labels(bar(simple, "pseudo labels"), images, labels, *sizes, truth_dir=truth)
    yield from checks.check_labels(bar(val, "validation labels"), images, truth, *sizes)


def main(args: argparse.Namespace) -> None:
    names = read_class_names(args.class_names, args.num_classes)
    folders = args.data_dir / "JPEGImages", args.pseudo_label_dir, args.data_dir / "SegmentationClassAug"
    lists, problems = read_lists(args)
    print(count_table(lists, names))
    print_found(lists, *folders)
    problems += [*checks.check_lists(lists, names), *check_files(args, lists, *folders)]
    kinds = checks.by_kind(problems)
    for (level, text), found in kinds.items():
        print(f"{level:<8} {len(found):>7}  {text}; first: {found[0]}")
    if errors := sum(level == checks.ERROR for level, _ in kinds):
        raise InputError(f"the data set has errors ({errors} listed above): fix them before training")
    print("no errors" if kinds else "no problems found")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
