"""Evaluate the dense CRF on the logits written by evaluate.py.

    python evaluate_crf.py

Writes the label maps (palette PNGs) and scores_crf.json; with --no-labels, for images without true labels, the label
maps alone. If interrupted, rerun the command to resume; label maps made from other logits or with other parameters
are created again. --shard I/N processes and scores one of N parts of the list; when all parts are done, run the
script without it to score the whole list.
"""

import argparse
from pathlib import Path

from datasets.checks import check_start
from datasets.lists import read_class_names, read_list
from datasets.loaders import DataConfig, EvalDataset
from datasets.options import LABEL_DIR_HELP, add_data_options, add_list_options, sharded
from utils.core import cli
from utils.core.device import pick_device
from utils.core.errors import run_script
from utils.crf.run import add_crf_options, create_label_maps, crf_settings
from utils.evaluation.metrics import report_scores
from utils.evaluation.scoring import score_label_maps


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    group = add_data_options(parser)
    add_list_options(group, Path("dataset/voc_list/val.txt"))
    group.add_argument("--label-dir", type=Path, help=LABEL_DIR_HELP)
    text = "the images have no true labels: compute no scores"
    group.add_argument("--no-labels", action="store_true", help=text)
    add = parser.add_argument_group("results").add_argument
    add("--logit-dir", type=Path, default=Path("logit_val"), help="directory of the logits")
    add("--prediction-dir", type=Path, default=Path("crf_val"), help="directory of the label maps")
    add("--score-dir", type=Path, default=Path("scores"), help="directory of scores_crf.json")
    add_crf_options(parser)
    cli.add_device_options(parser, workers=False, network=False)
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> None:
    device = pick_device(args.device, args.gpu)
    names = read_class_names(args.class_names, args.num_classes)
    listed = read_list(args.data_list, args.num_classes, labelled=False)
    folders = args.data_dir / "JPEGImages", args.label_dir or args.data_dir / "SegmentationClassAug"
    config = DataConfig(*folders, num_classes=args.num_classes, ignore_label=args.ignore_label)
    images = EvalDataset(sharded(listed, args.shard), config, labels=not args.no_labels)
    check_start(args.data_list, listed, images.files())
    create_label_maps(images, args.logit_dir, args.prediction_dir, crf_settings(args, device), args.n_jobs)
    if not args.no_labels:
        confusion = score_label_maps(images, args.prediction_dir)
        part = "" if args.shard is None else f"_{args.shard[0]}_of_{args.shard[1]}"
        report_scores(confusion, names, args.score_dir / f"scores_crf{part}.json", vars(args), device)


if __name__ == "__main__":
    run_script(lambda: evaluate(parse_args()))
