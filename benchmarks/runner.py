"""The iteration of stage 1 as bench.py and the tests run it: synthetic batches, straightforward or our code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from benchmarks.baseline import PlainASPP, PlainIteration
from networks.deeplab import Bottleneck, build_deeplab
from networks.discriminator import build_discriminator
from utils.alignment import CutMix
from utils.core.device import Precision, prepare, send, set_up_device
from utils.iteration import Batches, Iteration, Method
from utils.training.optim import build_adam, build_sgd

CASES = {  # the iteration's number, and whether it uses S2C
    "warm-up": (0, False),
    "warm-up+cutmix": (0, True),
    "denoising": (1000, False),
    "denoising+cutmix": (1000, True),
}
LEARNING_RATE = 0.0  # the optimizers do their full work, but the weights do not change


@dataclass(frozen=True)
class Setting:
    """What the modes of an iteration share."""

    arch: str = "resnet101"
    crop: int = 321
    batch_size: int = 10
    num_classes: int = 21
    iou_threshold: float = 0.0
    device: str = "cpu"


def make_batches(s: Setting) -> Batches:
    """Random images and labels of one box each with an ignored border, on the host as from a loader."""
    rng = np.random.default_rng(0)

    def images() -> Tensor:
        noise = rng.normal(0, 60, (s.batch_size, 3, s.crop, s.crop)).astype(np.float32)
        return torch.from_numpy(noise)

    def labelled() -> tuple[Tensor, Tensor, Tensor]:
        classes = rng.integers(s.num_classes - 1, size=s.batch_size)
        labels = np.zeros((s.batch_size, s.crop, s.crop), np.uint8)
        for label, c in zip(labels, classes):
            top, left = rng.integers(0, s.crop // 3, 2)
            bottom, right = rng.integers(s.crop // 2, s.crop, 2)
            label[top:bottom, left:right] = 255
            label[top + 3 : bottom - 3, left + 3 : right - 3] = c + 1
        return images(), torch.from_numpy(labels), torch.from_numpy(classes)

    present = torch.from_numpy(rng.random((s.batch_size, s.num_classes - 1)) < 2 / s.num_classes).float()
    return Batches(complex=images(), cls=(images(), present), simple=labelled(), gt=labelled())


def moved(batches: Batches, move: Callable[[Tensor], Tensor]) -> Batches:
    """The batches with `move` applied to every tensor."""
    return Batches(**tree_map(move, vars(batches)))


class Runner:
    """Networks, optimizers and the iteration of a mode: `baseline` or `ours`, the latter with any of +channels-last,
    +bf16 and +float32 (no TF32 on a GPU)."""

    def __init__(self, mode: str, s: Setting) -> None:
        first, *extras = mode.split("+")
        self.device, amp = torch.device(s.device), "bf16" if "bf16" in extras else None
        set_up_device(self.device, amp)
        if "float32" in extras:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        G, D = build_deeplab(s.arch, s.num_classes, seed=0), build_discriminator(s.num_classes, 64, seed=1)
        for module in G.modules():
            if isinstance(module, Bottleneck):  # as after training; otherwise rounding errors grow with the depth
                nn.init.constant_(module.bn3.weight, 0.1)
        self.G, self.D = (prepare(network, self.device, "channels-last" in extras).train() for network in (G, D))
        self.optimizers = [build_sgd(self.G, LEARNING_RATE), build_adam(self.D, LEARNING_RATE)]
        # The threshold of PND is near the loss of untrained networks, so that some pixels are dropped.
        thresholds, loss = torch.full((s.num_classes - 1,), s.iou_threshold), float(np.log(s.num_classes))
        exempt = torch.tensor([11], device=self.device)
        m = Method(thresholds.to(self.device), exempt, high_T=loss, low_T=loss)
        # A box of half the area in the middle.
        order = np.random.default_rng(1).permutation(s.batch_size)
        self.mix = CutMix(0.5, s.crop // 2, s.crop // 2, tuple(map(int, order)))
        self.iteration: Callable
        if first == "ours":
            self.iteration = Iteration(self.G, self.D, m, Precision(amp, self.device))
        else:
            self.G.layer5.__class__ = PlainASPP
            self.iteration = PlainIteration(self.G, self.D, m)

    def gradients(self, batches: Batches, case: str) -> Mapping[str, Any]:
        """Run an iteration without the optimizers' steps; returns what it computed, by name."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        i, mixed = CASES[case]
        batches = moved(batches, lambda tensor: send(tensor, self.device))
        return self.iteration(i, batches, self.mix if mixed else None)

    def step(self, batches: Batches, case: str) -> None:
        """Run a whole iteration, which copies the batches to the device in every mode."""
        self.gradients(batches, case)
        for optimizer in self.optimizers:
            optimizer.step()


def gradients_of(runner: Runner) -> list[Tensor]:
    parameters = [*runner.G.parameters(), *runner.D.parameters()]
    return [p.grad.cpu().contiguous() for p in parameters if p.grad is not None]


def loss_difference(figures: Mapping[str, Any], first: Mapping[str, Any]) -> float:
    """The greatest relative difference of a loss between two iterations."""
    losses = {name: float(value) for name, value in first.items() if name.startswith("loss")}
    return max(abs(float(figures[name]) - loss) / max(abs(loss), 1e-12) for name, loss in losses.items())


def gradient_difference(gradients: list[Tensor], first: list[Tensor]) -> float:
    """Norm of the difference of all gradients, relative to the norm of the first."""
    ours, theirs = (torch.cat([g.flatten().double() for g in each]) for each in (gradients, first))
    return float((ours - theirs).norm() / theirs.norm())
