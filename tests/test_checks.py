"""check_data.py and measured IoU thresholds."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import flags, run_script, train_options
from PIL import ExifTags, Image

from datasets.lists import Entry
from datasets.loaders import DataConfig, SimpleDataset
from utils.training import validation


def check_options(root: Path) -> list[object]:
    folders = flags(data_dir=root, list_dir=root / "lists", pseudo_label_dir=root / "sal2gt")
    return [*folders, *flags(num_classes=4, class_names=root / "lists/class_names.txt")]


@pytest.mark.parametrize(("name", "option"), [("complex_list", "--no-c2s"), ("train_cls", "--no-cls")])
def test_lists_that_a_training_does_without(own_data: Path, name: str, option: str) -> None:
    (own_data / f"lists/{name}.txt").write_text("")
    done = run_script("check_data.py", *check_options(own_data), status=2)
    assert f"{name}: unusable" in done.stdout and f"to train without it: {option}" in done.stdout
    run_script("check_data.py", *check_options(own_data), option)


def edit(root: Path, name: str, pattern: str, by: str) -> None:
    path = root / f"lists/{name}.txt"
    path.write_text(re.sub(pattern, by, path.read_text()))


def paint(value: int, size: tuple[int, int] = (64, 80)) -> Image.Image:
    return Image.fromarray(np.full(size, value, np.uint8))


def disguise(root: Path) -> None:
    for path in (root / "sal2gt").iterdir():
        shutil.copy(path, root / "SegmentationClassAug" / path.name)


def break_mask(root: Path) -> None:
    (root / "SegmentationClassAug/simple_00001.png").write_text("no mask")


def turn(path: Path) -> None:
    """Make an image upside down for those who ignore EXIF; its label may or may not be."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    with Image.open(path) as image:
        image.save(path, exif=exif)


def damage(root: Path) -> None:
    """A JPEG with noise in the middle, which decoders read."""
    path = root / "JPEGImages/simple_00001.jpg"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 100] = np.random.default_rng(0).bytes(100).replace(b"\xff", b"0")
    path.write_bytes(content)


# What train.py refuses, at its start or when it reads the file.
ERRORS = {
    "image not found": lambda r: (r / "JPEGImages/complex_00001.jpg").unlink(),
    "image cannot be read": lambda r: (r / "JPEGImages/complex_00002.jpg").write_text("x"),
    "label missing or unusable": lambda r: (r / "sal2gt/simple_00003.png").unlink(),
    "label and image differ in size": lambda r: paint(1, (9, 9)).save(r / "sal2gt/simple_00001.png"),
    "simple_list: has several classes": lambda r: edit(r, "simple_list", r"\Z", "complex_00001 0 1"),
    "image cannot be read; first: ": lambda r: Image.new("L", (80, 1)).save(r / "JPEGImages/val_00001.jpg"),
    "val: unusable": lambda r: (r / "lists/val.txt").write_text(""),
}
WARNINGS = {
    "image turned by its EXIF orientation: see that its label": lambda r: turn(r / "JPEGImages/simple_00001.jpg"),
    "image damaged, a part of it is wrong": damage,
    "complex_list: listed more than once": lambda r: edit(r, "complex_list", r"\Z", "complex_00001 0 1"),
    "label without foreground": lambda r: paint(0).save(r / "sal2gt/simple_00002.png"),
    "label of a class that the image does not have": lambda r: paint(1).save(r / "sal2gt/simple_00001.png"),
    "pseudo label identical to the ground truth": disguise,
    "ground truth of a training image unusable": break_mask,
    "also in val": lambda r: edit(r, "train_cls", r"\Z", "val_00001 0"),
    "in simple_list and complex_list": lambda r: edit(r, "complex_list", r"\Z", "simple_00001 0"),
    "simple_list: other classes than in train_cls": lambda r: edit(
        r, "train_cls", "simple_00001 1", "simple_00001 0"
    ),
    "complex_list: not in train_cls": lambda r: edit(r, "train_cls", "complex_00003.*\n", ""),
    "simple_list: class without an image": lambda r: (r / "lists/simple_list.txt").write_text("simple_00001 0\n"),
}


