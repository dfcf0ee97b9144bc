"""The trunk of stage 2's networks: a ResNet in the module names of the published stage 2 checkpoints."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

EXPANSION = 4
BN_MOMENTUM = 0.001


class ConvBnReLU(nn.Sequential):
    """Convolution without bias, batch normalisation and, unless left out, ReLU."""

    def __init__(
        self, inplanes: int, planes: int, kernel: int, stride: int = 1, dilation: int = 1, relu: bool = True
    ):
        padding = dilation * (kernel // 2)
        modules = OrderedDict(
            conv=nn.Conv2d(inplanes, planes, kernel, stride, padding, dilation, bias=False),
            bn=nn.BatchNorm2d(planes, momentum=BN_MOMENTUM),
        )
        if relu:
            modules["relu"] = nn.ReLU(inplace=True)
        super().__init__(modules)


class Block(nn.Module):
    """Bottleneck: 1x1 (with the stride) -> 3x3 (with the dilation) -> 1x1, beside a shortcut."""

    def __init__(self, inplanes: int, planes: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        outplanes = planes * EXPANSION
        self.reduce = ConvBnReLU(inplanes, planes, 1, stride)
        self.conv3x3 = ConvBnReLU(planes, planes, 3, dilation=dilation)
        self.increase = ConvBnReLU(planes, outplanes, 1, relu=False)
        self.shortcut = ConvBnReLU(inplanes, outplanes, 1, stride, relu=False) if project else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.increase(self.conv3x3(self.reduce(x)))
        out += self.shortcut(x)
        return self.relu(out)


def stem(width: int) -> nn.Sequential:
    """7x7/2 convolution and 3x3/2 max-pooling."""
    return nn.Sequential(
        OrderedDict(
            conv1=ConvBnReLU(3, width, 7, stride=2), pool=nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
        )
    )


def stage(inplanes: int, planes: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """`blocks` bottlenecks; the first has the stride and projects its shortcut."""
    modules = OrderedDict(block1=Block(inplanes, planes, stride, dilation, project=True))
    for i in range(2, blocks + 1):
        modules[f"block{i}"] = Block(planes * EXPANSION, planes, 1, dilation, project=False)
    return nn.Sequential(modules)


def trunk(n_blocks: Sequence[int], width: int = 64) -> "OrderedDict[str, nn.Module]":
    """Stem and four stages, output stride 8: images B x 3 x H x W -> B x 32 width x ~H/8 x ~W/8."""
    return OrderedDict(
        layer1=stem(width),
        layer2=stage(width, width, n_blocks[0]),
        layer3=stage(width * 4, width * 2, n_blocks[1], stride=2),
        layer4=stage(width * 8, width * 4, n_blocks[2], dilation=2),
        layer5=stage(width * 16, width * 8, n_blocks[3], dilation=4),
    )
