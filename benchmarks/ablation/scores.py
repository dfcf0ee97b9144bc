"""Scores of a run on val, raw and + CRF, for images of one class and of several."""

import argparse
from pathlib import Path

import numpy as np
import torch

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
    """The validation images by the number of classes in their ground truth: `simple` one, `multi` several."""
    kinds: dict[str, list[Entry]] = {"simple": [], "multi": []}
    for entry in read_list(args.list_dir / "val.txt", args.num_classes, labelled=False):
        label = read_label(label_dir / f"{entry.id}.png", args.num_classes, ignore_label=args.ignore_label)
        classes = set(np.unique(label).tolist()) - {0, args.ignore_label}
        kinds["multi" if len(classes) > 1 else "simple"].append(entry)
    return {kind: entries for kind, entries in kinds.items() if entries}


def score(args: argparse.Namespace, crf_args: argparse.Namespace, folder: Path) -> dict[str, dict]:
    """mIoU by kind of image and for `all`, and the confusion matrices, for `raw` and `crf`.

    Args:
        args: options of train.py; the weights are VOC_best.pth in the snapshot folder.
        crf_args: options of the CRF.
        folder: where to write logits and label maps.
    """
    device, logits = pick_device(args.device, args.gpu), folder / "logits"
    network = prepare(
        load_deeplab(args.snapshot_dir / "VOC_best.pth", args.num_classes), device, args.channels_last
    )
    image_dir, label_dir = args.data_dir / "JPEGImages", args.data_dir / "SegmentationClassAug"
    config = DataConfig(image_dir, label_dir, num_classes=args.num_classes, ignore_label=args.ignore_label)
    settings = make_settings(args.num_classes, CRFParams(), crf_args.crf_prune, crf_args.crf_backend, device)
    found: dict[str, dict[str, ConfusionMatrix]] = {"raw": {}, "crf": {}}
    for kind, entries in split_val(args, label_dir).items():
        images = EvalDataset(entries, config)
        found["raw"][kind] = score_images(
            network, images, args.num_workers, device, args.scales, logit_dir=logits, desc="val"
        )
        tasks = make_tasks(entries, image_dir, logits, folder / "crf")
        found["crf"][kind] = evaluate_crf(tasks, settings, crf_args.n_jobs, label_dir, args.ignore_label)
    return {how: summary(kinds) for how, kinds in found.items()}


def summary(confusions: dict[str, ConfusionMatrix]) -> dict:
    """Mean IoU by kind of image and for `all`, and the confusion matrices by kind."""
    first = next(iter(confusions.values()))
    total = ConfusionMatrix(first.num_classes, first.ignore_label)
    total.counts = torch.stack([c.matrix() for c in confusions.values()]).sum(0).flatten()
    miou = {kind: c.scores()["Mean IoU"] for kind, c in {**confusions, "all": total}.items()}
    return {"miou": miou, "confusion": {kind: c.matrix().tolist() for kind, c in confusions.items()}}
