"""pretrain.py and the trunk in model/: training, resuming, the result as initial weights, bad inputs."""

import json
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import DEADLINE, ROOT, data_options, error_line, flags, run_script
from test_distributed import torchrun
from test_resume import same, start

from datasets.class_folders import ClassFolderDataset, ClassFolderEvalDataset, find_class_folders
from datasets.loaders import DataConfig
from datasets.transforms import MEAN_BGR
from networks.checkpoint import load_matching, read_checkpoint, read_state
from networks.deeplab import build_deeplab
from pretrain import build_classifier, restore

TRUNK = ROOT / "model/mini_tiny_imagenet.pth"
# Architecture, file and number of tensors.
PACKAGED = [("mini", TRUNK, 120), ("mini_deep", ROOT / "model/mini_deep_tiny_imagenet.pth", 210)]
COLOURS = {"dog": (200, 60, 60), "frog": (60, 200, 60), "train": (60, 60, 200)}


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of each class, in its colour; one class has the name of a split."""
    root, rng = tmp_path_factory.mktemp("pretrain") / "classes", np.random.default_rng(3)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for n in range(12):
            image = rng.integers(0, 120, (36 + n, 44, 3)) + np.array(colour) // 2
            cv2.imwrite(str(root / name / f"{n}.png"), image.astype(np.uint8))
    return root


def options(root: Path, out: Path, *more: object) -> list[object]:
    return [
        *flags(data_dir=root, snapshot_dir=out, device="cpu", num_workers=0, input_size=32, shift=3),
        *flags(batch_size=9, epochs=6, val_fraction=0.25, log_every=1, learning_rate=0.01, min_area=0.5),
        *more,
    ]


@pytest.fixture(scope="module")
def trained(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    assert "val top-1" in run_script("pretrain.py", *options(class_folders, out)).stdout
    return out


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_loss_falls(trained: Path) -> None:
    log = lines(trained / "log.jsonl")
    assert [line["i"] for line in log] == list(range(18))  # 27 of 36 images, 3 batches per epoch
    losses = [line["loss"] for line in log]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    assert log[0]["lr"] == 0.01 and 0 < log[-1]["lr"] < 0.001
    val = lines(trained / "val.jsonl")
    assert [(line["i"], line["epoch"]) for line in val] == [(3 * n - 1, n) for n in range(1, 7)]
    assert val[-1]["top1"] > 0.5


def test_the_trunk_is_a_plain_state_dict_without_classifier(trained: Path) -> None:
    trunk, network = read_state(trained / "trunk.pth"), build_deeplab("mini", 4)
    own = network.state_dict()
    assert trunk.keys() == {key for key in own if not key.startswith("layer5.")}
    assert all(trunk[key].shape == own[key].shape for key in trunk)


def test_a_stopped_run_ends_as_the_uninterrupted(trained: Path, class_folders: Path, tmp_path: Path) -> None:
    command = options(class_folders, tmp_path, "--num-workers", 1, "--save-every", 2)
    process = start("pretrain.py", command, "SIGINT")
    stderr = process.communicate(timeout=DEADLINE)[1]
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in stderr, stderr
    assert 0 < read_checkpoint(tmp_path / "last.pth")["iteration"] < 18
    assert "resuming after" in run_script("pretrain.py", *command).stdout
    for name in ("last.pth", "trunk.pth"):
        assert same(read_checkpoint(tmp_path / name), read_checkpoint(trained / name)), name
    for name in ("log.jsonl", "val.jsonl"):
        assert (tmp_path / name).read_text() == (trained / name).read_text()


def test_other_images_are_another_run(trained: Path, class_folders: Path, tmp_path: Path) -> None:
    shutil.copytree(class_folders, tmp_path / "classes")
    shutil.copytree(trained, tmp_path / "out")
    (tmp_path / "classes/dog/0.png").unlink()
    assert "images (was '27+9 images" in error_line(
        "pretrain.py", *options(tmp_path / "classes", tmp_path / "out")
    )


def test_a_trunk_grows_without_a_change_of_its_features() -> None:
    """The blocks that the file lacks begin as the identity, and are trained."""
    grown, shallow = (build_classifier(arch, 3, seed=1).eval() for arch in ("mini_deep", "mini"))
    restore(grown, TRUNK)
    restore(shallow, TRUNK)
    shallow.layer5 = grown.layer5
    x = 100 * torch.randn(2, 3, 33, 33)
    assert torch.equal(grown(x), shallow(x))
    grown(x).sum().backward()
    new = [module.bn3.weight for name, module in grown.named_modules() if name in ("layer1.1", "layer3.3")]
    assert len(new) == 2 and all((weight == 0).all() and weight.grad.abs().max() > 0 for weight in new)


def test_two_processes(class_folders: Path, tmp_path: Path) -> None:
    said = torchrun("pretrain.py", *options(class_folders, tmp_path, "--epochs", 1, "--batch-size", 6))
    assert said.count("trunk of mini") == said.count("val top-1 ") - 1 == 1
    assert len(lines(tmp_path / "log.jsonl")) == 4 and len(lines(tmp_path / "val.jsonl")) == 1
    assert (tmp_path / "trunk.pth").exists()


def test_separate_validation_directory(class_folders: Path, tmp_path: Path) -> None:
    shutil.copytree(class_folders, tmp_path / "train")
    shutil.copytree(class_folders / "frog", tmp_path / "val/frog/images")
    folders = find_class_folders(tmp_path, 0.25, seed=1)
    assert folders.classes == ["dog", "frog", "train"] and len(folders.train) == 36
    assert {entry.classes for entry in folders.val} == {(1,)} and len(folders.val) == 12
    assert folders.val[0].id == "val/frog/images/0.png"


def test_held_out_images_are_a_function_of_the_seed(class_folders: Path) -> None:
    one, again, other = (find_class_folders(class_folders, 0.25, seed) for seed in (1, 1, 2))
    assert one == again and one.val != other.val
    assert not {entry.id for entry in one.train} & {entry.id for entry in one.val}
    assert [sum(entry.classes == (c,) for entry in one.val) for c in range(3)] == [3, 3, 3]
    assert find_class_folders(class_folders, 0, 1).val == []


def test_images_are_cropped_and_shifted(class_folders: Path) -> None:
    folders = find_class_folders(class_folders, 0, seed=1)
    config = DataConfig(folders.root, crop=(32, 40))
    image, target = ClassFolderEvalDataset(folders.train, config)[12]
    assert image.shape == (3, 32, 40) and image.dtype == np.float32 and target == 1
    mean_rgb = image.mean((1, 2)) + MEAN_BGR[::-1]
    assert np.allclose(mean_rgb, np.array(COLOURS["frog"])[::-1] // 2 + 59.5, atol=3)
    plain = ClassFolderDataset(folders.train, config)
    shifted = ClassFolderDataset(folders.train, config, shift=5)
    assert np.array_equal(plain[7, 12][0], plain[7, 12][0])
    borders = [(shifted[position, 12][0] == 0).all(0).sum() for position in range(8)]
    assert max(borders) > 0 and min(borders) < max(borders)  # the mean colour, of various widths


@pytest.mark.parametrize(("arch", "trunk", "tensors"), [*PACKAGED, ("mini", None, 120)])
def test_all_tensors_but_the_classifier_are_copied(
    arch: str, trunk: Path | None, tensors: int, trained: Path
) -> None:
    path = trunk or trained / "trunk.pth"
    state, network = read_state(path), build_deeplab(arch, 21, seed=0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert load_matching(network, state, path) == len(state) == tensors
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key] if key.startswith("layer5.") else state[key]), key


@pytest.mark.parametrize(("arch", "trunk", "tensors"), PACKAGED)
def test_train_starts_from_a_packaged_trunk(
    arch: str, trunk: Path, tensors: int, tiny_data: Path, tmp_path: Path
) -> None:
    assert trunk.stat().st_size < 10e6
    done = run_script(
        "train.py",
        *data_options(tiny_data),
        *flags(list_dir=tiny_data / "lists", pseudo_label_dir=tiny_data / "sal2gt", snapshot_dir=tmp_path),
        *flags(arch=arch, restore_from=trunk, input_size=40, batch_size=2, num_steps=1),
        "--no-val",
    )
    assert f"copied {tensors} of {tensors + 8} tensors" in done.stdout


def test_bad_inputs_are_one_line(class_folders: Path, tmp_path: Path) -> None:
    def line(root: Path, *more: object) -> str:
        return error_line("pretrain.py", *options(root, tmp_path / "out", *more))

    assert "not a directory" in line(tmp_path / "missing")
    root = tmp_path / "root"
    root.mkdir()
    assert "no class" in line(root)
    shutil.copytree(class_folders / "dog", root / "dog")
    assert "only one class, dog" in line(root)
    (root / "frog").mkdir()
    assert "frog contains no image" in line(root)
    (root / "frog/broken.jpg").write_bytes(b"no image")
    assert "broken.jpg cannot be read as an image" in line(root, "--val-fraction", 0)
    assert "must be less than 1" in line(root, "--val-fraction", 1)
    assert "no convolution matches" in line(class_folders, "--restore-from", TRUNK, "--arch", "resnet50")
    split = tmp_path / "split"
    shutil.copytree(class_folders, split / "train")
    shutil.copytree(class_folders / "dog", split / "val/images")
    assert "has no such class" in line(split)
