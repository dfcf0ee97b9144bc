"""Command-line options of the data: images, labels and lists."""

import argparse
from pathlib import Path

from datasets.lists import Entry, unique
from datasets.voc import IGNORE_LABEL
from utils.core import cli

CLASS_NAMES_HELP = "file with one class name per line, background omitted (default for 21 classes: VOC's names)"
LABEL_DIR_HELP = "true labels, ID.png (default: SegmentationClassAug in --data-dir)"


def add_data_options(
    parser: argparse.ArgumentParser,
    images: bool = True,
    names: bool = True,
    ignored: bool = True,
    num_classes: int | None = 21,
) -> argparse._ArgumentGroup:
    """Add --num-classes and, unless switched off, --data-dir, --class-names and --ignore-label; returns the group.

    For `num_classes`, None means that the checkpoint determines it.
    """
    group = parser.add_argument_group("data")
    add = group.add_argument
    if images:
        text = "directory with JPEGImages/ID.jpg and SegmentationClassAug/ID.png"
        add("--data-dir", type=Path, default=Path("dataset/VOC2012"), help=text)
    text = "number of labels, background included" + ("" if num_classes else " (default: the checkpoint's)")
    add("--num-classes", type=cli.positive_int, default=num_classes, help=text)
    if ignored:
        text = "label excluded from losses and scores"
        add("--ignore-label", type=cli.label_value, default=IGNORE_LABEL, help=text)
    if names:
        add("--class-names", type=Path, help=CLASS_NAMES_HELP)
    return group


def add_stage1_data_options(group: argparse._ArgumentGroup) -> None:
    """Add --list-dir and --pseudo-label-dir."""
    text = "directory of train_cls.txt, simple_list.txt, complex_list.txt and val.txt"
    group.add_argument("--list-dir", type=Path, default=Path("dataset/voc_list"), help=text)
    text = "saliency pseudo labels of the simple images, ID.png"
    group.add_argument("--pseudo-label-dir", type=Path, default=Path("dataset/sal2gt"), help=text)


def add_list_options(group: argparse._ArgumentGroup, default: Path, shards: bool = True) -> None:
    """Add --data-list and, for scripts that can process a part of the list, --shard."""
    group.add_argument("--data-list", type=Path, default=default, help="image list")
    if shards:
        text = "process only the I-th of N parts of the list"
        group.add_argument("--shard", type=cli.shard, metavar="I/N", help=text)


def sharded(entries: list[Entry], shard: tuple[int, int] | None) -> list[Entry]:
    """The unique entries of a 1-based shard (i, n): every n-th, so that all shards are similar; None: all."""
    entries = unique(entries)
    return entries if shard is None else entries[shard[0] - 1 :: shard[1]]
