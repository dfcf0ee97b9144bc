"""The trainer of stage 1."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets.loaders import EvalDataset, ImageDataset
from datasets.sampling import generator
from networks.deeplab import DeepLab
from utils.alignment import draw_cutmix
from utils.core import distributed
from utils.core.device import any_size
from utils.core.files import save_image
from utils.evaluation.scoring import score_images
from utils.iteration import Batches, Iteration, Method
from utils.training.log import TrainLog
from utils.training.optim import build_adam, build_sgd, poly_lr
from utils.training.trainer import Trainer
from utils.training.validation import draw_sheet, measure_iou_thresholds


class MDBATrainer(Trainer):
    """Trains G and D with the method, validates, and keeps the best weights."""

    logs = ("log.jsonl", "val.jsonl")
    shown = ("loss_seg", "loss_cls", "loss_D", "kept", "dropped", "foreground")

    def __init__(
        self,
        G: DeepLab,
        D: nn.Module | None,  # None without C2S
        method: Method,
        args: argparse.Namespace,
        device: torch.device,
        simple: ImageDataset,
        val: EvalDataset | None,  # None: --no-val
        names: Sequence[str],  # of the labels
    ) -> None:
        sgd = build_sgd(G, args.learning_rate, args.momentum, args.weight_decay, not args.single_steps)
        optimizers: dict[torch.optim.Optimizer, float] = {sgd: args.learning_rate}
        if D is not None:
            optimizers[build_adam(D, args.learning_rate_D)] = args.learning_rate_D
        networks = [G] if D is None else [G, D]

        def decay(i: int) -> float:
            return poly_lr(1.0, i, args.num_steps, args.power)

        super().__init__(args.snapshot_dir, networks, optimizers, decay, args.num_steps, args, device, vars(args))
        self.G, self.D, self.simple, self.val, self.names = G, D, simple, val, names
        self.iter_size, self.validate_every = args.iter_size, args.save_pred_every
        self.local_batch_size = distributed.local_batch_size(args.batch_size)
        self.iteration = Iteration(G, D, method, self.precision)
        self.thresholds_missing = args.iou_thresholds == "auto" and method.onf

    def step(self, i: int, batches: Iterator[Batches]) -> list[Mapping[str, Tensor]]:
        """As in Trainer; for --iou-thresholds auto, T_class is measured when ONF starts, or in the saved state."""
        method, progress, workers = self.iteration.method, self.progress, self.args.num_workers
        if self.thresholds_missing and i >= method.denoise_from:
            if progress.thresholds is None:
                distributed.broadcast_buffers(self.G)
                progress.thresholds = measure_iou_thresholds(self.G.eval(), self.simple, workers, self.device)
                self.G.train()
            values = torch.tensor(progress.thresholds, device=self.device)
            self.iteration.method, self.thresholds_missing = replace(method, iou_thresholds=values), False
        return super().step(i, batches)

    def accumulate(self, i: int, k: int, batch: Batches) -> Mapping[str, Tensor]:
        """As in Trainer; the draw of CutMix is the same in all processes."""
        args, method, mix = self.args, self.iteration.method, None
        if method.s2c:
            rng = generator(args.random_seed, "cutmix", i, k)
            mix = draw_cutmix(rng, self.local_batch_size, args.input_size, method.cutmix_probability)
        return self.iteration(i, batch, mix, 1 / self.iter_size)

    @any_size()
    def validate(self, n: int, log: TrainLog) -> float | None:
        """Draw a contact sheet of simple images, and score G on the validation images, if there are any."""
        distributed.broadcast_buffers(self.G)
        G, args, progress = self.G.eval(), self.args, self.progress
        if distributed.is_main():
            sheet = draw_sheet(G, self.simple, self.names, args.scales, self.device)
            save_image(self.folder / "sheets" / f"{n:06d}.png", sheet)
            log.picture(n, sheet)
        score = None
        if self.val is not None:
            confusion = score_images(G, self.val, args.num_workers, self.device, args.scales, desc="val").gather()
            progress.scores, progress.occurring = confusion.scores(), sorted(confusion.occurring())
            log.scores(n, progress.scores, collapsed=not confusion.matrix()[:, 1:].any())
            score = progress.scores["Mean IoU"]
        G.train()
        return score

    def weights(self, n: int) -> dict[Path, nn.Module]:
        """VOC_best.pth and, with C2S, VOC_best_D.pth."""
        weights: dict[Path, nn.Module] = {self.folder / "VOC_best.pth": self.G}
        return weights if self.D is None else weights | {self.folder / "VOC_best_D.pth": self.D}
