"""The training step of stage 2 and the state of a run."""

import argparse
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from networks.checkpoint import save
from step2.libs.config import Config
from step2.libs.loss import msc_loss
from step2.libs.models import load_initial
from step2.libs.models.msc import MSC
from step2.libs.optim import build_sgd, lr_after
from step2.libs.setup import Paths, build
from utils.core import distributed
from utils.core.device import Precision, prepare, wrap
from utils.training.optim import set_lr
from utils.training.resume import TrainState


class Trainer:
    """Network, optimizer and state of a run; identical in all processes."""

    def __init__(
        self, model: MSC, config: Config, paths: Paths, args: argparse.Namespace, device: torch.device
    ) -> None:
        """Args: model: in training mode, on `device`."""
        self.model, self.solver = model, config.SOLVER
        self.ignore_label, self.device = config.DATASET.IGNORE_LABEL, device
        self.optimizer = build_sgd(model, self.solver.LR, self.solver.MOMENTUM, self.solver.WEIGHT_DECAY)
        self.precision = Precision(args.amp, device)
        self.network = wrap(model, compiled=args.compile)
        self.recent: deque[Tensor] = deque(maxlen=self.solver.AVERAGE_LOSS)
        options = vars(args) | config.training_options()
        parts = [self.optimizer, self.precision.scaler]
        self.state = TrainState(paths.models / "last.pth", [model], parts, options)

    def step(self, iteration: int, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Accumulate the gradients of ITER_SIZE batches and step the optimizer; iterations count from 1."""
        set_lr(self.optimizer, self.lr(iteration))
        self.optimizer.zero_grad(set_to_none=True)
        total, n = torch.zeros((), device=self.device), self.solver.ITER_SIZE
        for k in range(n):
            image, label = next(batches)
            with distributed.no_sync(self.network, k < n - 1):
                logits = self.precision.forward_list(self.network, image)
                loss, _ = msc_loss(logits, label, self.ignore_label)
                self.precision.backward(loss / n)
            total += loss.detach() / n
        self.precision.step([self.optimizer])
        self.recent.append(total)

    def losses(self) -> list[dict[str, Tensor]]:
        """The losses of the last AVERAGE_LOSS iterations."""
        return [{"loss": loss} for loss in self.recent]

    def lr(self, iteration: int) -> float:
        """The learning rate of an iteration; iterations count from 1."""
        s = self.solver
        return lr_after(iteration - 1, s.LR, s.ITER_MAX, s.POLY_POWER, s.LR_DECAY)

    def save_weights(self, path: Path) -> None:
        """Save the weights in the published format."""
        if distributed.is_main():
            save(self.model.state_dict(), path)


def build_trainer(config: Config, paths: Paths, args: argparse.Namespace, device: torch.device) -> Trainer:
    """Build the network, load its initial weights and freeze batch normalisation."""
    torch.manual_seed(args.seed)
    model = build(config)
    if config.MODEL.INIT_MODEL is not None:
        copied = load_initial(model, Path(config.MODEL.INIT_MODEL))
        if distributed.is_main():
            print(f"{config.MODEL.INIT_MODEL}: copied {copied} of {len(model.state_dict())} tensors")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    prepare(model, device, args.channels_last).train()
    return Trainer(model, config, paths, args, device)
