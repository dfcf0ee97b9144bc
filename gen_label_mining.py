"""Pseudo labels for stage 2, step 3: ignore pixels that contradict the image-level labels.

    python gen_label_mining.py                                      labels of gen_label_crf.py, in place
    python gen_label_mining.py --pseudo-label-dir DIR --out OTHER   any label maps

In images with several classes, a class with fewer than --min-pixels pixels counts as missing: its pixels and the
background get the ignore label. Images with one class are left unchanged. Running the script again has no effect;
labels in --out that were made from other labels or with other options are refused, unless --overwrite is given.
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
from utils.core.errors import run_script
from utils.core.files import Results, fingerprint, read_note
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
    group.add_argument("--overwrite", action="store_true", help="replace labels in --out made with other settings")
    text = "classes with fewer pixels count as missing"
    group.add_argument("--min-pixels", type=cli.count, default=MIN_PIXELS, help=text)
    return parser.parse_args(argv)


def mining(args: argparse.Namespace) -> None:
    listed = read_list(args.data_list, args.num_classes)
    entries = sharded(listed, args.shard)
    paths = {entry.id: args.pseudo_label_dir / f"{entry.id}.png" for entry in entries}
    check_start(args.data_list, listed, {"pseudo label": list(paths.values())}, ": run gen_label_crf.py first")
    if args.out is None:  # the notes stay, so that gen_label_crf.py takes the label maps for finished
        results = Results(args.pseudo_label_dir, ".png", LABEL_MAPS, {id_: {} for id_ in paths})
        notes = {id_: read_note(path) for id_, path in paths.items()}
    else:
        made_from = {
            id_: {"pseudo_label": fingerprint(paths[id_]), "min_pixels": args.min_pixels, "classes": classes}
            for id_, classes in entries
        }
        results = Results(args.out, ".png", "mined labels", made_from, [args.pseudo_label_dir])
        notes = {id_: results.note(id_) for id_ in paths}
    finished = results.finished(overwrite=args.overwrite or args.out is None)
    todo = [entry for entry in entries if entry.id not in finished]
    changed = 0
    for id_, classes in tqdm(todo, initial=len(entries) - len(todo), total=len(entries), unit="img"):
        labels = read_label(paths[id_], args.num_classes, ignore_label=args.ignore_label)
        mined = mine(labels, classes, args.min_pixels, args.ignore_label)
        if not np.array_equal(mined, labels):
            changed += 1
        elif args.out is None:
            continue
        save_labels(results.path(id_), mined, notes[id_])
    print(f"changed {changed} of {len(todo)} pseudo labels: {results.folder}")


if __name__ == "__main__":
    run_script(lambda: mining(parse_args()))
