"""The trainer of stage 1."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets.sampling import generator
from networks.deeplab import DeepLab
from utils.alignment import draw_cutmix
from utils.core import distributed
from utils.core.device import Precision
from utils.core.files import save_image
from utils.iteration import Batches, Iteration, Method
from utils.training.log import TrainLog
from utils.training.optim import build_adam, build_sgd, poly_lr
from utils.training.trainer import Trainer
from utils.training.validation import Validation

Probe = Callable[[int, nn.Module, Method], None]


class MDBATrainer(Trainer):
    """Trains G and D with the method, validates, and keeps the best weights."""

    shown = ("loss_seg", "loss_cls", "loss_D", "kept", "dropped", "foreground")

    def __init__(
        self,
        G: DeepLab,
        D: nn.Module | None,
        method: Method,
        args: argparse.Namespace,
        device: torch.device,
        validation: Validation,
        probe: Probe | None = None,
    ) -> None:
        """Args:
        G, D: in training mode on the device; D is None without C2S.
        args: the options of train.py.
        probe: called with i, G and the method before each validation.
        """
        sgd = build_sgd(G, args.learning_rate, args.momentum, args.weight_decay, not args.single_steps)
        optimizers: dict[torch.optim.Optimizer, float] = {sgd: args.learning_rate}
        if D is not None:
            optimizers[build_adam(D, args.learning_rate_D)] = args.learning_rate_D
        super().__init__(
            args.snapshot_dir,
            [G] if D is None else [G, D],
            optimizers,
            lambda i: poly_lr(1.0, i, args.num_steps, args.power),
            args.num_steps,
            Precision(args.amp, device),
            vars(args),
        )
        self.G, self.D, self.args, self.device = G, D, args, device
        self.validation, self.probe = validation, probe
        self.iter_size, self.validate_every = args.iter_size, args.save_pred_every
        self.local_batch_size = distributed.local_batch_size(args.batch_size)
        self.iteration = Iteration(G, D, method, self.precision)
        self.thresholds: list[float] | None = None  # T_class, if measured
        self.scores: dict | None = None  # of the last validation
        self.occurring: list[int] | None = None  # labels that occur in its ground truth

    @property
    def method(self) -> Method:
        return self.iteration.method

    def resume_or_start(self) -> int:
        """Load the saved state, or back up the files of an earlier run; returns the number of iterations done."""
        args = self.args
        starts = [args.restore_from, args.restore_from_D]
        done = self.begin(not args.no_resume, vars(args), self.device, [*self.weights(0)], starts)
        if distributed.is_main() and not done:
            for sheet in (self.folder / "sheets").glob("*.png"):
                sheet.unlink()
        return done

    def before(self, i: int) -> None:
        """Measure T_class of ONF for --iou-thresholds auto."""
        if self.args.iou_thresholds == "auto" and self.method.onf and i == self.method.denoise_from:
            distributed.broadcast_buffers(self.G)
            self.set_thresholds(self.validation.iou_thresholds(self.G))

    def set_thresholds(self, thresholds: list[float]) -> None:
        """Replace T_class of ONF."""
        self.thresholds = thresholds
        values = torch.tensor(thresholds, device=self.method.iou_thresholds.device)
        self.iteration.method = replace(self.method, iou_thresholds=values)

    def accumulate(self, i: int, k: int, batch: Batches) -> Mapping[str, Tensor]:
        """As in Trainer; the draw of CutMix is the same in all processes."""
        mix = None
        if self.method.s2c:
            rng = generator(self.args.random_seed, "cutmix", i, k)
            probability = self.method.cutmix_probability
            mix = draw_cutmix(rng, self.local_batch_size, self.args.input_size, probability)
        return self.iteration(i, batch, mix, 1 / self.iter_size).tensors()

    def validate(self, n: int, log: TrainLog) -> float | None:
        """Score G on the validation images, and draw a contact sheet of simple images."""
        if self.probe is not None:
            self.probe(n, self.G, self.method)
        distributed.broadcast_buffers(self.G)
        if distributed.is_main():
            sheet = self.validation.sheet(self.G)
            save_image(self.folder / "sheets" / f"{n:06d}.png", sheet)
            log.picture(n, sheet)
        confusion = self.validation.score(self.G)
        if confusion is None:
            return None
        self.scores, self.occurring = confusion.scores(), sorted(confusion.occurring())
        log.scores(n, self.scores, collapsed=not confusion.matrix()[:, 1:].any())
        return self.scores["Mean IoU"]

    def weights(self, n: int) -> dict[Path, nn.Module]:
        """VOC_best.pth and, with C2S, VOC_best_D.pth."""
        weights: dict[Path, nn.Module] = {self.folder / "VOC_best.pth": self.G}
        if self.D is not None:
            weights[self.folder / "VOC_best_D.pth"] = self.D
        return weights

    def values(self) -> dict[str, Any]:
        """As in Trainer."""
        names = ("scores", "occurring", "thresholds")
        return super().values() | {name: getattr(self, name) for name in names}

    def restore(self, values: Mapping[str, Any]) -> None:
        """As in Trainer."""
        super().restore(values)
        self.scores, self.occurring = values.get("scores"), values.get("occurring")
        if values.get("thresholds") is not None:
            self.set_thresholds(values["thresholds"])
