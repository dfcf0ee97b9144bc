"""The ResNet backbone of stage 2, with the module names of the published checkpoints."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

EXPANSION = 4
BN_MOMENTUM = 0.001


class ConvBnReLU(nn.Sequential):
    """Convolution without bias, batch normalization and optionally ReLU."""

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


class Bottleneck(nn.Module):
    """Residual bottleneck: 1x1 (strided) -> 3x3 (dilated) -> 1x1 convolution, plus the shortcut."""

    is_block = True  # compiled on its own, see `compile_blocks`

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
    """7x7 convolution and 3x3 max pooling, each with stride 2."""
    return nn.Sequential(
        OrderedDict(conv1=ConvBnReLU(3, width, 7, stride=2), pool=nn.MaxPool2d(3, 2, padding=1, ceil_mode=True))
    )


def stage(inplanes: int, planes: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A stage of `blocks` bottlenecks; the first applies the stride and has a projection shortcut."""
    first = Bottleneck(inplanes, planes, stride, dilation, project=True)
    others = [Bottleneck(planes * EXPANSION, planes, 1, dilation, project=False) for _ in range(blocks - 1)]
    return nn.Sequential(OrderedDict((f"block{i}", block) for i, block in enumerate([first, *others], 1)))


def backbone(n_blocks: Sequence[int], width: int = 64) -> "OrderedDict[str, nn.Module]":
    """Stem and four stages with output stride 8: images B x 3 x H x W -> features B x 32 width x ~H/8 x ~W/8."""
    return OrderedDict(
        layer1=stem(width),
        layer2=stage(width, width, n_blocks[0]),
        layer3=stage(width * 4, width * 2, n_blocks[1], stride=2),
        layer4=stage(width * 8, width * 4, n_blocks[2], dilation=2),
        layer5=stage(width * 16, width * 8, n_blocks[3], dilation=4),
    )
