"""One run: training, scores on val, what ONF and PND drop, and the quality of the pseudo labels."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.labels import IGNORE_LABEL, read_label
from datasets.lists import read_list
from datasets.loaders import DataConfig, EvalDataset
from networks.checkpoint import load_deeplab
from utils.core import cli
from utils.core.device import pick_device
from utils.core.files import ROOT
from utils.denoising import foreground_iou, noisy_pixels, online_noise_filter
from utils.evaluation.inference import full_size
from utils.evaluation.metrics import ConfusionMatrix
from utils.iteration import Method
from utils.training.options import build_method, parse_args

BAD_IOU = 0.5  # ONF should drop an image whose label has a lower IoU with the truth
Shares = dict[str, float | None]


def script(name: str, *options: object) -> None:
    """Run a script of the project in this process."""
    cli.call(str(ROOT / f"{name}.py"), *options)


def do_run(options: Sequence[str], folder: Path, jobs: int, device: str | None, labels: bool) -> dict:
    """Train with these options of train.py, or continue an interrupted training, and measure the last weights.

    Everything that the scripts write is in `folder`. With `labels`, also make and score pseudo labels for stage 2.
    """
    on_device = [] if device is None else [f"--device={device}"]
    script("train", *options, *on_device, f"--snapshot-dir={folder}")
    args = parse_args("", list(options))
    state = torch.load(folder / "last.pth", map_location="cpu", weights_only=True)
    torch.save(state["networks"][0], folder / "final.pth")
    method = build_method(args, torch.device("cpu"))
    if state["values"].get("thresholds") is not None:
        method = replace(method, iou_thresholds=torch.tensor(state["values"]["thresholds"]))
    common = [f"--data-dir={args.data_dir}", f"--num-classes={args.num_classes}", *on_device]
    network = [f"--restore-from={folder}/final.pth", f"--num-workers={args.num_workers}"]
    val = [f"--data-list={args.list_dir}/val.txt", f"--logit-dir={folder}/logit_val", f"--score-dir={folder}/scores"]
    script("evaluate", *common, *network, *val, f"--save-predictions={folder}/raw_val")
    script("evaluate_crf", *common, *val, f"--prediction-dir={folder}/crf_val", f"--n-jobs={jobs}")
    curve = [json.loads(line) for line in (folder / "val.jsonl").read_text().splitlines()]
    return {
        "curve": {line["i"]: line["Mean IoU"] for line in curve},
        "raw": scores_by_kind(folder / "raw_val", args),
        "crf": scores_by_kind(folder / "crf_val", args),
        **denoising(load_deeplab(folder / "final.pth", args.num_classes), args, method, pick_device(device, None)),
        **(pseudo_labels(args, folder, common, network, jobs) if labels else {"simple": {}, "complex": {}}),
    }


def scores_by_kind(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Mean IoU of label maps over all val images, and over those of one class and of several, where there are any."""
    kinds = {kind: ConfusionMatrix(args.num_classes) for kind in ("all", "one class", "several")}
    for entry in read_list(args.list_dir / "val.txt", args.num_classes, labelled=False):
        truth = read_label(args.data_dir / f"SegmentationClassAug/{entry.id}.png", args.num_classes)
        found = read_label(folder / f"{entry.id}.png", args.num_classes)
        several = len(set(np.unique(truth).tolist()) - {0, IGNORE_LABEL}) > 1
        for kind in ("all", "several" if several else "one class"):
            kinds[kind].update(torch.from_numpy(truth), torch.from_numpy(found))
    return {kind: c.scores()["Mean IoU"] for kind, c in kinds.items() if c.occurring()}


def mean(values: Tensor) -> float | None:
    """The mean; None of nothing."""
    return float(values.double().mean()) if values.numel() else None


def filter_quality(dropped: Tensor, bad: Tensor) -> Shares:
    """How well a filter finds what is bad: two boolean tensors of one shape, over images or pixels.

    `precision` is the share of bad ones among the dropped, `recall` that of dropped ones among the bad.
    """
    shares = {"bad": bad, "dropped": dropped, "bad after": bad[~dropped]}
    shares |= {"precision": bad[dropped], "recall": dropped[bad]}
    return {name: mean(values) for name, values in shares.items()}