@pytest.mark.parametrize("text", [*ERRORS, *WARNINGS])
def test_an_error_is_what_training_refuses(own_data: Path, tmp_path: Path, text: str) -> None:
    (ERRORS | WARNINGS)[text](own_data)
    status, level = (2, "error") if text in ERRORS else (0, "warning")
    done = run_script("check_data.py", *check_options(own_data), status=status)
    (line,) = [line for line in done.stdout.splitlines() if text in line]
    assert line.startswith(level) and "first: " in line
    assert done.stdout.splitlines()[-1] == "no errors" or "fix them before training" in done.stderr
    options = train_options(own_data, tmp_path / "out")
    steps = 8 if text in ERRORS else 1  # it meets all simple images, or starts
    run_script("train.py", *options, "--num-steps", steps, status=status)


def test_one_problem_does_not_hide_the_others(own_data: Path) -> None:
    """A simple label and a true mask of the same image that cannot be read, and a missing image."""
    disguise(own_data)
    break_mask(own_data)
    (own_data / "sal2gt/simple_00002.png").write_text("no label")
    (own_data / "JPEGImages/complex_00001.jpg").unlink()
    out = run_script("check_data.py", *check_options(own_data), status=2).stdout
    assert "found 23 of 24 images" in out and "found 12 of 12 pseudo labels" in out
    assert "image not found" in out and "label missing or unusable" in out
    assert "identical to the ground truth" in out and "unusable, not compared" in out


def test_good_data_is_counted_by_list_and_class(tiny_data: Path) -> None:
    rows = run_script("check_data.py", *check_options(tiny_data)).stdout.splitlines()
    assert rows[0].split() == ["simple_list", "complex_list", "train_cls", "val"]
    assert rows[1].split() == ["images", "12", "8", "20", "4"]
    listed = [line.split()[1:] for line in (tiny_data / "lists/simple_list.txt").open()]
    assert rows[2].split()[:2] == ["bird", str(listed.count(["0"]))] and rows[2].split()[-1] == "-"
    assert rows[5].startswith("found 24 of 24 images in ")
    assert rows[6:8] == [
        f"found 12 of 12 pseudo labels in {tiny_data / 'sal2gt'}",
        f"found 4 of 4 validation masks in {tiny_data / 'SegmentationClassAug'}",
    ]
    assert rows[-1] == "no problems found"


def test_thresholds_are_the_classes_means_floored(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_foreground(x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(1, 4, *x.shape[2:])
        logits[:, 1, : x.shape[2] // 2] = 1
        return logits

    def label(rows: int) -> torch.Tensor:
        label = torch.zeros(100, 10, dtype=torch.uint8)
        label[:rows] = 2
        return label

    image = torch.zeros(1, 3, 100, 10)
    loader = [("a", image, label(50)), ("b", image, label(39)), ("c", image, label(20))]  # IoU 1, 0.78, 0.4
    monkeypatch.setattr(validation, "eval_loader", lambda *_, **__: loader)
    entries = [Entry("a", (0,)), Entry("b", (0,)), Entry("c", (2,))]
    simple = SimpleDataset(entries, DataConfig(Path(), num_classes=4))
    measured = validation.measure_iou_thresholds(half_foreground, simple, 0, torch.device("cpu"))
    assert measured == pytest.approx([0.8, 0.0, 0.3])  # of 0.89, none, 0.4


def test_flooring_survives_rounding() -> None:
    assert [validation.floor_to_tenth(x) for x in (0.69, 0.7, 0.1 + 0.2, 0.999, 1.0)] == [0.6, 0.7, 0.3, 0.9, 1.0]
