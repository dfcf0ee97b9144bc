"""Published checkpoints load, where MDBA_WEIGHTS names a folder of them, by their published names."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from networks import imagenet
from networks.checkpoint import load_deeplab, load_matching
from networks.deeplab import build_deeplab
from step2.libs.models import build_model, load_initial, load_trained

BLOCKS, RATES = (3, 4, 23, 3), (6, 12, 18, 24)


@pytest.fixture
def path(request: pytest.FixtureRequest) -> Path:
    """The file whose name is the parameter."""
    found = Path(os.environ.get("MDBA_WEIGHTS", "none")) / request.param
    if not found.exists():
        pytest.skip(f"MDBA_WEIGHTS names no folder with {request.param}")
    return found


def build_stage2() -> nn.Module:
    return build_model("DeepLabV2_ResNet101_MSC", 21, BLOCKS, RATES)


def assert_trained(before: dict[str, Tensor], network: nn.Module, head: str) -> None:
    """Everything but the counters and the head was read from the file."""
    for name, tensor in network.state_dict().items():
        if not name.startswith(head) and not name.endswith("num_batches_tracked"):
            assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("path", ["VOC_69.5.pth"], indirect=True)
def test_stage_1(path: Path) -> None:
    load_deeplab(path, num_classes=21)


@pytest.mark.parametrize("path", ["checkpoint_72.0.pth"], indirect=True)
def test_stage_2(path: Path) -> None:
    load_trained(build_stage2(), path)


@pytest.mark.parametrize(
    "path",
    ["resnet101COCO-41f33a49.pth", *imagenet.FILES.values(), "mobilenet_v2_imagenet.pth"],
    indirect=True,
)
def test_initial_weights_of_stage_1(path: Path) -> None:
    arch = path.name.partition("COCO")[0].partition("-")[0].removesuffix("_imagenet.pth")
    network = build_deeplab(arch, seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_matching(network, imagenet.read_initial(path), path)
    assert_trained(before, network, "layer5.")


@pytest.mark.parametrize("path", ["deeplabv1_resnet101-coco.pth"], indirect=True)
def test_initial_weights_of_stage_2(path: Path) -> None:
    network = build_stage2()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_initial(network, path)
    assert_trained(before, network, "base.aspp.")
