"""Validation during stage 1: scores, a contact sheet, the best weights, measured thresholds of ONF."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from datasets.images import read_image
from datasets.loaders import EvalDataset, ImageDataset, eval_loader
from utils.core import distributed
from utils.core.device import any_size
from utils.core.files import save_image
from utils.evaluation.inference import infer
from utils.evaluation.metrics import ConfusionMatrix
from utils.evaluation.scoring import score_images
from utils.evaluation.visualize import contact_sheet
from utils.training.log import TrainLog
from utils.training.resume import append
from utils.training.thresholds import measure_iou_thresholds
from utils.training.trainer import Trainer

SHEET_IMAGES = 8
BACKGROUND_ONLY = (
    "the network predicts background only on all validation images: start from pre-trained weights (--restore-from),"
    " or try a later --denoise-from, higher --high-T and --low-T, or another --learning-rate"
)


@dataclass
class Validation:
    """Validates, keeps the best weights, and measures ONF's thresholds."""

    val: EvalDataset | None  # None: --no-val
    simple: ImageDataset
    names: Sequence[str]
    sheet_dir: Path
    scales: Sequence[float]
    num_workers: int
    device: torch.device
    log: TrainLog
    file: IO[str]  # val.jsonl
    warned: bool = False

    def __call__(self, i: int, trainer: Trainer) -> None:
        """Validate after iteration i; without validation images, keep the current weights."""
        distributed.broadcast_buffers(trainer.G)
        if self.val is not None:
            confusion = self.score(self.val, trainer.G)
            trainer.scores, trainer.occurring = confusion.scores(), sorted(confusion.occurring())
            if not confusion.matrix()[:, 1:].any():
                self.warn_of_collapse()
            append(self.file, {"i": i, **trainer.scores})
            self.log.scores(i, trainer.scores)
            if distributed.is_main():
                tqdm.write(f"iteration {i}: val mIoU {100 * trainer.scores['Mean IoU']:.2f} %")
        if distributed.is_main():
            sheet = self.draw(trainer.G)
            save_image(self.sheet_dir / f"{i:06d}.png", sheet)
            self.log.picture(i, sheet)
        score = trainer.scores["Mean IoU"] if trainer.scores else None
        if score is None or trainer.best is None or score > trainer.best:
            trainer.best = score
            trainer.save_best(i)

    @any_size()
    def score(self, val: EvalDataset, G: nn.Module) -> ConfusionMatrix:
        """The counts on the validation images of all processes; G is in training mode afterwards."""
        G.eval()
        confusion = score_images(G, val, self.num_workers, self.device, self.scales, desc="val")
        G.train()
        return confusion.gather()

    def warn_of_collapse(self) -> None:
        """Print once that the network predicts background only; the falling loss looks like success."""
        if distributed.is_main() and not self.warned:
            tqdm.write(f"warning: {BACKGROUND_ONLY}", file=sys.stderr)
        self.warned = True

    @any_size()
    def draw(self, G: nn.Module) -> Image.Image:
        """Image, pseudo label and prediction of the first simple images."""
        shown = EvalDataset(self.simple.entries[:SHEET_IMAGES], self.simple.config)
        G.eval()
        found = infer(G, eval_loader(shown, 0), self.device, self.scales)
        rows = [
            (read_image(shown.image_path(entry))[..., ::-1], label.cpu().numpy(), prediction.cpu().numpy())
            for entry, (_, _, prediction, label) in zip(shown.entries, found)
            if label is not None
        ]
        G.train()
        labels = sorted({int(label) for row in rows for cell in row[1:] for label in np.unique(cell)} - {0})
        legend = [(self.names[n] if n < len(self.names) else "ignored", n) for n in labels]
        return contact_sheet(rows, ("image", "pseudo label", "prediction"), legend=legend)

    @any_size()
    def iou_thresholds(self, G: nn.Module) -> list[float]:
        """T_class, measured on the simple images with the current network."""
        distributed.broadcast_buffers(G)
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
