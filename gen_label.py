"""Pseudo labels for stage 2, step 1: write two-scale logits of the training images.

    python gen_label.py --restore-from ./snapshots/VOC_best.pth

Writes ID.npy (float32, classes first, low resolution) to --logit-dir. No ground truth is needed. If interrupted,
rerun the command to resume. --shard I/N processes one of N parts of the list, for use on several machines.
"""

import argparse
from pathlib import Path

from datasets.checks import check_start
from datasets.lists import read_list
from datasets.loaders import DataConfig, EvalDataset
from datasets.options import add_data_options, add_list_options, sharded
from networks.checkpoint import load_deeplab
from utils.core import cli
from utils.core.device import pick_device, prepare
from utils.core.errors import run_script
from utils.evaluation.scoring import result_files, score_images


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    group = add_data_options(parser, names=False, ignored=False, num_classes=None)
    add_list_options(group, Path("dataset/voc_list/train_aug.txt"))
    add = parser.add_argument_group("weights and results").add_argument
    add("--restore-from", type=Path, default=Path("snapshots/VOC_best.pth"), help="trained weights")
    add("--scales", type=cli.scales, default=(1.0, 0.75), help="scales of the input, comma-separated")
    add("--logit-dir", type=Path, default=Path("logit_train_aug"), help="directory of the logits")
    add("--overwrite", action="store_true", help="replace logits made with other settings")
    cli.add_device_options(parser)
    return parser.parse_args(argv)


def generate(args: argparse.Namespace) -> None:
    device = pick_device(args.device, args.gpu)
    network = prepare(load_deeplab(args.restore_from, args.num_classes), device, args.channels_last)
    listed = read_list(args.data_list, network.num_classes, labelled=False)
    config = DataConfig(args.data_dir / "JPEGImages", num_classes=network.num_classes)
    images = EvalDataset(sharded(listed, args.shard), config, labels=False)
    check_start(args.data_list, listed, images.files())
    files = result_files(images, listed, network, args.scales, args.logit_dir, overwrite=args.overwrite)
    score_images(network, images, args.num_workers, device, args.scales, files=files)


if __name__ == "__main__":
    run_script(lambda: generate(parse_args()))
