"""Check the lists, images and labels of a data set before training.

    python check_data.py
    python check_data.py --data-dir own --list-dir own/lists --pseudo-label-dir own/sal2gt --num-classes 4 --no-val

Prints each kind of problem with its number of occurrences and the first one. The exit status is 2 if there are
errors, with which training would fail or its results would be worthless.
"""

import argparse
from collections.abc import Iterator

from tqdm import tqdm

from datasets import checks
from datasets.lists import Entry, read_class_names
from datasets.options import add_data_options, add_stage1_data_options
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.training.options import LISTS, needed_lists, option, read_needed_list


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add_stage1_data_options(add_data_options(parser))
    for name, without in LISTS.items():
        if without:
            text = f"as in train.py: do not use {name}.txt"
            parser.add_argument(option(without), action="store_true", help=text)
    return parser.parse_args(argv)


def find(args: argparse.Namespace) -> Iterator[checks.Finding]:
    """Yield all findings, those of the fast checks first."""
    names = read_class_names(args.class_names, args.num_classes)
    lists: dict[str, list[Entry]] = {}
    for name in needed_lists(args):
        try:
            lists[name] = read_needed_list(args, name)
        except InputError as error:
            yield checks.Finding("error", f"{name}: unusable", 1, str(error))
    yield from checks.check_lists(lists, names)

    images, truth = args.data_dir / "JPEGImages", args.data_dir / "SegmentationClassAug"
    labels, common = args.pseudo_label_dir, (args.num_classes, args.ignore_label)
    everything = {entry.id: entry for entries in lists.values() for entry in entries}
    yield from checks.check_images(tqdm(list(everything.values()), desc="images", leave=False), images)
    simple, val = lists.get("simple_list", []), lists.get("val", [])
    bar = tqdm(simple, desc="pseudo labels", leave=False)
    yield from checks.check_labels(bar, images, labels, *common, simple=True)
    bar = tqdm(val, desc="validation labels", leave=False)
    yield from checks.check_labels(bar, images, truth, *common, simple=False)
    yield from checks.check_not_ground_truth(
        tqdm(simple, desc="against truth", leave=False), labels, truth, *common
    )


def main(args: argparse.Namespace) -> None:
    findings = list(find(args))
    for finding in findings:
        print(f"{finding.level:<8} {finding.number:>7}  {finding.text}; first: {finding.first}")
    if any(finding.level == "error" for finding in findings):
        raise InputError("the data set has errors, listed above: fix them before training")
    print("no errors" if findings else "no problems found")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
