"""Command-line options of the data: where images, labels and lists are."""

import argparse
from pathlib import Path

from datasets.lists import Entry, unique
from datasets.voc import IGNORE_LABEL
from utils.core import cli


def add_data_options(
    parser: argparse.ArgumentParser,
    images: bool = True,
    names: bool = True,
    ignored: bool = True,
    num_classes: int | None = 21,
    found_in: str = "the checkpoint's",
) -> argparse._ArgumentGroup:
    """Where images lie and which labels there are; returns the group for more of the kind.

    Args:
        images, names, ignored: whether the script has a use for --data-dir, --class-names, --ignore-label.
        num_classes: its default; None: the script finds it out itself.
        found_in: whose number of classes it finds.
    """
    group = parser.add_argument_group("data")
    if images:
        group.add_argument(
            "--data-dir", type=Path, default=Path("dataset/VOC2012"),
            help="folder with JPEGImages/ID.jpg and SegmentationClassAug/ID.png",
        )  # fmt: skip
    told = "" if num_classes else f" ({found_in}, unless given)"
    text = f"labels, background included{told}"
    group.add_argument("--num-classes", type=cli.positive_int, default=num_classes, help=text)
    if ignored:
        text = "label that counts nowhere"
        group.add_argument("--ignore-label", type=cli.label_value, default=IGNORE_LABEL, help=text)
    if names:
        group.add_argument(
            "--class-names", type=Path,
            help="file with a class name a line, background left out (VOC's names for 21 classes)",
        )  # fmt: skip
    return group


def add_stage1_data_options(group: argparse._ArgumentGroup) -> None:
    """Where stage 1's lists and pseudo labels lie."""
    group.add_argument(
        "--list-dir", type=Path, default=Path("dataset/voc_list"),
        help="folder of train_cls.txt, simple_list.txt, complex_list.txt and val.txt",
    )  # fmt: skip
    group.add_argument(
        "--pseudo-label-dir", type=Path, default=Path("dataset/sal2gt"),
        help="saliency pseudo labels of the simple images, ID.png",
    )  # fmt: skip


LABEL_DIR_HELP = "true labels, ID.png (SegmentationClassAug in --data-dir, unless given)"


def add_list_options(group: argparse._ArgumentGroup, default: Path, shards: bool = True) -> None:
    """Which images, and which part of them."""
    group.add_argument("--data-list", type=Path, default=default, help="list of the images")
    if shards:
        text = "do the I-th of N parts of the list alone"
        group.add_argument("--shard", type=cli.shard, metavar="I/N", help=text)


def sharded(entries: list[Entry], part: tuple[int, int] | None) -> list[Entry]:
    """The entries of one part, each image once: every N-th, so that the parts are equally hard."""
    entries = unique(entries)
    return entries if part is None else entries[part[0] - 1 :: part[1]]
