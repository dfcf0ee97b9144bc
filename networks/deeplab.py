"""The segmentation network G: DeepLab-v2 on a ResNet with bottleneck blocks, or on MobileNetV2.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and
Fully Connected CRFs", TPAMI 2018. The tensors have the names used in the published MDBA checkpoints.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from networks.mobilenet import CHANNELS, mobilenet_v2


class Arch(NamedTuple):
    """Architecture of the backbone; `blocks` and `width` can be inferred from a checkpoint."""

    blocks: tuple[int, ...]  # of a ResNet: number per stage, of four; empty: MobileNetV2
    width: int = 64  # channels of a ResNet's stem, and of the first convolution of the discriminator
    from_scratch: bool = False  # no pre-trained weights: BN scale and shift are trained too


ARCHS = {
    "resnet101": Arch((3, 4, 23, 3)),
    "resnet50": Arch((3, 4, 6, 3)),
    "mini": Arch((1, 1, 2, 1), width=16, from_scratch=True),
    "mobilenet_v2": Arch((), width=16),
}


class Bottleneck(nn.Module):
    """Residual block: 1x1 (strided) -> 3x3 (dilated) -> 1x1 convolution, of N, N and 4 N channels."""

    def __init__(self, inplanes: int, planes: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if project:
            shortcut = nn.Conv2d(inplanes, planes * 4, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(planes * 4))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def stage(inplanes: int, planes: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Bottlenecks, of which the first has the stride and a shortcut with a convolution."""
    first = Bottleneck(inplanes, planes, stride, dilation, project=True)
    others = (Bottleneck(planes * 4, planes, 1, dilation, project=False) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


class ASPP(nn.Module):
    """The classifier: dilated 3x3 convolutions of the same features, summed."""

    def __init__(self, inplanes: int, num_classes: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(inplanes, num_classes, 3, padding=d, dilation=d) for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the convolutions, B x num_classes x H x W, in float32 at least.

        Convolutions with many input and few output channels are slow. Therefore each of the nine taps of each
        convolution becomes an output of one 1x1 convolution, and `F.fold` shifts and sums the outputs.

        Do not compile this function: compiled by torch 2.13, `F.fold` gives wrong numbers.
        """
        convs = [module for module in self.conv2d_list if isinstance(module, nn.Conv2d)]
        size, outputs = x.shape[2:], convs[0].out_channels
        # F.fold moves tap (i, j) by (i, j), a convolution reads from there: the reverse.
        taps = torch.stack([conv.weight for conv in convs]).flip(3, 4)
        products = F.conv2d(x, taps.permute(0, 1, 3, 4, 2).flatten(0, 3)[..., None, None])
        products = products.to(torch.promote_types(products.dtype, torch.float32))
        moved = [
            F.fold(part.flatten(2), size, 3, conv.dilation, conv.dilation)
            for conv, part in zip(convs, products.split(9 * outputs, 1))
        ]
        # Neither torch.stack(...).sum(0) nor a sum of views, whose gradients would share memory.
        bias = functools.reduce(torch.add, [conv.bias for conv in convs if conv.bias is not None])
        return functools.reduce(torch.add, moved) + bias[:, None, None]


class DeepLab(nn.Module):
    """DeepLab-v2: images B x 3 x H x W (RGB, 0..255, mean subtracted) -> logits B x num_classes x h x w.

    The output stride, H / h, is about 8 with a ResNet and 16 with MobileNetV2, see `logit_side`.
    """

    freeze_bn = False  # keep batch normalization in eval mode

    def __init__(
        self, num_classes: int = 21, arch: Arch = ARCHS["resnet101"], head: Callable[[int], nn.Module] | None = None
    ) -> None:
        """Args: head: makes another classifier for this number of channels; all layers then keep torch's weights."""
        super().__init__()
        self.num_classes, self.arch = num_classes, arch
        if arch.blocks:
            width, channels = arch.width, arch.width * 32
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
            self.layer1 = stage(width, width, arch.blocks[0])
            self.layer2 = stage(width * 4, width * 2, arch.blocks[1], stride=2)
            self.layer3 = stage(width * 8, width * 4, arch.blocks[2], dilation=2)
            self.layer4 = stage(width * 16, width * 8, arch.blocks[3], dilation=4)
        else:
            self.features, channels = mobilenet_v2(), CHANNELS
        self.layer5 = head(channels) if head else ASPP(channels, num_classes)
        if head is None:
            self._init_weights()

    def _init_weights(self) -> None:
        published = bool(self.arch.blocks) and not self.arch.from_scratch
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                if published or name.startswith("layer5."):
                    nn.init.normal_(module.weight, 0, 0.01)
                else:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d) and not self.arch.from_scratch:
                # As published, BN scale and shift are not trained, but the running statistics are updated.
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> "DeepLab":
        """Set training mode, but that of batch normalization only without `freeze_bn`."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and self.freeze_bn:
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if not self.arch.blocks:
            return self.layer5(self.features(x))
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer5(self.layer4(self.layer3(self.layer2(self.layer1(x)))))


def logit_side(side: int, stride: int = 8) -> int:
    """Height or width of the logits for that of an image, at output stride 8 (ResNets) or 16 (MobileNetV2)."""
    if stride == 16:
        return (side - 1) // 16 + 1
    pooled = ((side - 1) // 2 + 1) // 2 + 1
    return (pooled - 1) // 2 + 1


def arch_from_state(state: Mapping[str, Tensor]) -> tuple[int, Arch] | None:
    """Infer the number of classes and the architecture from a state dict; None if the stem or head is missing."""
    stem, head = state.get("conv1.weight"), state.get("layer5.conv2d_list.0.bias")
    if head is None or head.ndim != 1:
        return None
    if "features.0.0.weight" in state:
        return len(head), ARCHS["mobilenet_v2"]
    if stem is None:
        return None
    found = [re.match(r"layer([1-4])\.(\d+)\.", key) for key in state]
    blocks = tuple(1 + max((int(m[2]) for m in found if m and m[1] == stage), default=0) for stage in "1234")
    other = Arch(blocks, stem.shape[0], from_scratch=True)
    return len(head), next((a for a in ARCHS.values() if a[:2] == other[:2]), other)


def build_deeplab(arch: str = "resnet101", num_classes: int = 21, seed: int | None = None) -> DeepLab:
    """Build one of `ARCHS`; with `seed`, the initial weights do not depend on torch's global random state."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return DeepLab(num_classes, ARCHS[arch])
