"""The trainer of stage 1."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets.sampling import generator
from networks.deeplab import DeepLab
from utils.alignment import draw_cutmix
from utils.core import distributed
from utils.core.files import save_image
from utils.iteration import Batches, Iteration, Method
from utils.training.log import TrainLog
from utils.training.optim import build_adam, build_sgd, poly_lr
from utils.training.trainer import Trainer
from utils.training.validation import Validation


class MDBATrainer(Trainer):
    """Trains G and D with the method, validates, and keeps the best weights."""

    shown = ("loss_seg", "loss_cls", "loss_D", "kept", "dropped", "foreground")

    def __init__(
        self,
        G: DeepLab,
        D: nn.Module | None,  # None without C2S
        method: Method,
        args: argparse.Namespace,
        device: torch.device,
        validation: Validation,
    ) -> None:
        sgd = build_sgd(G, args.learning_rate, args.momentum, args.weight_decay, not args.single_steps)
        optimizers: dict[torch.optim.Optimizer, float] = {sgd: args.learning_rate}
        if D is not None:
            optimizers[build_adam(D, args.learning_rate_D)] = args.learning_rate_D
        networks = [G] if D is None else [G, D]

        def decay(i: int) -> float:
            return poly_lr(1.0, i, args.num_steps, args.power)

        super().__init__(args.snapshot_dir, networks, optimizers, decay, args.num_steps, args, device, vars(args))
        self.G, self.D, self.validation = G, D, validation
        self.iter_size, self.validate_every = args.iter_size, args.save_pred_every
        self.local_batch_size = distributed.local_batch_size(args.batch_size)
        self.iteration = Iteration(G, D, method, self.precision)

    def resume_or_start(self) -> int:
        """Load the saved state, or back up the files of an earlier run; returns the number of iterations done."""
        args = self.args
        done = self.begin(vars(args), [*self.weights(0)], [args.restore_from, args.restore_from_D])
        self.use_measured_thresholds()
        if distributed.is_main() and not done:
            for sheet in (self.folder / "sheets").glob("*.png"):
                sheet.unlink()
        return done

    def use_measured_thresholds(self) -> None:
        """Replace T_class of ONF by what was measured, if it was."""
        method, thresholds = self.iteration.method, self.progress.thresholds
        if thresholds is not None:
            values = torch.tensor(thresholds, device=method.iou_thresholds.device)
            self.iteration.method = replace(method, iou_thresholds=values)

    def before(self, i: int) -> None:
        """Measure T_class of ONF for --iou-thresholds auto."""
        method = self.iteration.method
        if self.args.iou_thresholds == "auto" and method.onf and i == method.denoise_from:
            distributed.broadcast_buffers(self.G)
            self.progress.thresholds = self.validation.iou_thresholds(self.G)
            self.use_measured_thresholds()

    def accumulate(self, i: int, k: int, batch: Batches) -> Mapping[str, Tensor]:
        """As in Trainer; the draw of CutMix is the same in all processes."""
        args, method, mix = self.args, self.iteration.method, None
        if method.s2c:
            rng = generator(args.random_seed, "cutmix", i, k)
            mix = draw_cutmix(rng, self.local_batch_size, args.input_size, method.cutmix_probability)
        return self.iteration(i, batch, mix, 1 / self.iter_size).tensors()

    def validate(self, n: int, log: TrainLog) -> float | None:
        """Score G on the validation images, and draw a contact sheet of simple images."""
        distributed.broadcast_buffers(self.G)
        if distributed.is_main():
            sheet = self.validation.sheet(self.G)
            save_image(self.folder / "sheets" / f"{n:06d}.png", sheet)
            log.picture(n, sheet)
        confusion = self.validation.score(self.G)
        if confusion is None:
            return None
        scores = confusion.scores()
        self.progress.scores, self.progress.occurring = scores, sorted(confusion.occurring())
        log.scores(n, scores, collapsed=not confusion.matrix()[:, 1:].any())
        return scores["Mean IoU"]

    def weights(self, n: int) -> dict[Path, nn.Module]:
        """VOC_best.pth and, with C2S, VOC_best_D.pth."""
        weights: dict[Path, nn.Module] = {self.folder / "VOC_best.pth": self.G}
        return weights if self.D is None else weights | {self.folder / "VOC_best_D.pth": self.D}
