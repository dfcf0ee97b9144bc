"""DeepLab-v1 and DeepLab-v2 of stage 2, with a common backbone."""

from collections.abc import Sequence

from torch import Tensor, nn

from networks.deeplab import sum_of_dilated
from step2.libs.models.resnet import EXPANSION, backbone


class DeepLabV1(nn.Sequential):
    """The backbone and a 1x1 convolution `fc`; the format of deeplabv1_resnet101-coco.pth."""

    def __init__(self, n_classes: int, n_blocks: Sequence[int], width: int = 64) -> None:
        modules = backbone(n_blocks, width)
        modules["fc"] = nn.Conv2d(width * 8 * EXPANSION, n_classes, 1)
        super().__init__(modules)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: the sum of one dilated 3x3 convolution per rate."""

    def __init__(self, inplanes: int, n_classes: int, rates: Sequence[int]) -> None:
        super().__init__()
        for i, rate in enumerate(rates):
            conv = nn.Conv2d(inplanes, n_classes, 3, padding=rate, dilation=rate)
            nn.init.normal_(conv.weight, 0, 0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            self.add_module(f"c{i}", conv)

    def forward(self, x: Tensor) -> Tensor:
        return sum_of_dilated(x, self.children())


class DeepLabV2(nn.Sequential):
    """The backbone and `aspp`."""

    def __init__(self, n_classes: int, n_blocks: Sequence[int], rates: Sequence[int], width: int = 64) -> None:
        modules = backbone(n_blocks, width)
        modules["aspp"] = ASPP(width * 8 * EXPANSION, n_classes, rates)
        super().__init__(modules)
