"""Evaluate stage 1: predict the images of a list at two scales and compare them with their labels.

    python evaluate.py --restore-from ./model/VOC_69.5.pth
    torchrun --nproc-per-node 2 evaluate.py --restore-from ./model/VOC_69.5.pth        on two GPUs

Writes scores.json, confusion.json (the confusion matrix) and, for the CRF, the low-resolution logits (ID.npy,
float32, classes first). With --no-labels, writes logits and predictions (--save-predictions) only, of images that
have no true labels; if interrupted, rerun the command to resume.
"""

import argparse
from pathlib import Path

from datasets.checks import check_start
from datasets.lists import read_class_names, read_list
from datasets.loaders import DataConfig, EvalDataset
from datasets.options import LABEL_DIR_HELP, add_data_options
from networks.checkpoint import load_deeplab
from utils.core import cli, distributed
from utils.core.device import pick_device, prepare
from utils.core.errors import run_script
from utils.evaluation.metrics import report_scores
from utils.evaluation.scoring import result_files, score_images


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = add_data_options(parser, num_classes=None).add_argument
    add("--data-list", type=Path, default=Path("dataset/voc_list/val.txt"), help="list of the images")
    add("--label-dir", type=Path, help=LABEL_DIR_HELP)
    add("--no-labels", action="store_true", help="the images have no true labels: compute no scores")
    add = parser.add_argument_group("weights and results").add_argument
    add("--restore-from", type=Path, default=Path("snapshots/VOC_best.pth"), help="trained weights")
    add("--scales", type=cli.scales, default=(1.0, 0.75), help="scales of the input, comma-separated")
    add("--logit-dir", type=Path, default=Path("logit_val"), help="directory of the logits")
    add("--no-logits", action="store_true", help="do not write logits")
    add("--score-dir", type=Path, default=Path("scores"), help="directory of scores.json")
    add("--save-predictions", type=Path, metavar="DIR", help="write the predictions as palette PNGs to DIR")
    cli.add_device_options(parser)
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> None:
    device = pick_device(args.device, args.gpu)
    with distributed.process_group(device):
        network = prepare(load_deeplab(args.restore_from, args.num_classes), device, args.channels_last)
        names = read_class_names(args.class_names, network.num_classes)
        folders = args.data_dir / "JPEGImages", args.label_dir or args.data_dir / "SegmentationClassAug"
        config = DataConfig(*folders, num_classes=network.num_classes, ignore_label=args.ignore_label)
        listed = read_list(args.data_list, network.num_classes, labelled=False)
        images = EvalDataset(listed, config, labels=not args.no_labels)
        check_start(args.data_list, listed, images.files())
        logit_dir = None if args.no_logits else args.logit_dir
        files = result_files(images, listed, network, args.scales, logit_dir, args.save_predictions)
        confusion = score_images(network, images, args.num_workers, device, args.scales, files=files)
        if not args.no_labels:
            report_scores(confusion, names, args.score_dir / "scores.json", vars(args), device)


if __name__ == "__main__":
    run_script(lambda: evaluate(parse_args()))