def labelled_iou(labels: np.ndarray, truth: np.ndarray) -> float:
    """IoU of the foregrounds of two label maps, over the pixels that neither ignores."""
    known = (labels != IGNORE_LABEL) & (truth != IGNORE_LABEL)
    found, object_ = known & (labels > 0), known & (truth > 0)
    return float((found & object_).sum() / max(1, (found | object_).sum()))


@torch.no_grad()
def denoising(G: nn.Module, args: argparse.Namespace, method: Method, device: torch.device) -> dict[str, Shares]:
    """What ONF and PND drop with the final network and thresholds, against the true masks, on whole simple images.

    PND is measured on the images that ONF keeps, as in training. IoUs are of the foregrounds, means over the images;
    pixels that label or truth ignore do not count.
    """
    listed = read_list(args.list_dir / "simple_list.txt", args.num_classes)
    images = EvalDataset(listed, DataConfig(args.data_dir / "JPEGImages", args.pseudo_label_dir))
    T = method.T(args.num_steps - 1)
    G, ious, pixels = G.to(device), [], []
    for id_, image, label in (images[k] for k in range(len(images))):
        logits = full_size(G(torch.from_numpy(image).to(device)), label.shape).cpu()
        truth = read_label(args.data_dir / f"truth/{id_}.png", args.num_classes)
        labels, predicted = torch.from_numpy(label)[None], logits.argmax(1)[0].numpy()
        ious.append([foreground_iou(logits, labels), labelled_iou(label, truth), labelled_iou(predicted, truth)])
        loss = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE_LABEL, reduction="none")
        dropped = torch.zeros_like(labels) > 0 if T is None else noisy_pixels(loss, labels, T, method.exempt)
        known = torch.from_numpy((label != IGNORE_LABEL) & (truth != IGNORE_LABEL))
        pixels.append((dropped[0, known], torch.from_numpy(label != truth)[known]))
    iou, label_iou, network_iou = torch.tensor(ious).T
    thresholds = method.iou_thresholds[[entry.classes[0] for entry in images.entries]]
    keep = online_noise_filter(iou, thresholds) if method.onf else torch.ones_like(iou, dtype=torch.bool)
    kept = [pair for pair, k in zip(pixels, keep.tolist()) if k]
    means = {"labels": label_iou, "kept by ONF": label_iou[keep], "dropped by ONF": label_iou[~keep]}
    return {
        "iou": {name: mean(values) for name, values in (means | {"network": network_iou}).items()},
        "onf": filter_quality(~keep, label_iou < BAD_IOU),
        "pnd": filter_quality(*map(torch.cat, zip(*kept))),
    }


def pseudo_labels(
    args: argparse.Namespace, folder: Path, common: list[str], network: list[str], jobs: int
) -> dict[str, Shares]:
    """Scores by evaluate_labels.py of the labels of both kinds of images: saliency, network, + CRF, + mining."""
    train, logits = f"--data-list={args.list_dir}/train_cls.txt", f"--logit-dir={folder}/logit_train"
    classes = f"--num-classes={args.num_classes}"
    script("gen_label", *common, *network, train, logits)
    for name, iterations in (("network", 0), ("crf", 10)):
        made = [f"--pseudo-label-dir={folder}/{name}", f"--crf-iterations={iterations}", f"--n-jobs={jobs}"]
        script("gen_label_crf", *common, train, logits, *made)
    script("gen_label_mining", classes, train, f"--pseudo-label-dir={folder}/crf", f"--out={folder}/mined")
    named = [f"{name}={folder / name}" for name in ("network", "crf", "mined")]
    scores = {}
    for kind, extra in (("simple", [f"saliency={args.data_dir}/sal2gt"]), ("complex", [])):
        table = folder / f"scores/{kind}.json"
        paths = [f"--data-list={args.list_dir}/{kind}_list.txt", f"--truth-dir={args.data_dir}/truth"]
        script("evaluate_labels", classes, *paths, f"--score-path={table}", *extra, *named)
        rows = json.loads(table.read_text())
        scores[kind] = {f"{name}: {score}": value for name, row in rows.items() for score, value in row.items()}
    return scores
