"""Networks, inference, losses, schedules, metrics and loaders against the published method's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REFERENCE, assert_close, load_reference_weights, normal_images, reference_json, reference_npz

from datasets.lists import read_list
from datasets.loaders import (
    ClsDataset,
    ComplexDataset,
    DataConfig,
    EvalDataset,
    GTDataset,
    ImageDataset,
    SimpleDataset,
)
from datasets.transforms import scale, to_input
from networks.deeplab import build_deeplab
from networks.discriminator import build_discriminator
from utils.alignment import cutmix_box, domain_loss
from utils.denoising import noise_threshold, segmentation_loss
from utils.evaluation.inference import full_size, multi_scale_logits
from utils.evaluation.metrics import ConfusionMatrix
from utils.training.optim import poly_lr

VALUES = reference_json("values.json")
SEED = reference_json("seeds.json")["values"]


def test_networks(device: torch.device) -> None:
    theirs = reference_npz("networks.npz")
    G, D = (load_reference_weights(build()).to(device) for build in (build_deeplab, build_discriminator))
    images = normal_images(SEED + 1, (2, 3, 65, 97)).to(device)
    rng = np.random.default_rng(SEED + 2)
    probabilities = rng.dirichlet(np.ones(21), (2, 97, 97)).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        assert_close(G.eval()(images), theirs["eval_logits"], 1e-3, "logits")
        assert_close(G.train()(images), theirs["train_logits"], 1e-3, "logits")
        assert_close(D(torch.from_numpy(probabilities).to(device)), theirs["discriminator_logits"], 1e-3, "logits")


def test_two_scale_inference(device: torch.device) -> None:
    theirs = reference_npz("inference.npz")
    G = load_reference_weights(build_deeplab()).eval().to(device)
    logits = multi_scale_logits(G, normal_images(SEED + 3, (1, 3, 120, 161)).to(device))
    assert_close(logits[0], theirs["logits"], 1e-3, "logits")
    labels = full_size(logits, (120, 161)).argmax(1)[0].cpu().numpy()
    assert (labels == theirs["labels"]).mean() >= 0.999


@pytest.mark.parametrize("name", VALUES["losses"])
def test_losses(name: str, device: torch.device) -> None:
    arrays, theirs = reference_npz("losses.npz"), VALUES["losses"][name]
    labels = torch.from_numpy(arrays["labels"]).to(device)
    kind, _, value = name.partition("_")
    logits = torch.from_numpy(arrays["domain_logits" if kind == "domain" else "logits"]).to(device)
    logits.requires_grad_()
    if kind == "domain":
        loss = domain_loss(logits, float(value), labels == 255)
    elif kind == "progressive":
        loss, dropped = segmentation_loss(logits, labels, float(value), torch.tensor([11], device=device))
        assert 0 < dropped < 1
    else:
        loss, dropped = segmentation_loss(logits, labels)
        assert dropped == 0
    loss.backward()
    assert_close(loss.detach(), theirs["loss"], 1e-3, "loss")
    assert_close(logits.grad.norm(), theirs["grad_norm"], 2e-2, "gradient")
    if "grad_sum_abs" in theirs:
        assert_close(logits.grad.abs().sum(), theirs["grad_sum_abs"], 2e-2, "absolute gradient")


def test_schedules() -> None:
    for i, lr in VALUES["poly_lr"].items():
        assert poly_lr(2.5e-4, int(i), 12000) == pytest.approx(lr, rel=1e-6)
    for i, T in VALUES["pnd_threshold"].items():
        ours = noise_threshold(int(i), 1000, 11000, 1.2, 0.8)
        assert ours == (None if T is None else pytest.approx(T, rel=1e-6))


def test_cutmix_boxes() -> None:
    for case in VALUES["cutmix_box"]:
        box = cutmix_box(case["shape"][2:], case["lam"], case["cx"], case["cy"])
        assert list(box) == case["box"]


def test_metrics() -> None:
    arrays, theirs = reference_npz("metrics.npz"), VALUES["metrics"]
    confusion = ConfusionMatrix(21)
    for truth, prediction in zip(arrays["gt"], arrays["pred"]):
        confusion.update(torch.from_numpy(truth), torch.from_numpy(prediction))
    ours = confusion.scores()
    class_iou = ours.pop("Class IoU")
    for c, iou in theirs["Class IoU"].items():
        assert class_iou[c] == (None if iou is None else pytest.approx(iou, abs=1e-6))
    assert ours == {k: pytest.approx(v, abs=1e-6) for k, v in theirs.items() if k != "Class IoU"}


def config(label_dir: str) -> DataConfig:
    return DataConfig(REFERENCE / "voc" / "JPEGImages", REFERENCE / label_dir)


def check_map(ours: np.ndarray, theirs: dict, stride: int, most: int) -> None:
    assert list(ours.shape) == theirs["shape"]
    values = ours.astype(np.float64)
    assert values.mean() == pytest.approx(theirs["mean"], rel=1e-6)
    assert values.std() == pytest.approx(theirs["std"], rel=1e-6)
    rows = values.reshape(ours.shape[0], -1) if ours.ndim == 3 else values.reshape(1, -1)
    probe = rows[:, :: max(1, rows.shape[1] // stride)].ravel()[:most]
    assert probe == pytest.approx(np.array(theirs["probe"]), rel=1e-6, abs=1e-6)


def check_item(name: str, image: np.ndarray, label: np.ndarray | None = None) -> dict:
    theirs = VALUES["data"][name]
    check_map(image, theirs["image"], 7, 24)
    if label is not None:
        check_map(label, theirs["label"], 40, 40)
    return theirs


def with_input(item: tuple) -> tuple:
    """An item with the image as the network sees it."""
    return to_input(torch.from_numpy(item[0])[None])[0].numpy(), *item[1:]


@pytest.mark.parametrize(
    ("name", "loader"),
    [("simple", SimpleDataset), ("gt", GTDataset), ("simple", ComplexDataset), ("cls", ClsDataset)],
)
def test_training_loaders(name: str, loader: type[ImageDataset]) -> None:
    entries = read_list(REFERENCE / ("one_simple.txt" if loader.needs_label else "one_cls.txt"), 21)
    image, *rest = with_input(loader(entries, config("sal2gt"))[0, 0])
    theirs = check_item(name, image, rest[0] if loader.needs_label else None)
    if loader.needs_label:
        assert rest[1] == theirs["class_id"]
    elif name == "cls":
        assert rest[0].tolist() == theirs["labels"]


def test_val_loader() -> None:
    entries = read_list(REFERENCE / "one.txt", 21, labelled=False)
    id_, image, label = EvalDataset(entries, config("voc/SegmentationClassAug"))[0]
    assert id_ == entries[0].id
    check_item("val", image[0], label)


def test_scaled_simple_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.transforms.scale", lambda image, label, _: scale(image, label, 0.7))
    scaled = DataConfig(**{**vars(config("sal2gt")), "random_scale": True})
    dataset = SimpleDataset(read_list(REFERENCE / "one_simple.txt", 21), scaled)
    image, label, _ = with_input(dataset[0, 0])
    check_item("simple_scaled_07", image, label)
