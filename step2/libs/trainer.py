"""The trainer of stage 2."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from step2.libs.config import Config
from step2.libs.loss import msc_loss
from step2.libs.models import load_initial
from step2.libs.optim import build_sgd, lr_after
from step2.libs.setup import Paths, build
from utils.core import distributed
from utils.core.device import prepare
from utils.training.trainer import Trainer


class MSCTrainer(Trainer):
    """Trains on pseudo labels with multi-scale inputs; iterations are numbered from 1."""

    first_number, key = 1, "iteration"
    shown = ("loss",)

    def __init__(self, config: Config, args: argparse.Namespace, device: torch.device) -> None:
        """Build the network with its initial weights. Scale and shift of batch normalization are not trained."""
        s, initial = config.SOLVER, config.MODEL.INIT_MODEL
        torch.manual_seed(args.seed)
        model = build(config)
        if initial is not None:
            copied = load_initial(model, Path(initial))
            if distributed.is_main():
                print(f"{initial}: copied {copied} of {len(model.state_dict())} tensors")
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        prepare(model, device, args.channels_last).train()

        def decay(i: int) -> float:
            return lr_after(i, 1.0, s.ITER_MAX, s.POLY_POWER, s.LR_DECAY)

        sgd = build_sgd(model, s.LR, s.MOMENTUM, s.WEIGHT_DECAY)
        options = vars(args) | config.training_options()
        super().__init__(Paths(config).models, [model], {sgd: s.LR}, decay, s.ITER_MAX, args, device, options)
        self.model, self.ignore_label = model, config.DATASET.IGNORE_LABEL
        self.average, self.iter_size, self.validate_every = s.AVERAGE_LOSS, s.ITER_SIZE, s.ITER_SAVE

    def accumulate(self, i: int, k: int, batch: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """As in Trainer; batch: images and labels."""
        images, labels = batch
        loss, _ = msc_loss(self.precision.forward(self.model, images), labels, self.ignore_label)
        self.precision.backward(loss / self.iter_size)
        return {"loss": loss.detach()}

    def weights(self, n: int) -> dict[Path, nn.Module]:
        """checkpoint_N.pth, and checkpoint_final.pth after the last iteration."""
        names = [str(n)] if self.validate_every and n % self.validate_every == 0 else []
        names += ["final"] if n == self.num_steps else []
        return {self.folder / f"checkpoint_{name}.pth": self.model for name in names}
