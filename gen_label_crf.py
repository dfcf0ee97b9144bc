"""Pseudo labels for stage 2, step 2: apply the dense CRF to the logits written by gen_label.py.

    python gen_label_crf.py

Writes palette PNGs to --pseudo-label-dir. No ground truth is needed. If interrupted, rerun the command to resume.
--shard I/N processes one of N parts of the list.
"""

import argparse
from pathlib import Path

from datasets.checks import check_start
from datasets.lists import read_list
from datasets.loaders import DataConfig, EvalDataset
from datasets.options import add_data_options, add_list_options, sharded
from utils.core import cli
from utils.core.device import pick_device
from utils.core.errors import run_script
from utils.crf.run import add_crf_options, create_label_maps, crf_settings


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    group = add_data_options(parser, names=False, ignored=False)
    add_list_options(group, Path("dataset/voc_list/train_aug.txt"))
    text = "allow only the background and the classes in --data-list (use train_cls.txt)"
    group.add_argument("--use-image-labels", action="store_true", help=text)
    add = parser.add_argument_group("results").add_argument
    add("--logit-dir", type=Path, default=Path("logit_train_aug"), help="directory of the logits")
    add("--pseudo-label-dir", type=Path, default=Path("pseudo_labels"), help="directory of the pseudo labels")
    add("--overwrite", action="store_true", help="replace pseudo labels made with other settings")
    add_crf_options(parser)
    cli.add_device_options(parser, workers=False, network=False)
    return parser.parse_args(argv)


def generate(args: argparse.Namespace) -> None:
    settings = crf_settings(args, pick_device(args.device, args.gpu))
    listed = read_list(args.data_list, args.num_classes, args.use_image_labels)
    config = DataConfig(args.data_dir / "JPEGImages", num_classes=args.num_classes)
    images = EvalDataset(sharded(listed, args.shard), config, labels=False)
    check_start(args.data_list, listed, images.files())
    folders = args.logit_dir, args.pseudo_label_dir
    create_label_maps(images, *folders, settings, args.n_jobs, args.use_image_labels, args.overwrite)


if __name__ == "__main__":
    run_script(lambda: generate(parse_args()))
