"""The segmentation network G: DeepLab-v2 on a ResNet with bottleneck blocks, output stride 8, raw logits.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and
Fully Connected CRFs", TPAMI 2018. The tensors carry the names of the published MDBA checkpoints.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Arch(NamedTuple):
    """What distinguishes one network from another; blocks and width show in a checkpoint's tensors."""

    blocks: tuple[int, int, int, int]  # per stage
    width: int = 64  # channels of the stem
    from_scratch: bool = False  # trained without initial weights, BN scale and shift included


ARCHS = {
    "resnet101": Arch((3, 4, 23, 3)),
    "resnet50": Arch((3, 4, 6, 3)),
    "mini": Arch((1, 1, 2, 1), width=16, from_scratch=True),
}


class Bottleneck(nn.Module):
    """1x1 (with the stride) -> 3x3 (with the dilation) -> 1x1, beside a shortcut; widths N, N, 4 N."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        outplanes = planes * self.expansion
        self.conv1 = nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outplanes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outplanes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(inplanes, outplanes, 1, stride=stride, bias=False), nn.BatchNorm2d(outplanes)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ASPP(nn.Module):
    """The classifier: four dilated 3x3 convolutions of the same features, summed."""

    def __init__(self, inplanes: int, num_classes: int, dilations: tuple[int, ...] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(inplanes, num_classes, 3, padding=d, dilation=d) for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        return sum_of_dilated(x, list(self.conv2d_list))


def sum_of_dilated(x: Tensor, convs: Sequence[nn.Conv2d]) -> Tensor:
    """The sum of dilated 3x3 convolutions of the same features, B x outputs x H x W, in float32 at least.

    One by one they run far below a CPU's rate, being of many channels and few outputs. So every tap of every
    convolution becomes an output of a single 1x1 convolution, and what the taps give is then moved to its place
    and added up.
    """
    height, width = x.shape[2:]
    taps, biases, moves = [], [], []
    for conv in convs:
        for i, j in itertools.product(range(3), repeat=2):
            down, right = ((1 - k) * conv.dilation[0] for k in (i, j))
            if abs(down) < height and abs(right) < width:  # else it meets padding alone
                taps.append(conv.weight[:, :, i, j])
                # Not as a sum of the biases: torch.compile would let their gradients share memory.
                biases.append(conv.bias if i == j == 1 else torch.zeros_like(conv.bias))
                moves.append((right, -right, down, -down))
    products = F.conv2d(x, torch.cat(taps)[..., None, None], torch.cat(biases))
    products = products.to(torch.promote_types(products.dtype, torch.float32))
    parts = products.split(len(taps[0]), 1)
    return sum(F.pad(part, move) for part, move in zip(parts, moves))


class DeepLab(nn.Module):
    """Images Bx3xHxW (RGB, mean subtracted, 0..255 scale) -> logits B x num_classes x ~H/8 x ~W/8."""

    def __init__(self, num_classes: int = 21, arch: Arch = ARCHS["resnet101"]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.arch = arch
        self.freeze_bn = False
        width = arch.width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.layer1 = self._stage(width, width, arch.blocks[0])
        self.layer2 = self._stage(width * 4, width * 2, arch.blocks[1], stride=2)
        self.layer3 = self._stage(width * 8, width * 4, arch.blocks[2], dilation=2)
        self.layer4 = self._stage(width * 16, width * 8, arch.blocks[3], dilation=4)
        self.layer5 = ASPP(width * 32, num_classes)
        self._init_weights()

    @staticmethod
    def _stage(inplanes: int, planes: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
        outplanes = planes * Bottleneck.expansion
        first = Bottleneck(inplanes, planes, stride, dilation, project=True)
        others = (Bottleneck(outplanes, planes, 1, dilation, project=False) for _ in range(blocks - 1))
        return nn.Sequential(first, *others)

    def _init_weights(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                if self.arch.from_scratch and not name.startswith("layer5"):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.normal_(module.weight, 0, 0.01)
            elif isinstance(module, nn.BatchNorm2d) and not self.arch.from_scratch:
                # The published network trains no BN scale or shift; its running statistics do move.
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> "DeepLab":
        """Training mode; with `freeze_bn` batch normalisation stays in eval mode, its statistics as they are."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and self.freeze_bn:
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer5(self.layer4(self.layer3(self.layer2(self.layer1(x)))))


def logit_side(side: int) -> int:
    """The side of the logits of an image's side, in pixels: about an eighth."""
    stem = (side - 1) // 2 + 1
    pooled = stem // 2 + 1
    return (pooled - 1) // 2 + 1


def arch_from_state(state: Mapping[str, Tensor]) -> tuple[int, Arch] | None:
    """Number of classes and architecture of a state dict; None where the stem or the head is missing."""
    stem, head = state.get("conv1.weight"), state.get("layer5.conv2d_list.0.bias")
    if stem is None or head is None:
        return None
    found = [re.match(r"layer([1-4])\.(\d+)\.", key) for key in state]
    last = {stage: max((int(m[2]) for m in found if m and m[1] == stage), default=0) for stage in "1234"}
    known = (tuple(i + 1 for i in last.values()), stem.shape[0])
    arch = next((a for a in ARCHS.values() if (a.blocks, a.width) == known), Arch(*known, from_scratch=True))
    return head.shape[0], arch


def build_deeplab(arch: str = "resnet101", num_classes: int = 21, seed: int | None = None) -> DeepLab:
    """A network of a named architecture (see `ARCHS`); with `seed`, its weights depend on nothing else."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return DeepLab(num_classes, ARCHS[arch])
