"""Compare pseudo labels with the true labels. Prints one line per directory of label maps.

    python evaluate_labels.py --truth-dir demo/data/truth --data-list demo/data/lists/simple_list.txt \\
        saliency=demo/data/sal2gt mined=demo/pseudo_labels

mIoU is computed over the pixels that the pseudo labels do not ignore; "labelled" is the percentage of these pixels,
"error" the percentage of them that is wrong.
"""

import argparse
from pathlib import Path

from datasets.checks import check_start
from datasets.lists import read_list, unique
from datasets.options import add_data_options, add_list_options
from utils.core import cli
from utils.core.errors import run_script
from utils.core.files import save_json
from utils.evaluation.metrics import percent, warn_of_background
from utils.evaluation.scoring import compare_labels


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    group = add_data_options(parser, images=False, names=False)
    add_list_options(group, Path("dataset/voc_list/train_aug.txt"), shards=False)
    group.add_argument("--truth-dir", type=Path, required=True, help="true labels, ID.png")
    group.add_argument("folders", nargs="+", type=named_folder, metavar="NAME=DIR", help="pseudo labels, ID.png")
    parser.add_argument("--score-path", type=cli.json_path, metavar="F.json", help="also write the table as JSON")
    return parser.parse_args(argv)


def named_folder(value: str) -> tuple[str, Path]:
    """`mined=pseudo_labels` -> ("mined", Path("pseudo_labels"))."""
    name, equals, folder = value.partition("=")
    if not (name and equals and folder):
        raise ValueError
    return name, Path(folder)


def quality(
    folder: Path, truth_dir: Path, ids: list[str], num_classes: int, ignore_label: int
) -> dict[str, float | None]:
    """Mean IoU, labelled fraction and error rate of the label maps in `folder`; None if nothing is labelled."""
    pairs = [(folder / f"{id_}.png", truth_dir / f"{id_}.png") for id_ in ids]
    confusion, pixels = compare_labels(pairs, num_classes, ignore_label, folder.name)
    labelled = int(confusion.matrix().sum())
    if not labelled:  # mining may have ignored everything
        return {"Mean IoU": None, "labelled": 0.0, "error": None}
    warn_of_background(confusion, str(folder))
    scores = confusion.scores()
    return {"Mean IoU": scores["Mean IoU"], "labelled": labelled / pixels, "error": 1 - scores["Pixel Accuracy"]}


def evaluate(args: argparse.Namespace) -> None:
    entries = read_list(args.data_list, args.num_classes, labelled=False)
    ids = [entry.id for entry in unique(entries)]
    folders = {"true label": args.truth_dir} | {f"{name} label": folder for name, folder in args.folders}
    files = {kind: [folder / f"{id_}.png" for id_ in ids] for kind, folder in folders.items()}
    check_start(args.data_list, entries, files)
    labels = args.num_classes, args.ignore_label
    rows = {name: quality(folder, args.truth_dir, ids, *labels) for name, folder in args.folders}
    width = max(map(len, rows))
    print(f"{len(ids)} images of {args.data_list}\n{'':<{width}}  mIoU %  labelled %  error %")
    for name, row in rows.items():
        cells = (f"{percent(v):>{w}}" for v, w in zip(row.values(), (6, 10, 7)))
        print(f"{name:<{width}}  {'  '.join(cells)}")
    if args.score_path:
        save_json(args.score_path, rows)


if __name__ == "__main__":
    run_script(lambda: evaluate(parse_args()))
