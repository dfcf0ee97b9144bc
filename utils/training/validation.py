"""What stage 1 looks at now and then: scores on the validation images, a picture of a fixed batch, thresholds."""

import argparse
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from datasets.images import read_image
from datasets.loaders import EvalDataset, ImageDataset, eval_loader
from utils.core import distributed
from utils.core.files import save_image
from utils.evaluation.inference import infer
from utils.evaluation.scoring import score_images
from utils.evaluation.visualize import contact_sheet
from utils.training.log import TrainLog
from utils.training.resume import append
from utils.training.setup import Trainer
from utils.training.thresholds import measure_iou_thresholds

SHOWN = 8  # images of a contact sheet


@dataclass
class Validation:
    """The images that it takes, and where it tells what it found."""

    val: EvalDataset | None  # None: --no-val
    simple: ImageDataset
    names: list[str]
    args: argparse.Namespace
    device: torch.device
    log: TrainLog
    file: IO[str]  # val.jsonl

    def __call__(self, i: int, t: Trainer) -> None:
        """Scores, a contact sheet, and the weights on disk if they are the best so far, or if nothing tells."""
        distributed.broadcast_buffers(t.G)
        if self.val is not None:
            t.scores = self.score(t.G)
            append(self.file, {"i": i, **t.scores})
            self.log.scores(i, t.scores)
            if distributed.is_main():
                tqdm.write(f"iteration {i}: val mIoU {100 * t.scores['Mean IoU']:.2f} %")
        if distributed.is_main():
            sheet = self.draw(t.G)
            save_image(self.args.snapshot_dir / f"sheets/{i:06d}.png", sheet)
            self.log.picture(i, sheet)
        if t.scores is None or t.best is None or t.scores["Mean IoU"] > t.best:
            t.best = t.scores["Mean IoU"] if t.scores else None
            t.save_best()

    def score(self, G: nn.Module) -> dict:
        """Scores on the validation images of all processes; G is back in training mode afterwards."""
        G.eval()
        confusion = score_images(
            G, self.val, self.args.num_workers, self.device, self.args.scales, desc="val"
        )
        G.train()
        return confusion.gather().scores()

    def draw(self, G: nn.Module) -> Image.Image:
        """The first simple images: image, pseudo label, and what the network makes of it by now."""
        shown = EvalDataset(self.simple.entries[:SHOWN], self.simple.config)
        G.eval()
        found = infer(G, eval_loader(shown, 0), self.device, self.args.scales)
        rows = [
            (read_image(shown.image_path(entry))[..., ::-1], label.cpu().numpy(), prediction.cpu().numpy())
            for entry, (_, _, prediction, label) in zip(shown.entries, found)
        ]
        G.train()
        labels = sorted({int(label) for row in rows for cell in row[1:] for label in np.unique(cell)} - {0})
        legend = [(self.names[n] if n < len(self.names) else "ignored", n) for n in labels]
        return contact_sheet(rows, ("image", "pseudo label", "prediction"), legend=legend)


def auto_thresholds(
    G: nn.Module, simple: ImageDataset, args: argparse.Namespace, device: torch.device
) -> list[float]:
    """T_class, measured on the simple images with the network as it is."""
    distributed.broadcast_buffers(G)
    classes = {entry.id: entry.classes[0] for entry in simple.entries}
    images = EvalDataset(simple.entries, simple.config).part(distributed.rank(), distributed.world_size())
    loader = eval_loader(images, args.num_workers, pin=device.type == "cuda")
    measured = measure_iou_thresholds(G, loader, classes, args.num_classes, args.ignore_label)
    if distributed.is_main():
        tqdm.write(f"IoU thresholds, measured: {','.join(f'{t:.1f}' for t in measured)}")
        if min(measured) == 0:
            tqdm.write("of a class at 0 ONF drops no image: try a longer warm-up (--denoise-from)")
    return measured
