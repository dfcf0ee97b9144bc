"""The published checkpoints open, where MDBA_WEIGHTS names a folder with some of them."""

import os
from pathlib import Path

import pytest

from networks.checkpoint import load_matching, read_state
from networks.deeplab import build_deeplab
from networks.imagenet import FILES, read_initial
from step2.libs.models import MSC, load_initial
from utils.evaluation.predictor import Predictor

FOLDER = Path(os.environ.get("MDBA_WEIGHTS", "none"))
TRUNK = 520  # tensors of ResNet-101 without classifier: 104 convolutions, each with 4 of batch normalization

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="MDBA_WEIGHTS names no folder of checkpoints")


def find(name: str) -> Path:
    path = next(FOLDER.rglob(name), None)
    return path or pytest.skip(f"{name} is not in {FOLDER}")


@pytest.mark.parametrize(("name", "stage"), [("VOC_69.5.pth", 1), ("checkpoint_72.0.pth", 2)])
def test_trained_networks(name: str, stage: int) -> None:
    loaded = Predictor(find(name))
    assert (loaded.stage, loaded.num_classes) == (stage, 21)


def test_initial_weights() -> None:
    path = find("resnet101COCO-41f33a49.pth")
    assert load_matching(build_deeplab("resnet101"), read_state(path), path) >= TRUNK


@pytest.mark.parametrize("arch", FILES)
def test_torchvisions_classifiers(arch: str) -> None:
    path, network = find(FILES[arch]), build_deeplab(arch)
    names = [n for n in network.state_dict() if not n.startswith("layer5.") and "num_batches" not in n]
    assert load_matching(network, read_initial(path), path) >= len(names)


def test_initial_weights_of_stage_2() -> None:
    model = MSC(21, (3, 4, 23, 3), (6, 12, 18, 24))
    assert load_initial(model, find("deeplabv1_resnet101-coco.pth")) >= TRUNK
