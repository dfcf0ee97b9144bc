"""Pseudo labels for stage 2, step 3: ignore pixels that contradict the image-level labels.

    python gen_label_mining.py                                      labels of gen_label_crf.py, in place
    python gen_label_mining.py --pseudo-label-dir DIR --out OTHER   any label maps

In images with several classes, a class with fewer than --min-pixels pixels counts as missing: its pixels and the
background get the ignore label. Images with one class are left unchanged. Running the script again has no effect.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.checks import check_start
from datasets.labels import read_label, save_labels
from datasets.lists import read_list
from datasets.options import add_data_options, add_list_options, sharded
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.core.files import Results, read_note
from utils.crf.run import LABEL_MAPS
from utils.mining import MIN_PIXELS, mine


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    group = add_data_options(parser, images=False, names=False)
    add_list_options(group, Path("dataset/voc_list/train_cls.txt"))
    text = "pseudo labels written by gen_label_crf.py"
    group.add_argument("--pseudo-label-dir", type=Path, default=Path("pseudo_labels"), help=text)
    text = "directory of the mined labels (default: in place, for labels that gen_label_crf.py wrote)"
    group.add_argument("--out", type=Path, metavar="DIR", help=text)
    text = "classes with fewer pixels count as missing"
    group.add_argument("--min-pixels", type=cli.count, default=MIN_PIXELS, help=text)
    return parser.parse_args(argv)


def mining(args: argparse.Namespace) -> None:
    listed = read_list(args.data_list, args.num_classes)
    entries = sharded(listed, args.shard)
    paths = [args.pseudo_label_dir / f"{entry.id}.png" for entry in entries]
    check_start(args.data_list, listed, {"pseudo label": paths}, ": run gen_label_crf.py first")
    target, notes = args.pseudo_label_dir, [read_note(path) for path in paths]
    if args.out is None:  # the notes stay, so that gen_label_crf.py takes the label maps for finished
        foreign = [path for path, note in zip(paths, notes) if (note or {}).get("kind") != LABEL_MAPS]
        if foreign:
            raise InputError(
                f"{foreign[0]} was not written by gen_label_crf.py (the first of {len(foreign)}) and is not replaced:"
                " choose a directory for the mined labels (--out)"
            )
    else:
        made_from = {e.id: {"min_pixels": args.min_pixels, "classes": e.classes} for e in entries}
        results = Results(args.out, ".png", "mined labels", made_from, [args.pseudo_label_dir])
        results.unfinished(())
        target, notes = args.out, [results.note(entry.id) for entry in entries]
    changed = 0
    for entry, path, note in zip(tqdm(entries, unit="img"), paths, notes):
        labels = read_label(path, args.num_classes, ignore_label=args.ignore_label)
        mined = mine(labels, entry.classes, args.min_pixels, args.ignore_label)
        if not np.array_equal(mined, labels):
            changed += 1
        elif args.out is None:
            continue
        save_labels(target / f"{entry.id}.png", mined, note)
    print(f"changed {changed} of {len(entries)} pseudo labels: {target}")


if __name__ == "__main__":
    run_script(lambda: mining(parse_args()))
