"""Pseudo labels for stage 2, step 3: ignore pixels that contradict the image-level labels, in place.

    python gen_label_mining.py

In images with several classes, a class with fewer than --min-pixels pixels counts as missing: its pixels and the
background get the ignore label. Images with one class are left unchanged. Running the script again has no effect.
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
    text = "pseudo labels written by gen_label_crf.py"
    group.add_argument("--pseudo-label-dir", type=Path, default=Path("pseudo_labels"), help=text)
    text = "classes with fewer pixels count as missing"
    group.add_argument("--min-pixels", type=cli.count, default=MIN_PIXELS, help=text)
    return parser.parse_args(argv)


def mining(args: argparse.Namespace) -> None:
    listed = read_list(args.data_list, args.num_classes)
    entries = sharded(listed, args.shard)
    paths = [args.pseudo_label_dir / f"{entry.id}.png" for entry in entries]
    check_start(args.data_list, listed, {"pseudo label": paths}, ": run gen_label_crf.py first")
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
