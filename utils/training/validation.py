"""What stage 1 looks at during the training: scores, a contact sheet, measured thresholds of ONF."""

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
from utils.core.device import any_size
from utils.evaluation.inference import infer
from utils.evaluation.metrics import ConfusionMatrix
from utils.evaluation.scoring import score_images
from utils.evaluation.visualize import contact_sheet
from utils.training.thresholds import measure_iou_thresholds

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
    def iou_thresholds(self, G: nn.Module) -> list[float]:
        """T_class, measured on the simple images with the current network."""
        config = self.simple.config
        classes = {entry.id: entry.classes[0] for entry in self.simple.entries}
        images = EvalDataset(self.simple.entries, config).part(distributed.rank(), distributed.world_size())
        loader = eval_loader(images, self.num_workers, pin=self.device.type == "cuda")
        measured = measure_iou_thresholds(G, loader, classes, config.num_classes, config.ignore_label)
        if distributed.is_main():
            tqdm.write(f"measured IoU thresholds: {','.join(f'{t:.1f}' for t in measured)}")
            if min(measured) == 0:
                tqdm.write("ONF drops no image of a class with threshold 0: try a later --denoise-from")
        return measured
