"""Builds the networks of stage 2 by name and loads their weights."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from networks.checkpoint import load_matching, load_strict
from networks.deeplab import ARCHS
from networks.imagenet import read_initial
from step2.libs.models.deeplab import DeepLabV1, DeepLabV2
from step2.libs.models.msc import MSC
from utils.core.errors import InputError

MINI_WIDTH = ARCHS["mini"].width

MODELS: dict[str, Callable[[int, Sequence[int], Sequence[int]], MSC]] = {
    "DeepLabV2_ResNet101_MSC": lambda n, blocks, rates: MSC(DeepLabV2(n, blocks, rates)),
    "DeepLabV1_ResNet101_MSC": lambda n, blocks, rates: MSC(DeepLabV1(n, blocks)),
    "DeepLabV2_Mini_MSC": lambda n, blocks, rates: MSC(DeepLabV2(n, blocks, rates, MINI_WIDTH)),
}


def build_model(name: str, n_classes: int, n_blocks: Sequence[int], rates: Sequence[int]) -> MSC:
    """Build the network MODEL.NAME."""
    return MODELS[name](n_classes, n_blocks, rates)


def load_initial(model: MSC, path: Path) -> int:
    """Initialize from a checkpoint of stage 1 or 2; returns the number of tensors copied.

    Tensors without a counterpart, such as `fc` of DeepLab-v1 in DeepLab-v2, are skipped.

    Raises:
        InputError: the file is missing or damaged, or no tensor matches.
    """
    if not path.exists():
        raise InputError(
            f"{path} not found: put the COCO pre-trained deeplabv1_resnet101-coco.pth there, or set MODEL.INIT_MODEL"
            " to another checkpoint of stage 1 or 2, or to null for random weights"
        )
    state = read_resnet(path)
    if "conv1.weight" in state:
        state = from_stage1(state)
    return load_matching(model.base, {key.removeprefix("base."): v for key, v in state.items()}, path)


def load_trained(model: MSC, path: Path) -> None:
    """Load a trained checkpoint, which must match the network."""
    load_strict(model, read_resnet(path), path)


def read_resnet(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a ResNet; InputError if it is a MobileNetV2's."""
    state = read_initial(path)
    if "features.0.0.weight" in state:
        raise InputError(
            f"{path} holds a MobileNetV2, but the network of stage 2 is a ResNet: use the checkpoint of a ResNet, or"
            " MODEL.INIT_MODEL=null for random weights"
        )
    return state


def from_stage1(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a stage 1 state dict to the names of stage 2, and its first convolution from RGB to BGR."""
    convs = {"conv1": "reduce", "conv2": "conv3x3", "conv3": "increase", "downsample": "shortcut"}
    renamed = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"layer([1-4])\.(\d+)\.(?:(conv|bn)([123])|downsample\.([01]))\.(\w+)", key):
            layer, block, kind, number, part, leaf = match.groups()
            kind = kind or ("conv", "bn")[int(part)]
            conv = convs[f"conv{number}" if number else "downsample"]
            key = f"layer{int(layer) + 1}.block{int(block) + 1}.{conv}.{kind}.{leaf}"
        elif match := re.fullmatch(r"(conv|bn)1\.(\w+)", key):
            key = f"layer1.conv1.{match[1]}.{match[2]}"
            tensor = tensor.flip(1) if match[1] == "conv" else tensor
        elif match := re.fullmatch(r"layer5\.conv2d_list\.(\d)\.(\w+)", key):
            key = f"aspp.c{match[1]}.{match[2]}"
        renamed[key] = tensor
    return renamed
