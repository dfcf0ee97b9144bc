"""DeepLab on MobileNetV2: its layers, its training, and the scripts that read its checkpoints and logits."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from datasets.images import read_image
from datasets.lists import read_list
from datasets.transforms import resize, to_network
from networks.checkpoint import load_matching
from networks.deeplab import build_deeplab
from networks.imagenet import read_initial
from utils.training.optim import build_sgd
from utils.training.options import parse_args


def test_its_tensors_are_torchvisions_and_its_last_blocks_dilated() -> None:
    network = build_deeplab("mobilenet_v2", seed=0)
    state = network.features.state_dict()
    assert len(state) == 306 and sum(p.numel() for p in network.features.parameters()) == 1_811_712
    assert state["1.conv.0.0.weight"].shape == (32, 1, 3, 3) and state["1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert state["17.conv.1.0.weight"].shape == (960, 1, 3, 3) and state["17.conv.3.running_var"].shape == (320,)
    spread = {k: network.features[k].conv[1][0] for k in range(2, 18)}
    assert [k for k, conv in spread.items() if conv.stride == (2, 2)] == [2, 4, 7]
    assert [k for k, conv in spread.items() if conv.dilation == (2, 2)] == [15, 16, 17]
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(name.startswith("layer5.") or state[name.removeprefix("features.")].ndim == 4 for name in trained)
    (once, head) = build_sgd(network, 0.1).param_groups
    assert (once["steps"], once["lr"], head["steps"], head["lr"]) == (1, 0.1, 1, 1.0)


PHOTOS = Path(os.environ.get("MDBA_PHOTOS", "none"))


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="MDBA_PHOTOS names no folder of photographs")
def test_trained_features_tell_photographs_apart() -> None:
    network, path = build_deeplab("mobilenet_v2", seed=0).eval(), PHOTOS / "mobilenet_v2_imagenet.pth"
    assert load_matching(network, read_initial(path), path) == 306
    entries = [e for e in read_list(PHOTOS / "voc_list/simple_list.txt", 21) if e.classes[0] in (0, 2, 7)]
    features, classes = [], torch.tensor([e.classes[0] for e in entries])
    for entry in entries:
        image, _ = resize(read_image(PHOTOS / f"JPEGImages/{entry.id}.jpg"), None, (160, 160))
        with torch.no_grad():
            x = network.features(torch.from_numpy(to_network(image))[None])
        features.append(F.normalize(x.mean((2, 3))))
    similarity = torch.cat(features) @ torch.cat(features).T
    nearest = similarity.fill_diagonal_(-1).argmax(1)
    assert (classes[nearest] == classes).float().mean() > 0.85  # random weights: 0.66


@pytest.mark.parametrize(
    ("words", "rate"),
    [("", 2.5e-4), ("--arch mobilenet_v2", 0.002), ("--arch mobilenet_v2 --learning-rate 0.1", 0.1)],
)
def test_default_learning_rate(words: str, rate: float) -> None:
    assert parse_args("", words.split()).learning_rate == rate
