"""Pseudo labels for stage 2, third step, in place: ignore what contradicts the image-level labels.

    python gen_label_mining.py

In an image of several classes, each of them with fewer than 20 pixels counts as missing: its pixels become 255, and
the background with them. Images of one class stay as they are. Run again, it changes nothing more.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.checks import check_start
from datasets.labels import read_label, read_tag, save_labels
from datasets.lists import read_list
from datasets.options import add_data_options, add_list_options, sharded
from utils.core import cli
from utils.core.errors import run_script
from utils.mining import MIN_PIXELS, mine


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    group = add_data_options(parser, images=False, names=False)
    add_list_options(group, Path("dataset/voc_list/train_cls.txt"))
    group.add_argument(
        "--pseudo-label-dir", type=Path, default=Path("pseudo_labels"), help="what gen_label_crf.py made"
    )
    group.add_argument(
        "--min-pixels", type=cli.count, default=MIN_PIXELS, help="fewer pixels: class is missing"
    )
    return parser.parse_args(argv)


def mining(args: argparse.Namespace) -> None:
    listed = read_list(args.data_list, args.num_classes)
    entries = sharded(listed, args.shard)
    paths = [args.pseudo_label_dir / f"{entry.id}.png" for entry in entries]
    check_start(args.data_list, listed, paths, ": run gen_label_crf.py first")
    changed = 0
    for entry, path in zip(tqdm(entries, unit="img"), paths):
        labels = read_label(path, args.num_classes, ignore_label=args.ignore_label)
        mined = mine(labels, entry.classes, args.min_pixels, args.ignore_label)
        if not np.array_equal(mined, labels):
            save_labels(path, mined, read_tag(path))
            changed += 1
    print(f"changed {changed} of {len(entries)} pseudo labels in {args.pseudo_label_dir}")


if __name__ == "__main__":
    run_script(lambda: mining(parse_args()))
