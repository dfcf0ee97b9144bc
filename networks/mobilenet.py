"""The trunk of MobileNetV2 at output stride 16, for laptops.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018. The tensors have torchvision's
names, so that its ImageNet weights load.
"""

from torch import Tensor, nn

CHANNELS = 320  # of the features
# Expansion, output channels, number of blocks, stride of the first block. As a classifier, the last but one has
# stride 2; here the blocks after its first are dilated instead.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))
FIRST_DILATED = 15


def conv_bn_relu(
    inplanes: int, planes: int, kernel: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inplanes, planes, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(planes), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the channels -> depthwise 3x3 -> 1x1 convolution without activation."""

    def __init__(self, inplanes: int, planes: int, stride: int, dilation: int, expansion: int) -> None:
        super().__init__()
        wide = inplanes * expansion
        expand = [conv_bn_relu(inplanes, wide, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_bn_relu(wide, wide, 3, stride, dilation, groups=wide),
            nn.Conv2d(wide, planes, 1, bias=False),
            nn.BatchNorm2d(planes),
        )
        self.residual = stride == 1 and inplanes == planes

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def mobilenet_v2() -> nn.Sequential:
    """torchvision's `features` but the last: images B x 3 x H x W -> B x 320 x ~H/16 x ~W/16."""
    layers: list[nn.Module] = [conv_bn_relu(3, 32, stride=2)]
    inplanes = 32
    for expansion, planes, blocks, stride in STAGES:
        for k in range(blocks):
            dilation = 2 if len(layers) >= FIRST_DILATED else 1
            layers.append(InvertedResidual(inplanes, planes, 1 if k else stride, dilation, expansion))
            inplanes = planes
    return nn.Sequential(*layers)
