"""Evaluate stage 1: two-scale logits of the listed images, scored against their labels.

    python evaluate.py --restore-from ./model/VOC_69.5.pth
    torchrun --nproc-per-node 2 evaluate.py --restore-from ./model/VOC_69.5.pth        on two GPUs

Writes the low-resolution logits (ID.npy, float32, classes first) for the CRF, scores.json and
confusion.json (the counts behind them).
"""

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.checks import check_start
from datasets.lists import read_class_names, read_list
from datasets.loaders import DataConfig, Whole, whole_loader
from utils import distributed, options
from utils.background import Background
from utils.checkpoint import load_deeplab, weights_identity
from utils.files import claim_folder, run_script
from utils.inference import infer, save_logits
from utils.metrics import ConfusionMatrix, report_scores
from utils.pictures import save_labels


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    add = options.add_data_options(parser, num_classes=None).add_argument
    add("--data-list", type=Path, default=Path("dataset/voc_list/val.txt"), help="images to evaluate")
    add("--label-dir", type=Path, help=options.LABEL_DIR_HELP)
    add = parser.add_argument_group("weights and results").add_argument
    add("--restore-from", type=Path, default=Path("snapshots/VOC_best.pth"), help="trained weights")
    add("--scales", type=options.scales, default=(1.0, 0.75), help="scales of the input, by commas")
    add("--logit-dir", type=Path, default=Path("logit_val"), help="folder of the logits")
    add("--no-logits", action="store_true", help="keep no logits")
    add("--score-dir", type=Path, default=Path("scores"), help="folder of scores.json")
    add("--save-predictions", type=Path, metavar="DIR", help="write the predicted labels as palette PNGs")
    options.add_device_options(parser)
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> None:
    device = options.pick_device(args)
    with distributed.joined(device):
        score(args, device)


def score(args: argparse.Namespace, device: torch.device) -> None:
    """Score this process's part of the images, and all processes' together."""
    network = options.prepare(load_deeplab(args.restore_from, args.num_classes), args, device)
    num_classes = network.num_classes
    names = read_class_names(args.class_names, num_classes)
    config = DataConfig(
        args.data_dir / "JPEGImages", args.label_dir or args.data_dir / "SegmentationClassAug",
        num_classes=num_classes, ignore_label=args.ignore_label,
    )  # fmt: skip
    listed = Whole(read_list(args.data_list, num_classes, labelled=False), config)
    check_start(args.data_list, listed.entries, listed.files())
    images = Whole(distributed.my_part(listed.entries), config)
    if not args.no_logits and distributed.is_main():
        made_by = {"weights": weights_identity(network), "scales": list(args.scales)}
        claim_folder(args.logit_dir, made_by, "*.npy", overwrite=True)
    distributed.wait_for_all()
    confusion = ConfusionMatrix(num_classes, args.ignore_label)
    loader = whole_loader(images, args.num_workers, pin=device.type == "cuda")
    bar = tqdm(infer(network, loader, device, args.scales), total=len(images), unit="img",
               disable=not distributed.is_main())  # fmt: skip
    with Background() as later:
        for id_, logits, prediction, label in bar:
            confusion.update(label, prediction)
            if not args.no_logits:
                later(save_logits, args.logit_dir / f"{id_}.npy", logits)
            if args.save_predictions:
                later(save_prediction, args.save_predictions / f"{id_}.png", prediction)
    report_scores(confusion, names, args.score_dir / "scores.json", vars(args), device)


def save_prediction(path: Path, prediction: torch.Tensor) -> None:
    """H x W labels as a palette PNG."""
    save_labels(path, prediction.cpu().numpy())


if __name__ == "__main__":
    run_script(lambda: evaluate(parse_args()))
