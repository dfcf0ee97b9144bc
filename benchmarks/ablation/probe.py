"""Compares the denoising with the ground truth during a training: precision and recall of ONF and PND."""

import argparse
import json
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
from utils.iteration import Method

BAD_IOU = 0.5  # ONF should drop an image whose label has a lower IoU with the truth

Quality = dict[str, float | None]


def filter_quality(dropped: Tensor, bad: Tensor) -> Quality:
    """How well a filter finds what is bad: two boolean tensors of one shape, pixels or images.

    Returns:
        `precision` (share of bad ones among the dropped), `recall` (share of dropped ones among the bad), `base`
        (share of bad ones: the precision of random dropping) and `dropped` (share of dropped ones); None for a share
        of nothing.
    """
    return {
        "precision": _mean(bad[dropped]),
        "recall": _mean(dropped[bad]),
        "base": _mean(bad),
        "dropped": _mean(dropped),
    }


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if values.numel() else None


def onf_quality(keep: Tensor, label_iou: Tensor) -> Quality:
    """Quality of ONF, and the IoU with the truth of the labels that it keeps and drops."""
    means = {"iou_kept": _mean(label_iou[keep]), "iou_dropped": _mean(label_iou[~keep])}
    return means | filter_quality(~keep, label_iou < BAD_IOU)


def pnd_quality(
    loss: Tensor, labels: Tensor, truth: Tensor, threshold: float, exempt: Tensor | None, ignore_label: int
) -> Quality:
    """Quality of PND on labelled pixels; a pixel is bad if its label is wrong."""
    labelled = labels != ignore_label
    dropped = noisy_pixels(loss, labels, threshold, exempt)
    return filter_quality(dropped[labelled], (labels != truth)[labelled])


class Probe:
    """Measures on the first simple images at each validation; writes one JSON file each time."""

    def __init__(self, args: argparse.Namespace, images: int, folder: Path) -> None:
        entries = read_list(args.list_dir / "simple_list.txt", args.num_classes)[:images]
        labels = {"num_classes": args.num_classes, "ignore_label": args.ignore_label}
        config = DataConfig(args.data_dir / "JPEGImages", args.pseudo_label_dir, **labels)
        self.images, self.folder = EvalDataset(entries, config), folder
        self.truth_dir, self.device = args.data_dir / "truth", pick_device(args.device, args.gpu)

    def __call__(self, i: int, G: nn.Module, method: Method) -> None:
        G.eval()
        save_json(self.folder / f"{i:06d}.json", self.measure(i, G, method))
        G.train()

    def results(self) -> list[dict]:
        """All measurements so far, by iteration."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]

    @torch.no_grad()
    def measure(self, i: int, G: nn.Module, method: Method) -> dict:
        """Decisions of ONF and PND with the present network, on whole images.

        PND is measured on the images that ONF keeps, as in training; before the denoising starts, with its first
        threshold.
        """
        found, ignore = [], method.ignore_label
        for id_, image, label in (self.images[k] for k in range(len(self.images))):
            p = full_size(G(torch.from_numpy(image).to(self.device)), label.shape)
            labels = torch.from_numpy(label)[None].to(self.device)
            truth = read_label(self.truth_dir / f"{id_}.png", p.shape[1], label.shape)
            loss = F.cross_entropy(p, labels.long(), ignore_index=ignore, reduction="none")
            network_iou = labelled_iou(p.argmax(1)[0].cpu().numpy(), truth)
            ious = float(foreground_iou(p, labels, ignore)), labelled_iou(label, truth), network_iou
            # Pixels that the truth ignores do not count.
            comparable = labels.cpu().masked_fill(torch.from_numpy(truth == ignore), ignore)
            pixels = loss.cpu(), comparable, torch.from_numpy(truth)
            found.append((ious, [values.flatten() for values in pixels]))
        iou, label_iou, network_iou = torch.tensor([ious for ious, _ in found]).T
        classes = torch.tensor([entry.classes[0] for entry in self.images.entries])
        keep = online_noise_filter(iou, method.iou_thresholds.cpu()[classes])
        start = method.denoise_from
        T = noise_threshold(max(i, start), start, method.denoise_until, method.high_T, method.low_T)
        kept = [pixels for (_, pixels), k in zip(found, keep.tolist()) if k]
        assert T is not None
        losses, kept_labels, truths = map(torch.cat, zip(*kept))
        pnd = pnd_quality(losses, kept_labels, truths, T, method.exempt.cpu(), ignore)
        return {
            "i": i,
            "denoise_from": start,
            "iou_labels": _mean(label_iou),
            "iou_network": _mean(network_iou),
            "onf": onf_quality(keep, label_iou),
            "pnd": {"kept": pnd},
        }
