"""Scores saliency maps against the true labels: any class is foreground, and ignored pixels are left out.

    python -m benchmarks.saliency --data-list dataset/voc_list/simple_list.txt dataset/saliency

Prints, for every directory of maps, the mean absolute error, the mean IoU of the foreground at the threshold 128 of
255, and the best threshold with its IoU. All are means over images. With several directories, prints the IoU of each
with the first, too, both at 128; images without foreground in the first are left out of this one.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import table
from datasets.checks import require_files
from datasets.labels import read_label
from datasets.lists import read_list
from datasets.options import LABEL_DIR_HELP, add_data_options, add_list_options
from utils.core import cli
from utils.core.errors import InputError, run_script

FIXED = 128
THRESHOLDS = np.arange(8, 256, 8)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("saliency_dirs", nargs="+", type=Path, metavar="DIR", help="saliency maps, ID.png")
    group = add_data_options(parser, names=False)
    add_list_options(group, Path("dataset/voc_list/simple_list.txt"), shards=False)
    group.add_argument("--label-dir", type=Path, help=LABEL_DIR_HELP)
    return parser.parse_args(argv)


def read_map(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read an 8-bit map, resized to (height, width)."""
    saliency = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if saliency is None:
        raise InputError(f"{path} cannot be read as an image: create it again")
    return cv2.resize(saliency, size[::-1], interpolation=cv2.INTER_LINEAR)


def iou(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    union = np.count_nonzero(found | true)
    return np.count_nonzero(found & true) / union if union else 1.0


def score(saliency: np.ndarray, labels: np.ndarray, ignore_label: int) -> np.ndarray:
    """The mean absolute error, and the IoU at FIXED and at each of THRESHOLDS."""
    valid = labels != ignore_label
    values, true = saliency[valid], labels[valid] > 0
    error = np.abs(values / 255 - true).mean()
    return np.array([error, *(iou(values >= threshold, true) for threshold in (FIXED, *THRESHOLDS))])


def main(args: argparse.Namespace) -> None:
    entries = read_list(args.data_list, args.num_classes, labelled=False)
    label_dir = args.label_dir or args.data_dir / "SegmentationClassAug"
    for kind, folder in (("label", label_dir), *(("saliency map", folder) for folder in args.saliency_dirs)):
        require_files({kind: [folder / f"{entry.id}.png" for entry in entries]})
    scores: list[list[np.ndarray]] = [[] for _ in args.saliency_dirs]
    agreement: list[list[float]] = [[] for _ in args.saliency_dirs]
    for entry in entries:
        labels = read_label(label_dir / f"{entry.id}.png", args.num_classes, ignore_label=args.ignore_label)
        maps = [read_map(folder / f"{entry.id}.png", labels.shape) for folder in args.saliency_dirs]
        for k, saliency in enumerate(maps):
            scores[k].append(score(saliency, labels, args.ignore_label))
            if (maps[0] >= FIXED).any():
                agreement[k].append(iou(saliency >= FIXED, maps[0] >= FIXED))
    rows = []
    for folder, scored, agreed in zip(args.saliency_dirs, scores, agreement):
        error, fixed, *ious = np.mean(scored, axis=0)
        best = int(np.argmax(ious))
        row = {"maps": folder.name, "MAE": error, f"IoU at {FIXED}": fixed, "best IoU": ious[best]}
        rows.append(row | {"at": THRESHOLDS[best], "IoU with the first": np.mean(agreed or [np.nan])})
    print(f"{len(entries)} images of {args.data_list}")
    print(table(rows))


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
