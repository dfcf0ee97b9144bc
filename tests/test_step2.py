"""Stage 2 against the published method's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REFERENCE, assert_close, load_reference_weights, normal_images, reference_json, reference_npz
from PIL import Image

from datasets.lists import read_list
from networks.checkpoint import save
from networks.deeplab import build_deeplab
from step2.libs.datasets.pseudo_labelled import EvalDatasetBGR, PseudoLabelDataset, Stage2Config
from step2.libs.loss import msc_loss, resize_labels
from step2.libs.models import build_model, from_stage1, load_initial
from step2.libs.optim import build_sgd, lr_after
from utils.core.errors import InputError

NUMBERS, ARRAYS = reference_json("step2.json"), reference_npz("step2.npz")
BLOCKS, RATES = (3, 4, 23, 3), (6, 12, 18, 24)


@pytest.fixture(scope="module")
def resnet101() -> torch.nn.Module:
    return load_reference_weights(build_model("DeepLabV2_ResNet101_MSC", 21, BLOCKS, RATES))


def images() -> torch.Tensor:
    return normal_images(reference_json("seeds.json")["step2"], (2, 3, 97, 97))


def test_key_format(resnet101: torch.nn.Module) -> None:
    keys = list(resnet101.state_dict())
    assert len(keys) == NUMBERS["n_keys"]
    assert keys[: len(NUMBERS["first_keys"])] == NUMBERS["first_keys"]
    assert keys[-len(NUMBERS["last_keys"]) :] == NUMBERS["last_keys"]
    v1 = [key.removeprefix("base.") for key in build_model("DeepLabV1_ResNet101_MSC", 21, BLOCKS, RATES).state_dict()]
    assert len(v1) == NUMBERS["v1_n_keys"] and v1[-len(NUMBERS["v1_last_keys"]) :] == NUMBERS["v1_last_keys"]


def test_multi_scale_logits(resnet101: torch.nn.Module) -> None:
    with torch.no_grad():
        assert_close(resnet101.eval()(images()), ARRAYS["eval_logits"], 1e-3, "logits")


def test_training_loss(resnet101: torch.nn.Module) -> None:
    logits = resnet101.train()(images())
    assert [list(out.shape) for out in logits] == NUMBERS["scales"]
    labels = torch.from_numpy(ARRAYS["labels"])
    for k, out in enumerate(logits):
        assert np.array_equal(resize_labels(labels, out.shape[2:]), ARRAYS[f"resized_{k}"])
    loss, parts = msc_loss(logits, labels, 255)
    for part, theirs in zip(parts, NUMBERS["per_scale_loss"], strict=True):
        assert_close(part.detach(), theirs, 1e-3, "loss of a scale")
    assert_close(loss.detach(), NUMBERS["loss"], 1e-3, "loss")
    loss.backward()
    norm = torch.stack([p.grad.double().square().sum() for p in resnet101.parameters()]).sum().sqrt()
    assert_close(norm, NUMBERS["grad_norm"], 2e-2, "gradient")
    resnet101.zero_grad()


def test_labels_are_resized_as_pil_does() -> None:
    rng = np.random.default_rng(0)
    for side in range(20, 330, 31):
        labels = rng.integers(0, 256, (1, side, side + 7), dtype=np.uint8)
        for size in ((9, 13), (41, 41), (3, 31), (100, 8)):
            pil = np.array(Image.fromarray(labels[0]).resize(size[::-1], Image.Resampling.NEAREST))
            assert np.array_equal(resize_labels(torch.from_numpy(labels), size)[0], pil)


def test_optimiser_groups_and_schedule(resnet101: torch.nn.Module) -> None:
    groups = build_sgd(resnet101, 2.5e-4, 0.9, 5e-4).param_groups
    assert [sum(p.numel() for p in group["params"]) for group in groups] == NUMBERS["group_sizes"]
    assert [(g["lr_factor"], g["weight_decay"]) for g in groups] == [(1, 5e-4), (10, 5e-4), (20, 0)]
    for iteration, lr in NUMBERS["lr_after_iteration"].items():
        assert lr_after(int(iteration), 2.5e-4, 20000, 0.9, 10) == pytest.approx(lr, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("name", ["data_test", "data_train_scale1", "data_train_scale05"])
def test_loaders(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.transforms.random_mirror", lambda image, label, _: (image, label))
    entries = read_list(REFERENCE / "one.txt", 21, labelled=False)
    if name == "data_test":
        config = Stage2Config(REFERENCE / "voc/JPEGImages", REFERENCE / "voc/SegmentationClassAug")
        _, (image,), label = EvalDatasetBGR(entries, config)[0]
    else:
        factor = 1.0 if name == "data_train_scale1" else 0.5
        config = Stage2Config(REFERENCE / "voc/JPEGImages", REFERENCE / "sal2gt", factors=(factor,))
        image, label = PseudoLabelDataset(entries, config)[0, 0]
    theirs = NUMBERS[name]
    for ours, numbers in ((image, theirs["image"]), (label, theirs["label"])):
        values = ours.astype(np.float64)
        assert list(values.shape) == numbers["shape"]
        assert [values.mean(), values.std()] == pytest.approx([numbers["mean"], numbers["std"]], rel=1e-6)
    if "probe" in theirs:
        assert image[:, 100, 150] == pytest.approx(np.array(theirs["probe"]), rel=1e-6)
    if "pad" in theirs:
        assert image[:, -1, -1] == pytest.approx(np.array(theirs["pad"]), abs=1e-5)


def test_batch_norm_stays_frozen_in_training() -> None:
    model = build_model("DeepLabV2_Mini_MSC", 4, (1, 1, 1, 1), RATES).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = build_sgd(model, 0.1, 0.9, 5e-4)
    msc_loss(model(images()), torch.zeros(2, 97, 97), 255)[0].backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and not any(".bn." in key for key in changed)


def test_initial_weights(tmp_path: Path) -> None:
    v1 = build_model("DeepLabV1_ResNet101_MSC", 7, (1, 1, 1, 1), RATES)
    state = {key.removeprefix("base."): tensor for key, tensor in v1.state_dict().items()}
    save(state, tmp_path / "v1.pth")
    model, again = (build_model(f"DeepLabV{n}_ResNet101_MSC", 7, (1, 1, 1, 1), RATES) for n in (2, 1))
    assert load_initial(model, tmp_path / "v1.pth") == len(state) - 2  # all but fc
    assert torch.equal(model.state_dict()["base.layer5.block1.conv3x3.conv.weight"], v1.base.layer4[0].conv2.weight)
    assert load_initial(again, tmp_path / "v1.pth") == len(state)
    assert torch.equal(again.base.layer5.weight, state["fc.weight"])
    with pytest.raises(InputError, match=r"gone\.pth not found: put the COCO pre-trained"):
        load_initial(model, tmp_path / "gone.pth")
    save(build_deeplab("mobilenet_v2", 7).state_dict(), tmp_path / "mobile.pth")
    with pytest.raises(InputError, match=r"mobile\.pth holds a MobileNetV2, .* stage 2 is a ResNet"):
        load_initial(model, tmp_path / "mobile.pth")


def test_a_stage_1_network_is_the_same_network(tmp_path: Path, float64: None) -> None:
    stage1 = build_deeplab("mini", 5, seed=0).eval()
    for module in stage1.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean), torch.nn.init.uniform_(module.weight)
    save(stage1.state_dict(), tmp_path / "VOC_best.pth")
    stage2 = build_model("DeepLabV2_Mini_MSC", 5, (1, 1, 2, 1), RATES).eval()
    assert load_initial(stage2, tmp_path / "VOC_best.pth") == len(stage1.state_dict())
    assert list(from_stage1(stage1.state_dict())) == list(stage2.state_dict())
    with torch.no_grad():
        rgb = normal_images(1, (1, 3, 65, 97)).double()
        assert_close(stage2.base(rgb.flip(1)), stage1(rgb), 1e-12, "logits")


def test_a_batch_without_a_label_has_loss_zero() -> None:
    loss, _ = msc_loss([torch.randn(1, 4, 5, 5)] * 2, torch.full((1, 9, 9), 255), 255)
    assert loss.item() == 0
