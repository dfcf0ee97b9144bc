"""What stage 1 looks at during the training: a contact sheet, and the IoUs from which thresholds of ONF follow."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from datasets.images import read_image
from datasets.loaders import EvalDataset, ImageDataset, eval_loader
from utils.core import distributed
from utils.core.device import any_size
from utils.denoising import foreground_iou
from utils.evaluation.inference import full_size, infer
from utils.evaluation.visualize import contact_sheet

SHEET_IMAGES = 8


def draw_sheet(
    G: nn.Module, simple: ImageDataset, names: Sequence[str], scales: Sequence[float], device: torch.device
) -> Image.Image:
    """Image, pseudo label and prediction of the first simple images; G is in eval mode."""
    shown = EvalDataset(simple.entries[:SHEET_IMAGES], simple.config)
    rows = []
    for entry, (_, _, prediction, label) in zip(shown.entries, infer(G, shown, 0, device, scales)):
        image = read_image(shown.image_path(entry))[..., ::-1]
        rows.append((image, np.asarray(label.cpu()), prediction.cpu().numpy()))  # type: ignore[union-attr]
    labels = sorted({int(label) for row in rows for cell in row[1:] for label in np.unique(cell)} - {0})
    legend = [(names[n] if n < len(names) else "ignored", n) for n in labels]
    return contact_sheet(rows, ("image", "pseudo label", "prediction"), legend=legend)


@any_size()
@torch.no_grad()
def measure_iou_thresholds(G: nn.Module, simple: ImageDataset, num_workers: int, device: torch.device) -> list[float]:
    """T_class of ONF for `--iou-thresholds auto`, one per foreground class; 0 for a class without an image.

    The mean foreground IoU of each class over the simple images, floored to a tenth. The paper calls its thresholds
    class-adaptive and floored; that they are these means is an interpretation. G is in eval mode.
    """
    config, main = simple.config, distributed.is_main()
    classes = {entry.id: entry.classes[0] for entry in simple.entries}
    images = EvalDataset(simple.entries, config).part(distributed.rank(), distributed.world_size())
    loader = eval_loader(images, num_workers, device)
    sums, counts = torch.zeros(2, config.num_classes - 1, dtype=torch.float64)
    for id_, image, label in tqdm(loader, "IoU thresholds", len(images), leave=False, disable=not main):
        logits = full_size(G(image), label.shape)
        sums[classes[id_]] += float(foreground_iou(logits, label[None], config.ignore_label))
        counts[classes[id_]] += 1
    sums, counts = map(distributed.all_reduce_sum, (sums, counts))
    measured = [floor_to_tenth(value) for value in (sums / counts.clamp(min=1)).tolist()]
    if main:
        tqdm.write(f"measured IoU thresholds: {','.join(f'{t:.1f}' for t in measured)}")
        if min(measured) == 0:
            tqdm.write("ONF drops no image of a class with threshold 0: try a later --denoise-from")
    return measured


def floor_to_tenth(value: float) -> float:
    """0.69 -> 0.6. The offset keeps 0.7 at 0.7, although 10 * 0.7 may be slightly below 7."""
    return math.floor(value * 10 + 1e-6) / 10
