"""The trainer of stage 1: networks, optimizers and schedules, one step per iteration, the state of the run."""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from datasets.sampling import generator
from networks.checkpoint import save
from networks.deeplab import DeepLab
from utils.alignment import CutMix, draw_cutmix
from utils.core import distributed
from utils.core.device import Precision, wrap
from utils.iteration import Batches, Figures, Iteration, Method
from utils.training.optim import build_adam, build_sgd, poly_lr, set_lr
from utils.training.options import build_method
from utils.training.resume import TrainState


class Trainer:
    """G, D, their optimizers and the state of a run; the same in all processes."""

    def __init__(
        self, G: DeepLab, D: nn.Module | None, args: argparse.Namespace, device: torch.device
    ) -> None:
        """Args: G, D: in training mode on the device; D is None without C2S."""
        self.G, self.D, self.args = G, D, args
        self.local_batch_size = distributed.local_batch_size(args.batch_size)
        self.best: float | None = None  # best mIoU on val so far
        self.best_iteration: int | None = None
        self.scores: dict | None = None  # of the last validation
        self.occurring: list[int] | None = None  # labels that occur in its ground truth
        self.thresholds: list[float] | None = None  # T_class, if measured
        sgd = build_sgd(G, args.learning_rate, args.momentum, args.weight_decay, not args.single_steps)
        self.optimizers: list[torch.optim.Optimizer] = [sgd]
        self.base_lrs = [args.learning_rate]
        if D is not None:
            self.optimizers.append(build_adam(D, args.learning_rate_D))
            self.base_lrs.append(args.learning_rate_D)
        self.precision = Precision(args.amp, device)
        self.best_path = args.snapshot_dir / "VOC_best.pth"
        self.best_path_D = args.snapshot_dir / "VOC_best_D.pth"
        networks = [G] if D is None else [G, D]
        states = [*self.optimizers, self.precision.scaler]
        self.state = TrainState(args.snapshot_dir / "last.pth", networks, states, vars(args))
        wrapped_G = wrap(G, args.sync_bn, args.compile)
        wrapped_D = None if D is None else wrap(D, args.sync_bn, args.compile)
        self.iteration = Iteration(wrapped_G, wrapped_D, build_method(args, device), self.precision)

    @property
    def method(self) -> Method:
        return self.iteration.method

    def step(self, i: int, batches: Iterator[Batches]) -> list[Figures]:
        """Run iteration i: --iter-size batches of each kind, then one step of both optimizers."""
        self.set_lr(i)
        self.zero_grad()
        figures, n = [], self.args.iter_size
        with self.precision.cached_weights():
            for k in range(n):
                mix, sync_gradients = self.draw_mix(i, k), k == n - 1
                figures.append(self.iteration(i, next(batches), mix, 1 / n, sync_gradients))
        self.precision.step(self.optimizers)
        return figures

    def draw_mix(self, i: int, k: int) -> CutMix | None:
        """The draw of CutMix for the k-th batch of iteration i, the same in all processes."""
        if not self.method.s2c:
            return None
        rng = generator(self.args.random_seed, "cutmix", i, k)
        return draw_cutmix(rng, self.local_batch_size, self.args.input_size, self.method.cutmix_probability)

    def lr(self, i: int) -> float:
        """The learning rate of G in iteration i."""
        return poly_lr(self.args.learning_rate, i, self.args.num_steps, self.args.power)

    def set_lr(self, i: int) -> None:
        """Set the learning rates of iteration i."""
        for optimizer, base in zip(self.optimizers, self.base_lrs):
            set_lr(optimizer, poly_lr(base, i, self.args.num_steps, self.args.power))

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def set_thresholds(self, thresholds: list[float]) -> None:
        """Replace T_class of ONF."""
        self.thresholds = thresholds
        values = torch.tensor(thresholds, device=self.method.iou_thresholds.device)
        self.iteration.method = replace(self.method, iou_thresholds=values)

    def save(self, done: int, wait: bool = True) -> None:
        """Save the state after `done` iterations; `wait` as in TrainState.save."""
        names = ("best", "best_iteration", "scores", "occurring", "thresholds")
        self.state.save(done, wait, **{name: getattr(self, name) for name in names})

    def load(self) -> int:
        """Load the saved state, if there is one; returns the number of iterations done."""
        done, values = self.state.load() or (0, {})
        self.best, self.best_iteration = values.get("best"), values.get("best_iteration")
        self.scores, self.occurring = values.get("scores"), values.get("occurring")
        if values.get("thresholds") is not None:
            self.set_thresholds(values["thresholds"])
        return done

    def save_best(self, i: int) -> None:
        """Save the weights of iteration i as VOC_best.pth and VOC_best_D.pth."""
        self.best_iteration = i
        if distributed.is_main():
            save(self.G.state_dict(), self.best_path)
            if self.D is not None:
                save(self.D.state_dict(), self.best_path_D)
