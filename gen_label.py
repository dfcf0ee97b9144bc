"""Pseudo labels for stage 2, step 1: write two-scale logits of the training images.

    python gen_label.py --restore-from ./snapshots/VOC_best.pth

Writes ID.npy (float32, classes first, low resolution) to --logit-dir. No ground truth is needed. If interrupted,
rerun the command to resume. --shard I/N processes one of N parts of the list, for use on several machines.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from datasets.checks import check_start
from datasets.lists import read_list
from datasets.loaders import DataConfig, EvalDataset, eval_loader
from datasets.options import add_data_options, add_list_options, sharded
from networks.checkpoint import load_deeplab, weights_checksum
from utils.core import cli
from utils.core.device import pick_device, prepare
from utils.core.errors import run_script
from utils.core.files import Results
from utils.evaluation.inference import infer, save_logits


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
    deeplab = load_deeplab(args.restore_from, args.num_classes)
    num_classes = deeplab.num_classes
    network = prepare(deeplab, device, args.channels_last)
    listed = read_list(args.data_list, num_classes, labelled=False)
    entries = sharded(listed, args.shard)
    config = DataConfig(args.data_dir / "JPEGImages", num_classes=num_classes)
    check_start(args.data_list, listed, EvalDataset(entries, config, labels=False).files())
    made_from = {"weights": weights_checksum(network), "scales": list(args.scales)}
    ids = [entry.id for entry in listed]
    logits = Results(args.logit_dir, ".npy", "logits", dict.fromkeys(ids, made_from), [config.image_dir])
    todo = logits.unfinished(entries, args.overwrite)
    images = EvalDataset(todo, config, labels=False)
    loader = eval_loader(images, args.num_workers, pin=device.type == "cuda")
    results, done = infer(network, loader, device, args.scales), len(entries) - len(todo)
    for id_, values, _, _ in tqdm(results, initial=done, total=len(entries), unit="img"):
        save_logits(logits.path(id_), values, logits.note(id_))
    print(f"logits of {len(entries)} images: {args.logit_dir}")


if __name__ == "__main__":
    run_script(lambda: generate(parse_args()))
