"""The networks of stage 2: DeepLab at three scales, with the tensor names of the published checkpoints."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.checkpoint import load_matching
from networks.deeplab import ARCHS, ASPP, Arch, DeepLab
from networks.imagenet import read_initial
from utils.core.errors import InputError

SCALES = (0.5, 0.75)
MODELS = {  # MODEL.NAME: version of DeepLab, channels of the stem
    "DeepLabV2_ResNet101_MSC": (2, 64),
    "DeepLabV1_ResNet101_MSC": (1, 64),
    "DeepLabV2_Mini_MSC": (2, ARCHS["mini"].width),
}
CONVS = {"conv1": "reduce", "conv2": "conv3x3", "conv3": "increase", "downsample": "shortcut"}


class MSC(nn.Module):
    """DeepLab on its input at scales 1, 0.5 and 0.75 (Chen et al., "Attention to Scale", without the attention)."""

    def __init__(self, n_classes: int, n_blocks: Sequence[int], rates: Sequence[int] | None, width: int = 64) -> None:
        """Args:
        n_blocks: blocks per stage, of four.
        rates: dilations of the classifier of DeepLab-v2; None: DeepLab-v1, which has a 1x1 convolution.
        width: channels of the stem.
        """
        super().__init__()

        def head(channels: int) -> nn.Module:
            if rates is None:
                return nn.Conv2d(channels, n_classes, 1)
            aspp = ASPP(channels, n_classes, ())
            for rate in rates:
                conv = nn.Conv2d(channels, n_classes, 3, padding=rate, dilation=rate)
                nn.init.normal_(conv.weight, 0, 0.01)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                aspp.conv2d_list.append(conv)
            return aspp

        self.base = DeepLab(n_classes, Arch(tuple(n_blocks), width), head)
        self.base.freeze_bn = True

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Images B x 3 x H x W (BGR) -> the maximum of the logits of all scales, of the size of those at scale 1.

        In training mode, a list of the logits at each scale and the maximum.
        """
        logits = [self.base(x)]
        # With scale_factor instead of size, as published: the input is sampled at steps of exactly 1 / factor.
        logits += [self.base(F.interpolate(x, scale_factor=p, mode="bilinear")) for p in SCALES]
        best = logits[0]
        for smaller in logits[1:]:
            best = torch.maximum(best, F.interpolate(smaller, size=best.shape[2:], mode="bilinear"))
        return [*logits, best] if self.training else best

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The tensors by their published names."""
        return {published_name(key): tensor for key, tensor in super().state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors by their published names."""
        own = {published_name(key): key for key in super().state_dict()}
        return super().load_state_dict({own.get(key, key): value for key, value in state.items()}, strict, assign)


def published_name(key: str) -> str:
    """The name of a tensor of DeepLab in a published checkpoint of stage 2; unchanged if it has none."""
    if match := re.fullmatch(r"base\.layer([1-4])\.(\d+)\.(?:(conv|bn)([123])|downsample\.([01]))\.(\w+)", key):
        layer, block, kind, number, part, leaf = match.groups()
        conv = CONVS[f"conv{number}" if number else "downsample"]
        return f"base.layer{int(layer) + 1}.block{int(block) + 1}.{conv}.{kind or ('conv', 'bn')[int(part)]}.{leaf}"
    key = re.sub(r"^base\.(conv|bn)1\.", r"base.layer1.conv1.\1.", key)
    key = re.sub(r"^base\.layer5\.conv2d_list\.", "base.aspp.c", key)
    return re.sub(r"^base\.layer5\.(weight|bias)$", r"base.fc.\1", key)


def from_stage1(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a stage 1 state dict to the names of stage 2, and its first convolution from RGB to BGR."""
    state = dict(state) | {"conv1.weight": state["conv1.weight"].flip(1)}
    return {published_name(f"base.{key}"): tensor for key, tensor in state.items()}


def build_model(name: str, n_classes: int, n_blocks: Sequence[int], rates: Sequence[int]) -> MSC:
    """Build the network MODEL.NAME."""
    version, width = MODELS[name]
    return MSC(n_classes, n_blocks, rates if version == 2 else None, width)


def load_initial(model: MSC, path: Path) -> int:
    """Initialize from a checkpoint of stage 1 or 2; returns the number of tensors copied.

    Tensors without a counterpart, such as `fc` of DeepLab-v1 in DeepLab-v2, are skipped.
    """
    if not path.exists():
        raise InputError(
            f"{path} not found: put the COCO pre-trained deeplabv1_resnet101-coco.pth there, or set MODEL.INIT_MODEL"
            " to another checkpoint of stage 1 or 2, or to null for random weights"
        )
    state = read_resnet(path)
    stage1 = "conv1.weight" in state
    return load_matching(model, from_stage1(state) if stage1 else with_base(state), path)


def with_base(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of stage 2 whose names have the prefix `base.`, as those of `MSC` have."""
    return {f"base.{key.removeprefix('base.')}": tensor for key, tensor in state.items()}


def read_resnet(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a ResNet; InputError if it is a MobileNetV2's."""
    state = read_initial(path)
    if "features.0.0.weight" in state:
        raise InputError(
            f"{path} holds a MobileNetV2, but the network of stage 2 is a ResNet: use the checkpoint of a ResNet, or"
            " MODEL.INIT_MODEL=null for random weights"
        )
    return state
