"""The modes that `train_step.py` compares: made-up inputs, and networks, optimisers and iteration of each mode."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.baseline import PlainASPP, PlainIteration
from networks.deeplab import Bottleneck, DeepLab, build_deeplab
from networks.discriminator import build_discriminator
from utils.alignment import CutMix
from utils.core.device import Precision, keep_heap, send
from utils.iteration import Batches, Iteration, Method
from utils.training.optim import RepeatedSGD, build_adam, build_sgd

CASES = {  # name: the iteration's number, with S2C?
    "warm-up": (0, False),
    "warm-up+cutmix": (0, True),
    "denoising": (1000, False),
    "denoising+cutmix": (1000, True),
}
EXTRAS = ("channels-last", "onednn", "bf16", "compile")
RATE = 1e-8  # of learning: full steps, but weights that stay where the comparison wants them


@dataclass(frozen=True)
class Setting:
    """What all modes share."""

    arch: str = "resnet101"
    crop: int = 321
    batch_size: int = 10
    num_classes: int = 21
    iou_threshold: float = 0.0
    device: str = "cpu"
    threads: int = 1


def make_batches(s: Setting) -> Batches:
    """Images of noise and labels of one box each, its border ignored, on the host as a loader gives them."""
    rng = np.random.default_rng(0)
    shape = (s.batch_size, s.crop, s.crop)

    def images() -> Tensor:
        noise = rng.normal(0, 60, (s.batch_size, 3, s.crop, s.crop)).astype(np.float32)
        return torch.from_numpy(noise)

    def labelled() -> tuple[Tensor, Tensor, Tensor]:
        classes, labels = rng.integers(s.num_classes - 1, size=s.batch_size), np.zeros(shape, np.uint8)
        for label, c in zip(labels, classes):
            top, left = rng.integers(0, s.crop // 3, 2)
            bottom, right = rng.integers(s.crop // 2, s.crop, 2)
            label[top:bottom, left:right] = 255
            label[top + 3 : bottom - 3, left + 3 : right - 3] = c + 1
        return images(), torch.from_numpy(labels), torch.from_numpy(classes)

    present = torch.from_numpy(rng.random((s.batch_size, s.num_classes - 1)) < 2 / s.num_classes).float()
    return Batches(images(), (images(), present), labelled(), labelled())


def make_mix(s: Setting) -> CutMix:
    """A box of half the area in the middle."""
    order = np.random.default_rng(1).permutation(s.batch_size)
    return CutMix(0.5, s.crop // 2, s.crop // 2, tuple(map(int, order)))


def damped(G: DeepLab) -> DeepLab:
    """The network with weak residual branches, as trained ones have them.

    A ResNet-101 as it is initialised makes 5 % of difference between the gradients of float32 and of float64:
    there nothing could be compared.
    """
    for module in G.modules():
        if isinstance(module, Bottleneck):
            torch.nn.init.constant_(module.bn3.weight, 0.1)
    return G


def use_onednn(G: DeepLab) -> None:
    """An experiment for one CPU thread: torch leaves 1x1 convolutions to oneDNN there only where they are dilated.

    Dilation means nothing to a kernel of one pixel, so the numbers stay.
    """
    for module in G.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.dilation = (2, 2)


class Trainer:
    """Networks, optimisers and the iteration of one mode."""

    def __init__(self, mode: str, s: Setting) -> None:
        extras, self.plain, device = mode.split("+")[1:], mode == "baseline", torch.device(s.device)
        order = torch.channels_last if "channels-last" in extras else torch.contiguous_format
        self.device, self.compiled = device, "compile" in extras
        self.G = damped(build_deeplab(s.arch, s.num_classes, seed=0)).to(device, memory_format=order).train()
        if "onednn" in extras:
            use_onednn(self.G)
        self.D = build_discriminator(s.num_classes, self.G.arch.width, seed=1)
        self.D = self.D.to(device, memory_format=order).train()
        thresholds = torch.full((s.num_classes - 1,), s.iou_threshold, device=device)
        # PND's threshold is near the loss of untrained networks, so that it has something to decide.
        loss = float(np.log(s.num_classes))
        exempt = torch.tensor([11], device=device)
        method = Method(iou_thresholds=thresholds, exempt=exempt, high_T=loss, low_T=loss)
        self.optimizers = [build_sgd(self.G, RATE), build_adam(self.D, RATE)]
        if self.plain:
            groups = [{**group, "fused": None} for group in self.optimizers[0].param_groups]
            self.optimizers = [RepeatedSGD(groups), torch.optim.Adam(self.D.parameters(), RATE, (0.9, 0.99))]
            self.G.layer5.__class__ = PlainASPP
            self.iteration = PlainIteration(self.G, self.D, method)
        else:
            if device.type == "cpu":
                keep_heap()  # for good: a measurement of a mode needs a process of its own
            G, D = (torch.compile(n) if self.compiled else n for n in (self.G, self.D))
            precision = Precision("bf16" if "bf16" in extras else None, device)
            self.iteration = Iteration(G, D, method, precision)

    def gradients(self, batches: Batches, case: str, mix: CutMix) -> dict[str, Tensor | float]:
        """One iteration without the optimisers' steps; the losses."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        i, mixed = CASES[case]
        batches = moved(batches, lambda tensor: send(tensor, self.device))
        return self.iteration(i, batches, mix if mixed else None)

    def step(self, batches: Batches, case: str, mix: CutMix) -> None:
        """One whole iteration; baseline and ours take the batches to the device alike."""
        self.gradients(batches, case, mix)
        for optimizer in self.optimizers:
            optimizer.step()


def moved(batches: Batches, move: Callable[[Tensor], Tensor]) -> Batches:
    """Batches with every tensor replaced by what `move` makes of it."""

    def one(value: Tensor | tuple) -> Tensor | tuple:
        return tuple(map(one, value)) if isinstance(value, tuple) else move(value)

    return Batches(*map(one, vars(batches).values()))
