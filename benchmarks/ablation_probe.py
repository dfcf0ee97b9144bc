"""What known truth tells about the denoising while it trains: does ONF drop the bad images, PND the bad pixels?"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.labels import read_label
from datasets.lists import read_list
from datasets.loaders import DataConfig, EvalDataset
from datasets.openmoji.dataset import labelled_iou
from utils.core.device import pick_device
from utils.core.files import save_json
from utils.denoising import foreground_iou, noise_threshold, noisy_pixels, online_noise_filter
from utils.evaluation.inference import full_size
from utils.evaluation.metrics import ConfusionMatrix
from utils.iteration import Method

BAD_IOU = 0.5  # an image whose label has a lower IoU with the truth should be dropped
ONF_GRID = tuple(k / 10 for k in range(1, 10))  # other thresholds, to see what they would do
PND_GRID = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)


def filter_quality(dropped: Tensor, bad: Tensor) -> dict[str, float | None]:
    """How well dropping finds what is bad: booleans of one shape, in pixels or in images.

    Returns:
        `precision` (bad among the dropped, None where nothing is dropped), `recall` (dropped among the bad),
        `base` (bad among all: the precision of dropping at random) and `dropped` (among all).
    """
    hits, n = int((dropped & bad).sum()), dropped.numel()
    return {
        "precision": _share(hits, int(dropped.sum())),
        "recall": _share(hits, int(bad.sum())),
        "base": _share(int(bad.sum()), n),
        "dropped": _share(int(dropped.sum()), n),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None


def onf_quality(keep: Tensor, label_iou: Tensor) -> dict[str, float | None]:
    """IoU of the labels with the truth, of the images that ONF keeps and of those it drops."""
    means = {"iou_kept": _mean(label_iou[keep]), "iou_dropped": _mean(label_iou[~keep])}
    return means | filter_quality(~keep, label_iou < BAD_IOU)


def pnd_quality(
    loss: Tensor, labels: Tensor, truth: Tensor, threshold: float, exempt: Tensor | None, ignore_label: int
) -> dict[str, float | None]:
    """Precision and recall of the pixels that PND drops; a dropped pixel is right where its label is wrong."""
    labelled = labels != ignore_label
    dropped = noisy_pixels(loss, labels, threshold, exempt)
    return filter_quality(dropped[labelled], (labels != truth)[labelled])


class Probe:
    """Looks at the first simple images whenever a validation is due; one JSON file a look, in `folder`."""

    def __init__(self, args: argparse.Namespace, images: int, folder: Path) -> None:
        entries = read_list(args.list_dir / "simple_list.txt", args.num_classes)[:images]
        config = DataConfig(
            args.data_dir / "JPEGImages", args.pseudo_label_dir, num_classes=args.num_classes,
            ignore_label=args.ignore_label,
        )  # fmt: skip
        self.images, self.folder = EvalDataset(entries, config), folder
        self.truth_dir, self.device = args.data_dir / "truth", pick_device(args)

    def __call__(self, i: int, G: nn.Module, method: Method) -> None:
        G.eval()
        save_json(self.folder / f"{i:06d}.json", self.look(i, G, method))
        G.train()

    def seen(self) -> list[dict]:
        """Every look so far, in the order of the iterations."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]

    @torch.no_grad()
    def look(self, i: int, G: nn.Module, method: Method) -> dict:
        """ONF and PND as they would decide with the network as it is, on whole images.

        During the warm-up PND is shown with its first threshold. `all`: PND on all images; `kept`: on those that ONF
        keeps, which it meets in training; `class_...`: by 0-based class; `onf_at`, `pnd_at`: by threshold.
        """
        ious, label_ious, net_ious, pixels = [], [], [], []
        confusion = ConfusionMatrix(self.images.config.num_classes, method.ignore_label)
        for id_, image, label in (self.images[k] for k in range(len(self.images))):
            p = full_size(G(torch.from_numpy(image).to(self.device)), label.shape)
            labels = torch.from_numpy(label)[None].to(self.device)
            truth = read_label(self.truth_dir / f"{id_}.png", self.images.config.num_classes, label.shape)
            loss = F.cross_entropy(p, labels.long(), ignore_index=method.ignore_label, reduction="none")
            ious.append(foreground_iou(p, labels, method.ignore_label)[0].cpu())
            label_ious.append(labelled_iou(label, truth))
            prediction = p.argmax(1)[0].cpu()
            net_ious.append(labelled_iou(prediction.numpy(), truth))
            confusion.update(torch.from_numpy(truth), prediction)
            pixels.append((loss[0].cpu(), labels[0].cpu(), torch.from_numpy(truth)))
        iou, label_iou = torch.stack(ious), torch.tensor(label_ious)
        classes = torch.tensor([entry.classes[0] for entry in self.images.entries])
        keep = online_noise_filter(iou, method.iou_thresholds.cpu()[classes])
        start, end = method.denoise_from, method.denoise_until
        T = noise_threshold(max(i, start), start, end, method.high_T, method.low_T)

        def pnd(T: float, chosen: Iterable) -> dict:
            columns = [torch.cat([x.flatten() for x in column]) for column in zip(*chosen)]
            return pnd_quality(*columns, T, method.exempt.cpu(), method.ignore_label)

        kept = [pixel for pixel, k in zip(pixels, keep.tolist()) if k]
        return {
            "i": i, "denoise_from": start, "T": T,
            "iou_labels": _mean(label_iou), "iou_network": _mean(torch.tensor(net_ious)),
            "class_iou_network": list(confusion.scores()["Class IoU"].values())[1:],
            "class_kept": [_mean(keep[classes == c].float()) for c in range(confusion.num_classes - 1)],
            "onf": onf_quality(keep, label_iou), "pnd": {"all": pnd(T, pixels), "kept": pnd(T, kept)},
            "onf_at": {str(t): onf_quality(iou > t, label_iou) for t in ONF_GRID},
            "pnd_at": {str(t): pnd(t, kept) for t in PND_GRID},
        }  # fmt: skip
