"""Scores of one run of the ablation on val: raw and + CRF, images of one class and of several apart."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.labels import read_label
from datasets.lists import Entry, read_list
from datasets.loaders import DataConfig, EvalDataset
from networks.checkpoint import load_deeplab
from utils.core.device import pick_device, prepare
from utils.crf.dense_crf import CRFParams
from utils.crf.run import evaluate_crf, make_settings, make_tasks
from utils.evaluation.metrics import ConfusionMatrix
from utils.evaluation.scoring import score_images


def split_val(args: argparse.Namespace, label_dir: Path) -> dict[str, list[Entry]]:
    """The validation images by the number of classes in their truth: `simple` one, `multi` several."""
    kinds: dict[str, list[Entry]] = {"simple": [], "multi": []}
    for entry in read_list(args.list_dir / "val.txt", args.num_classes, labelled=False):
        label = read_label(label_dir / f"{entry.id}.png", args.num_classes, ignore_label=args.ignore_label)
        shown = set(np.unique(label).tolist()) - {0, args.ignore_label}
        kinds["multi" if len(shown) > 1 else "simple"].append(entry)
    return {kind: entries for kind, entries in kinds.items() if entries}


def score(args: argparse.Namespace, crf_args: argparse.Namespace, folder: Path) -> dict[str, dict]:
    """mIoU by kind of image and over `all`, and the counts behind it, for `raw` and `crf`.

    Args:
        args: of train.py; the weights are VOC_best.pth in its snapshot folder.
        crf_args: the CRF's running options.
        folder: gets logits and label maps.
    """
    device = pick_device(args)
    network = prepare(load_deeplab(args.snapshot_dir / "VOC_best.pth", args.num_classes), args, device)
    image_dir, label_dir = args.data_dir / "JPEGImages", args.data_dir / "SegmentationClassAug"
    config = DataConfig(image_dir, label_dir, num_classes=args.num_classes, ignore_label=args.ignore_label)
    settings = make_settings(args.num_classes, CRFParams(), crf_args, device)
    found: dict[str, dict[str, ConfusionMatrix]] = {"raw": {}, "crf": {}}
    for kind, entries in split_val(args, label_dir).items():
        logits = folder / "logits"
        found["raw"][kind] = score_images(
            network,
            EvalDataset(entries, config),
            args.num_workers,
            device,
            args.scales,
            logit_dir=logits,
            desc="val",
        )
        tasks = make_tasks(entries, image_dir, logits, folder / "crf")
        found["crf"][kind] = evaluate_crf(tasks, settings, crf_args.n_jobs, label_dir, args.ignore_label)
    return {how: summary(list(kinds), list(kinds.values())) for how, kinds in found.items()}


def summary(kinds: Sequence[str], confusions: Sequence[ConfusionMatrix]) -> dict:
    """Mean IoU by kind of image and over all of them, and the counts behind them."""
    total = ConfusionMatrix(confusions[0].num_classes, confusions[0].ignore_label)
    total.counts = sum(confusion.matrix() for confusion in confusions).flatten()
    miou = {kind: confusion.scores()["Mean IoU"] for kind, confusion in zip(kinds, confusions)}
    counts = {kind: confusion.matrix().tolist() for kind, confusion in zip(kinds, confusions)}
    return {"miou": miou | {"all": total.scores()["Mean IoU"]}, "confusion": counts}
