"""Training, the same for both stages: a step per iteration, the loop over the iterations, the state of the run."""

import argparse
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from networks.checkpoint import save
from utils.core import distributed
from utils.core.device import Precision
from utils.core.provenance import save_provenance
from utils.training.log import TrainLog, mean_figures
from utils.training.optim import set_lr
from utils.training.resume import StopSignal, TrainState, back_up


class Trainer:
    """Networks, optimizers and schedule of a run; the same in all processes. A subclass defines a stage.

    Iterations are numbered from `first_number` on, in logs and file names.
    """

    first_number: ClassVar[int] = 0
    shown: ClassVar[tuple[str, ...]] = ()  # figures in the progress bar
    average: int = 1  # number of iterations whose figures are averaged in a line of the log
    iter_size: int = 1  # batches per iteration, whose gradients are added up
    validate_every: int = 0  # 0: never but after the last iteration

    def __init__(
        self,
        folder: Path,
        networks: Sequence[nn.Module],
        optimizers: Mapping[torch.optim.Optimizer, float],
        decay: Callable[[int], float],
        num_steps: int,
        precision: Precision,
        options: dict,
    ) -> None:
        """Args:
        folder: directory of the results.
        networks: on the device, in training mode.
        optimizers: with their initial learning rates.
        decay: the factor of the learning rates in the iteration with this index, counted from 0.
        num_steps: number of iterations.
        precision: that of `accumulate`.
        options: a run resumes only with the same options.
        """
        self.folder, self.networks, self.num_steps = folder, networks, num_steps
        self.optimizers, self.decay, self.precision = optimizers, decay, precision
        self.state = TrainState(folder / "last.pth", networks, [*optimizers, precision.scaler], options)
        self.best: float | None = None  # best score so far
        self.best_iteration: int | None = None

    def accumulate(self, i: int, k: int, batch: Any) -> Mapping[str, Tensor]:
        """Add the gradients of the k-th batch of iteration i; returns its figures."""
        raise NotImplementedError

    def before(self, i: int) -> None:
        """What has to be done before iteration i."""

    def validate(self, n: int, log: TrainLog) -> float | None:
        """The score after iteration n; None without validation images, and weights are saved in any case."""
        return None

    def weights(self, n: int) -> dict[Path, nn.Module]:
        """The files of the weights that are kept after iteration n."""
        raise NotImplementedError

    def values(self) -> dict[str, Any]:
        """What the state holds besides networks and optimizers."""
        return {"best": self.best, "best_iteration": self.best_iteration}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Set what `values` returned when the state was saved."""
        self.best, self.best_iteration = values.get("best"), values.get("best_iteration")

    def lr(self, i: int) -> float:
        """The learning rate of the first optimizer in iteration i."""
        return next(iter(self.optimizers.values())) * self.decay(i)

    def step(self, i: int, batches: Iterator[Any]) -> list[Mapping[str, Tensor]]:
        """Run iteration i: add up the gradients of `iter_size` batches, then step each optimizer once."""
        for optimizer, lr in self.optimizers.items():
            set_lr(optimizer, lr * self.decay(i))
            optimizer.zero_grad(set_to_none=True)
        figures = [self.accumulate(i, k, next(batches)) for k in range(self.iter_size)]
        distributed.average_gradients(self.networks)
        self.precision.step(list(self.optimizers))
        return figures

    def begin(
        self, resume: bool, options: dict, device: torch.device, outputs: Sequence[Path], starts: Sequence[Any]
    ) -> int:
        """Load the saved state, or back up the `outputs` of an earlier run; the new one reads `starts`, which stay.

        Returns:
            The number of iterations done.
        """
        done, values = (self.state.load() if resume else None) or (0, {})
        self.restore(values)
        if distributed.is_main():
            if done:
                print(f"{self.state.path}: resuming after {done} of {self.num_steps} iterations")
            else:
                back_up((self.state.path, *outputs), starts)
            save_provenance(self.folder / "run.json", options, device)
        return done

    def fit(self, batches: Iterator[Any], log: TrainLog, args: argparse.Namespace) -> None:
        """Run the iterations of the log's bar; args: --log-every and --save-every."""
        recent: deque[list[Mapping[str, Tensor]]] = deque(maxlen=self.average)
        with StopSignal() as stop:
            for i in log.bar:
                self.before(i)
                recent.append(self.step(i, batches))

                n, last = i + self.first_number, i == self.num_steps - 1
                if n % args.log_every == 0 or last:
                    figures = mean_figures(part for parts in recent for part in parts)
                    self.state.check_loss(n, sum(figures.values()))
                    log(n, self.lr(i), figures, self.shown)
                if (n and self.validate_every and n % self.validate_every == 0) or last:
                    self.state.check_weights(n)
                    score = self.validate(n, log)
                    if score is None or self.best is None or score > self.best:
                        self.best, self.best_iteration = score, n
                        self.save_weights(n)
                stopped = stop.agreed()
                if (i + 1) % args.save_every == 0 or last or stopped:
                    self.state.save(i + 1, **self.values())
                if stopped and not last:
                    stop.leave(i + 1)

    def save_weights(self, n: int) -> None:
        """Write the weights of iteration n."""
        if distributed.is_main():
            for path, network in self.weights(n).items():
                save(network.state_dict(), path)
