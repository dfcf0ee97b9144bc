"""Pseudo labels for stage 2, step 2: apply the dense CRF to the logits written by gen_label.py.

    python gen_label_crf.py

Writes palette PNGs to --pseudo-label-dir. No ground truth is needed. If interrupted, rerun the command to resume.
--shard I/N processes one of N parts of the list.
"""

import argparse
from pathlib import Path

from datasets.lists import read_list
from datasets.options import add_data_options, add_list_options, sharded
from utils.core import cli
from utils.core.device import pick_device
from utils.core.errors import run_script
from utils.crf.run import add_crf_options, create_label_maps, crf_settings, make_tasks


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
    settings = crf_settings(args, args.num_classes, pick_device(args.device, args.gpu))
    listed = read_list(args.data_list, args.num_classes, args.use_image_labels)
    entries = sharded(listed, args.shard)
    tasks, results = make_tasks(
        args.data_list,
        listed,
        entries,
        settings,
        args.data_dir / "JPEGImages",
        args.logit_dir,
        args.pseudo_label_dir,
        image_labels=args.use_image_labels,
    )
    create_label_maps(tasks, results, settings, args.n_jobs, args.overwrite)


if __name__ == "__main__":
    run_script(lambda: generate(parse_args()))
