"""The modes that train_step.py compares: synthetic batches, and the networks and the iteration of a mode."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.baseline import PlainASPP, PlainIteration
from benchmarks.common import use_tf32
from networks.deeplab import Bottleneck, DeepLab, build_deeplab
from networks.discriminator import build_discriminator
from utils.alignment import CutMix, cutmix_box
from utils.core.device import Precision, compile_blocks, prepare, send, set_up_device
from utils.denoising import noise_threshold
from utils.iteration import Batches, Iteration, Method
from utils.training.optim import RepeatedSGD, build_adam, build_sgd

CASES = {  # name: the iteration's number, and whether it uses S2C
    "warm-up": (0, False),
    "warm-up+cutmix": (0, True),
    "denoising": (1000, False),
    "denoising+cutmix": (1000, True),
}
EXTRAS = ("channels-last", "onednn", "float32", "bf16", "autotune", "compile")
LEARNING_RATE = 0.0  # the optimizers do their full work, but the weights do not change


@dataclass(frozen=True)
class Setting:
    """What all modes share."""

    arch: str = "resnet101"
    crop: int = 321
    batch_size: int = 10
    num_classes: int = 21
    iou_threshold: float = 0.0
    device: str = "cpu"


def number_format(mode: str, device: torch.device) -> str:
    """The format of the mode's convolutions: float32, TF32 or bf16."""
    extras = mode.split("+")
    if "bf16" in extras:
        return "bf16"
    return "TF32" if device.type == "cuda" and "float32" not in extras else "float32"


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

    def one(value: Any) -> Any:
        return tuple(map(one, value)) if isinstance(value, tuple) else move(value)

    return Batches(**{name: one(value) for name, value in vars(batches).items()})


def make_mix(s: Setting) -> CutMix:
    """A box of half the area in the middle."""
    order = np.random.default_rng(1).permutation(s.batch_size)
    return CutMix(0.5, s.crop // 2, s.crop // 2, tuple(map(int, order)))


def make_method(s: Setting) -> Method:
    """The constants; PND's threshold is near the loss of untrained networks, so that it drops some pixels."""
    thresholds = torch.full((s.num_classes - 1,), s.iou_threshold, device=s.device)
    loss = float(np.log(s.num_classes))
    return Method(thresholds, torch.tensor([11], device=s.device), high_T=loss, low_T=loss)


def plain_iteration(G: nn.Module, D: nn.Module, m: Method) -> Callable:
    """The baseline, called as utils.iteration.Iteration is."""
    schedule = partial(noise_threshold, start=m.denoise_from, end=m.denoise_until, high=m.high_T, low=m.low_T)
    iteration = PlainIteration(G, D, m.iou_thresholds, m.exempt, schedule, m.lambda_adv, m.ignore_label)

    def call(i: int, b: Batches, mix: CutMix | None = None) -> dict[str, float]:
        box = mix and (cutmix_box(b.complex.shape[2:], mix.lam, mix.cx, mix.cy), mix.permutation)
        return iteration(i, (b.complex, b.cls, b.simple, b.gt), box)

    return call


def damped(G: DeepLab) -> DeepLab:
    """The network with weak residual branches, as after training.

    With the initial weights of ResNet-101, the gradients of float32 and float64 differ by 5 %: too much to compare
    modes.
    """
    for module in G.modules():
        if isinstance(module, Bottleneck):
            torch.nn.init.constant_(module.bn3.weight, 0.1)
    return G


def use_onednn(G: DeepLab) -> None:
    """Experiment for one CPU thread, where torch uses oneDNN for 1x1 convolutions only if they are dilated.

    Dilation has no effect on a kernel of one pixel.
    """
    for module in G.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.dilation = (2, 2)


class Trainer:
    """Networks, optimizers and the iteration of one mode; measure each mode in a process of its own."""

    def __init__(self, mode: str, s: Setting) -> None:
        extras, device, method = mode.split("+")[1:], torch.device(s.device), make_method(s)
        channels_last = "channels-last" in extras
        amp = "bf16" if "bf16" in extras else None
        if mode.partition("+")[0] == "ours":
            set_up_device(device, amp)  # cannot be undone in this process
        if "float32" in extras:
            use_tf32(False)
        if "autotune" in extras:
            torch.backends.cudnn.benchmark = True
        self.device, self.compiled = device, "compile" in extras
        self.G = prepare(damped(build_deeplab(s.arch, s.num_classes, seed=0)), device, channels_last).train()
        if "onednn" in extras:
            use_onednn(self.G)
        self.D = build_discriminator(s.num_classes, self.G.arch.width, seed=1)
        self.D = prepare(self.D, device, channels_last).train()
        self.optimizers = [build_sgd(self.G, LEARNING_RATE), build_adam(self.D, LEARNING_RATE)]
        if mode.startswith("baseline"):
            groups = [{**group, "fused": None} for group in self.optimizers[0].param_groups]
            adam = torch.optim.Adam(self.D.parameters(), LEARNING_RATE, (0.9, 0.99))
            self.optimizers = [RepeatedSGD(groups), adam]
            self.G.layer5.__class__ = PlainASPP
            self.iteration = plain_iteration(self.G, self.D, method)
        else:
            for network in (self.G, self.D) if self.compiled else ():
                compile_blocks(network)
            iteration = Iteration(self.G, self.D, method, Precision(amp, device))

            def call(i: int, batches: Batches, mix: CutMix | None) -> dict[str, Tensor]:
                return dict(iteration(i, batches, mix).tensors())

            self.iteration = call

    def gradients(self, batches: Batches, case: str, mix: CutMix) -> dict[str, Tensor | float]:
        """Runs an iteration without the optimizers' steps; returns the losses."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        i, mixed = CASES[case]
        batches = moved(batches, lambda tensor: send(tensor, self.device))
        return self.iteration(i, batches, mix if mixed else None)

    def step(self, batches: Batches, case: str, mix: CutMix) -> None:
        """Runs a whole iteration, copying the batches to the device in every mode."""
        self.gradients(batches, case, mix)
        for optimizer in self.optimizers:
            optimizer.step()
