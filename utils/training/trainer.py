"""Training, the same for both stages: a step per iteration, the loop over the iterations, the state of the run."""

import argparse
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass
class Progress:
    """What a run has found so far; part of its saved state."""

    best: float | None = None  # best score
    best_iteration: int | None = None
    scores: dict | None = None  # of the last validation
    occurring: list[int] | None = None  # labels that occur in its ground truth
    thresholds: list[float] | None = None  # T_class of ONF, if measured


class Trainer:
    """Networks, optimizers and schedule of a run; the same in all processes. A subclass defines a stage."""

    first_number: ClassVar[int] = 0  # of an iteration, in logs and file names
    key: ClassVar[str] = "i"  # the name of that number in logs
    logs: ClassVar[tuple[str, ...]] = ("log.jsonl",)
    shown: ClassVar[tuple[str, ...]] = ()  # figures in the progress bar
    average: int = 1  # number of iterations whose figures are averaged in a line of the log
    iter_size: int = 1  # batches per iteration, whose gradients are added up
    validate_every: int = 0  # 0: never but after the last iteration

    def __init__(
        self,
        folder: Path,  # of the results
        networks: Sequence[nn.Module],  # on the device, in training mode
        optimizers: Mapping[torch.optim.Optimizer, float],  # with their initial learning rates
        decay: Callable[[int], float],  # factor of the learning rates in the iteration with this index, from 0
        num_steps: int,
        args: argparse.Namespace,  # has the options of `add_run_options`
        device: torch.device,
        options: dict,  # a run resumes only with the same ones
    ) -> None:
        self.folder, self.networks, self.num_steps, self.args = folder, networks, num_steps, args
        self.optimizers, self.decay, self.device = optimizers, decay, device
        self.precision = Precision(args.amp, device)
        self.state = TrainState(folder / "last.pth", networks, [*optimizers, self.precision.scaler], options)
        self.progress = Progress()

    def accumulate(self, i: int, k: int, batch: Any) -> Mapping[str, Tensor]:
        """Add the gradients of the k-th batch of iteration i; returns its figures."""
        raise NotImplementedError

    def validate(self, n: int, log: TrainLog) -> float | None:
        """The score after iteration n; None without validation images, and weights are saved in any case."""
        return None

    def weights(self, n: int) -> dict[Path, nn.Module]:
        """The files of the weights that are kept after iteration n."""
        raise NotImplementedError

    def step(self, i: int, batches: Iterator[Any]) -> list[Mapping[str, Tensor]]:
        """Run iteration i: add up the gradients of `iter_size` batches, then step each optimizer once."""
        for optimizer, lr in self.optimizers.items():
            set_lr(optimizer, lr * self.decay(i))
            optimizer.zero_grad(set_to_none=True)
        figures = [self.accumulate(i, k, next(batches)) for k in range(self.iter_size)]
        distributed.average_gradients(self.networks)
        self.precision.step(list(self.optimizers))
        return figures

    def begin(self, options: dict, outputs: Sequence[Path], starts: Sequence[Any]) -> int:
        """Load the saved state, or back up the `outputs` of an earlier run; this one may start from them (`starts`).

        Returns:
            The number of iterations done.
        """
        done, values = (None if self.args.no_resume else self.state.load()) or (0, {})
        self.progress = Progress(**values)
        if distributed.is_main():
            if done:
                print(f"{self.state.path}: resuming after {done} of {self.num_steps} iterations")
            else:
                back_up((self.state.path, *outputs), starts)
                for sheet in (self.folder / "sheets").glob("*.png"):
                    sheet.unlink()
            save_provenance(self.folder / "run.json", options, self.device)
        return done

    def fit(self, batches: Iterator[Any], first: int, images: int) -> None:
        """Run the iterations from `first` on, with `images` images each, over all loaders and processes."""
        recent: deque[Mapping[str, Tensor]] = deque(maxlen=self.average * self.iter_size)
        lr, progress, iterations = next(iter(self.optimizers.values())), self.progress, range(first, self.num_steps)
        log = TrainLog(self.folder, self.logs, iterations, self.first_number, self.key, images, self.args.logdir)
        with log, StopSignal() as stop:
            for i in log.bar:
                recent.extend(self.step(i, batches))

                n, last = i + self.first_number, i == self.num_steps - 1
                if n % self.args.log_every == 0 or last:
                    figures = mean_figures(recent)
                    self.state.check_loss(n, sum(figures.values()))
                    log(n, lr * self.decay(i), figures, self.shown)
                if (n and self.validate_every and n % self.validate_every == 0) or last:
                    self.state.check_weights(n)
                    score = self.validate(n, log)
                    if score is None or progress.best is None or score > progress.best:
                        progress.best, progress.best_iteration = score, n
                        if distributed.is_main():
                            for path, network in self.weights(n).items():
                                save(network.state_dict(), path)
                stopped = stop.agreed()
                if (i + 1) % self.args.save_every == 0 or last or stopped:
                    self.state.save(i + 1, **vars(progress))
                if stopped and not last:
                    stop.leave(i + 1)
