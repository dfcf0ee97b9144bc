"""The networks: sizes, key formats, the head that computes its convolutions as one, and MobileNetV2."""

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from test_own_data import NO_PHOTOS, PHOTOS

from datasets import transforms
from datasets.images import read_image
from datasets.lists import read_list
from networks.checkpoint import load_matching
from networks.deeplab import ARCHS, ASPP, build_deeplab, logit_side
from networks.imagenet import read_initial
from networks.resize import resize
from utils.training.optim import build_sgd


def test_mini_is_small_and_trains_its_batch_norm() -> None:
    mini = build_deeplab("mini", seed=1)
    assert sum(p.numel() for p in mini.parameters()) < 2e6
    assert all(p.requires_grad for p in mini.parameters())
    assert not build_deeplab("resnet50").bn1.weight.requires_grad
    again, other = build_deeplab("mini", seed=1), build_deeplab("mini", seed=2)
    assert torch.equal(mini.conv1.weight, again.conv1.weight)
    assert not torch.equal(mini.conv1.weight, other.conv1.weight)
    assert set(ARCHS) == {"resnet101", "resnet50", "mini", "mobilenet_v2"}


@pytest.mark.parametrize("arch", ["mini", "mobilenet_v2"])
def test_logits_have_the_size_that_is_expected_of_them(arch: str) -> None:
    network, stride = build_deeplab(arch, 3, seed=0).eval(), 16 if arch == "mobilenet_v2" else 8
    for height, width in ((1, 32), (33, 48), (161, 100)):
        with torch.no_grad():
            found = network(torch.randn(1, 3, height, width))
        assert found.shape == (1, 3, logit_side(height, stride), logit_side(width, stride))


@pytest.mark.parametrize("side", [5, 13, 41])  # smaller than all dilations, than some, larger
def test_head_sums_its_convolutions(side: int, float64: None) -> None:
    torch.manual_seed(0)
    head, x = ASPP(16, 3), torch.randn(2, 16, side, side, requires_grad=True)
    plain, found = sum(conv(x) for conv in head.conv2d_list), head(x)
    assert_close(found.detach(), plain.detach(), 1e-12, "logits")
    weight, inputs = torch.randn_like(plain), [x, *head.parameters()]
    gradients = torch.autograd.grad((plain * weight).sum(), inputs)
    for _ in range(2):  # the second time on top of the first's gradients
        (head(x) * weight).sum().backward()
    for tensor, gradient in zip(inputs, gradients):
        assert_close(tensor.grad, 2 * gradient, 1e-12, "gradient")


def test_head_sums_in_float32() -> None:
    head, x = ASPP(16, 3), torch.randn(1, 16, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(x).dtype == torch.float32


def test_resize_is_bilinear_interpolation(float64: None) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 6, 9, requires_grad=True), torch.randn(2, 3, 41, 50)
    plain = F.interpolate(x, (41, 50), mode="bilinear", align_corners=True)
    found = resize(x, (41, 50))
    assert_close(found.detach(), plain.detach(), 1e-12, "logits")
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, plain)]
    assert_close(*gradients, 1e-12, "gradient")


def test_mobilenet_has_torchvisions_tensors_and_dilated_last_blocks() -> None:
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


@NO_PHOTOS
def test_trained_features_tell_photographs_apart() -> None:
    network, path = build_deeplab("mobilenet_v2", seed=0).eval(), PHOTOS / "mobilenet_v2_imagenet.pth"
    assert load_matching(network, read_initial(path), path) == 306
    entries = [e for e in read_list(PHOTOS / "voc_list/simple_list.txt", 21) if e.classes[0] in (0, 2, 7)]
    features, classes = [], torch.tensor([e.classes[0] for e in entries])
    for entry in entries:
        image, _ = transforms.resize(read_image(PHOTOS / f"JPEGImages/{entry.id}.jpg"), None, (160, 160))
        with torch.no_grad():
            x = network.features(torch.from_numpy(transforms.to_network(image))[None])
        features.append(F.normalize(x.mean((2, 3))))
    similarity = torch.cat(features) @ torch.cat(features).T
    nearest = similarity.fill_diagonal_(-1).argmax(1)
    assert (classes[nearest] == classes).float().mean() > 0.85  # random weights: 0.66
