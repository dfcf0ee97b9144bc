"""What stage 1 looks at during the training: scores, a contact sheet, measured thresholds of ONF."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from datasets.images import read_image
from datasets.loaders import EvalDataset, ImageDataset, eval_loader
from utils.core import distributed
from utils.core.device import any_size, send
from utils.denoising import foreground_iou
from utils.evaluation.inference import full_size, infer
from utils.evaluation.metrics import ConfusionMatrix
from utils.evaluation.scoring import score_images
from utils.evaluation.visualize import contact_sheet

SHEET_IMAGES = 8


@dataclass
class Validation:
    """Evaluates G on whole images and leaves it in training mode."""

    val: EvalDataset | None  # None: --no-val
    simple: ImageDataset
    names: Sequence[str]  # of the labels
    scales: Sequence[float]
    num_workers: int
    device: torch.device

    @any_size()
    def score(self, G: nn.Module) -> ConfusionMatrix | None:
        """The counts on the validation images of all processes; None without validation images."""
        if self.val is None:
            return None
        G.eval()
        confusion = score_images(G, self.val, self.num_workers, self.device, self.scales, desc="val")
        G.train()
        return confusion.gather()

    @any_size()
    def sheet(self, G: nn.Module) -> Image.Image:
        """Image, pseudo label and prediction of the first simple images."""
        shown = EvalDataset(self.simple.entries[:SHEET_IMAGES], self.simple.config)
        G.eval()
        results = infer(G, eval_loader(shown, 0), self.device, self.scales)
        rows = [
            (read_image(shown.image_path(entry))[..., ::-1], label.cpu().numpy(), prediction.cpu().numpy())
            for entry, (_, _, prediction, label) in zip(shown.entries, results)
            if label is not None
        ]
        G.train()
        labels = sorted({int(label) for row in rows for cell in row[1:] for label in np.unique(cell)} - {0})
        legend = [(self.names[n] if n < len(self.names) else "ignored", n) for n in labels]
        return contact_sheet(rows, ("image", "pseudo label", "prediction"), legend=legend)

    @any_size()
    @torch.no_grad()
    def iou_thresholds(self, G: nn.Module) -> list[float]:
        """T_class of ONF for `--iou-thresholds auto`, one per foreground class; 0 for a class without an image.

        The mean foreground IoU of each class over the simple images, floored to a tenth. The paper calls its
        thresholds class-adaptive and floored; that they are these means is an interpretation.
        """
        config = self.simple.config
        classes = {entry.id: entry.classes[0] for entry in self.simple.entries}
        images = EvalDataset(self.simple.entries, config).part(distributed.rank(), distributed.world_size())
        loader = eval_loader(images, self.num_workers, pin=self.device.type == "cuda")
        sums, counts = torch.zeros(2, config.num_classes - 1, dtype=torch.float64)
        G.eval()
        for id_, image, label in tqdm(
            loader, "IoU thresholds", len(images), leave=False, disable=not distributed.is_main()
        ):
            logits = full_size(G(send(image, self.device)), label.shape)
            sums[classes[id_]] += float(foreground_iou(logits, send(label, self.device)[None], config.ignore_label))
            counts[classes[id_]] += 1
        G.train()
        sums, counts = map(distributed.all_reduce_sum, (sums, counts))
        measured = [floor_to_tenth(value) for value in (sums / counts.clamp(min=1)).tolist()]
        if distributed.is_main():
            tqdm.write(f"measured IoU thresholds: {','.join(f'{t:.1f}' for t in measured)}")
            if min(measured) == 0:
                tqdm.write("ONF drops no image of a class with threshold 0: try a later --denoise-from")
        return measured


def floor_to_tenth(value: float) -> float:
    """0.69 -> 0.6. The offset keeps 0.7 at 0.7, although 10 * 0.7 may be slightly below 7."""
    return math.floor(value * 10 + 1e-6) / 10
