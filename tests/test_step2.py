"""Stage 2: against the published method's numbers, and as a user runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import (
    REFERENCE,
    ROOT,
    assert_logits_close,
    error_line,
    load_reference_weights,
    normal_images,
    reference_json,
    reference_npz,
    run_script,
)
from libs.config import load_config
from libs.datasets.pseudo_labelled import PseudoLabelled, Stage2Config, WholeBGR
from libs.loss import msc_loss, resize_labels
from libs.models import build_model, from_stage1, load_initial
from libs.models.deeplab import DeepLabV1
from libs.models.msc import MSC
from libs.optim import build_sgd, lr_after
from PIL import Image

from datasets.lists import read_list
from networks.deeplab import build_deeplab
from utils.checkpoint import save
from utils.files import InputError

NUMBERS, ARRAYS = reference_json("step2.json"), reference_npz("step2.npz")
BLOCKS, RATES = (3, 4, 23, 3), (6, 12, 18, 24)
CONFIG = ROOT / "step2/configs/voc12.yaml"


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
    v1 = list(DeepLabV1(21, BLOCKS).state_dict())
    assert len(v1) == NUMBERS["v1_n_keys"] and v1[-len(NUMBERS["v1_last_keys"]) :] == NUMBERS["v1_last_keys"]


def test_multi_scale_logits(resnet101: torch.nn.Module) -> None:
    with torch.no_grad():
        assert_logits_close(resnet101.eval()(images()), ARRAYS["eval_logits"])


def test_training_loss(resnet101: torch.nn.Module) -> None:
    logits = resnet101.train()(images())
    assert [list(out.shape) for out in logits] == NUMBERS["scales"]
    labels = torch.from_numpy(ARRAYS["labels"])
    for k, out in enumerate(logits):
        assert np.array_equal(resize_labels(labels, out.shape[2:]), ARRAYS[f"resized_{k}"])
    loss, parts = msc_loss(logits, labels, 255)
    assert [p.item() for p in parts] == pytest.approx(NUMBERS["per_scale_loss"], rel=1e-3)
    assert loss.item() == pytest.approx(NUMBERS["loss"], rel=1e-3)
    loss.backward()
    norm = torch.stack([p.grad.double().square().sum() for p in resnet101.parameters()]).sum().sqrt()
    assert norm.item() == pytest.approx(NUMBERS["grad_norm"], rel=2e-2)
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


def check_item(name: str, image: np.ndarray, label: np.ndarray) -> None:
    theirs = NUMBERS[name]
    for ours, numbers in ((image, theirs["image"]), (label, theirs["label"])):
        values = ours.astype(np.float64)
        assert list(values.shape) == numbers["shape"]
        assert [values.mean(), values.std()] == pytest.approx([numbers["mean"], numbers["std"]], rel=1e-6)
    if "probe" in theirs:
        assert image[:, 100, 150] == pytest.approx(np.array(theirs["probe"]), rel=1e-6)
    if "pad" in theirs:
        assert image[:, -1, -1] == pytest.approx(np.array(theirs["pad"]), abs=1e-5)


def reference_entries() -> list:
    return read_list(REFERENCE / "one.txt", 21, labelled=False)


def test_test_loader() -> None:
    config = Stage2Config(REFERENCE / "voc/JPEGImages", REFERENCE / "voc/SegmentationClassAug")
    _, image, label = WholeBGR(reference_entries(), config)[0]
    check_item("data_test", image[0], label)


@pytest.mark.parametrize(("name", "factor"), [("data_train_scale1", 1.0), ("data_train_scale05", 0.5)])
def test_training_loader(name: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.transforms.random_mirror", lambda image, label, _: (image, label))
    config = Stage2Config(REFERENCE / "voc/JPEGImages", REFERENCE / "sal2gt", factors=(factor,))
    check_item(name, *PseudoLabelled(reference_entries(), config)[0, 0])


def test_batch_norm_stays_frozen_in_training() -> None:
    model = build_model("DeepLabV2_Mini_MSC", 4, (1, 1, 1, 1), RATES).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = build_sgd(model, 0.1, 0.9, 5e-4)
    msc_loss(model(images()), torch.zeros(2, 97, 97), 255)[0].backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and not any(".bn." in key for key in changed)


def test_initial_weights(tmp_path: Path) -> None:
    v1 = DeepLabV1(7, (1, 1, 1, 1), 16)
    save(v1.state_dict(), tmp_path / "v1.pth")
    model = build_model("DeepLabV2_Mini_MSC", 7, (1, 1, 1, 1), RATES)
    assert load_initial(model, tmp_path / "v1.pth") == len(v1.state_dict()) - 2  # all but fc
    assert torch.equal(model.base.layer5.block1.conv3x3.conv.weight, v1.layer5.block1.conv3x3.conv.weight)
    again = MSC(DeepLabV1(7, (1, 1, 1, 1), 16))
    assert load_initial(again, tmp_path / "v1.pth") == len(v1.state_dict())
    assert torch.equal(again.base.fc.weight, v1.fc.weight)
    with pytest.raises(InputError, match=r"gone\.pth not found: put the COCO pre-trained"):
        load_initial(model, tmp_path / "gone.pth")


def test_a_stage_1_network_is_the_same_network(tmp_path: Path) -> None:
    stage1 = build_deeplab("mini", 5, seed=0).eval()
    for module in stage1.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean), torch.nn.init.uniform_(module.weight)
    save(stage1.state_dict(), tmp_path / "VOC_best.pth")
    stage2 = build_model("DeepLabV2_Mini_MSC", 5, (1, 1, 2, 1), RATES).eval()
    assert load_initial(stage2, tmp_path / "VOC_best.pth") == len(stage1.state_dict())
    assert set(from_stage1(stage1.state_dict())) == set(stage2.base.state_dict())
    with torch.no_grad():
        rgb = normal_images(1, (1, 3, 65, 97))
        assert torch.allclose(stage1(rgb), stage2.base(rgb.flip(1)), atol=1e-4)


def test_published_configuration() -> None:
    config = load_config(CONFIG)
    assert (config.SOLVER.ITER_MAX, config.SOLVER.BATCH_SIZE.TRAIN, config.IMAGE.SIZE.TRAIN) == (
        20000,
        10,
        321,
    )
    assert (config.SOLVER.LR, config.SOLVER.ITER_SAVE, config.SOLVER.LR_DECAY) == (2.5e-4, 5000, 10)
    assert config.DATASET.PSEUDO_LABELS == "../pseudo_labels" and config.DATASET.SCALES[0] == 0.5
    assert load_config(CONFIG, ["SOLVER.LR=1e-4", "MODEL.N_BLOCKS=[1, 1, 2, 1]"]).MODEL.N_BLOCKS[2] == 2


def test_keys_of_published_files_without_effect_are_accepted(tmp_path: Path) -> None:
    values = yaml.safe_load(CONFIG.read_text())
    values["SOLVER"]["ITER_TB"], values["IMAGE"]["SIZE"]["BASE"] = 100, None
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert load_config(tmp_path / "c.yaml").SOLVER.ITER_MAX == 20000


def test_a_batch_without_a_label_has_loss_zero() -> None:
    loss, _ = msc_loss([torch.randn(1, 4, 5, 5)] * 2, torch.full((1, 9, 9), 255), 255)
    assert loss.item() == 0


def broken(change: str) -> str:
    values = yaml.safe_load(CONFIG.read_text())
    exec(change, {"values": values})
    return yaml.safe_dump(values)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (broken("values['SOLVER']['LRR'] = 1"), "unknown key SOLVER.LRR"),
        (broken("values['EXTRA'] = 1"), "unknown key EXTRA"),
        (broken("del values['IMAGE']['MEAN']['G']"), "missing key IMAGE.MEAN.G"),
        (broken("values['SOLVER'] = 3"), "SOLVER must hold the keys"),
        (broken("values['SOLVER']['ITER_MAX'] = 'many'"), "SOLVER.ITER_MAX must be of type int, not 'many'"),
        (broken("values['SOLVER']['ITER_MAX'] = 1.5"), "SOLVER.ITER_MAX must be of type int"),
        (broken("values['SOLVER']['LR'] = -1"), "SOLVER.LR must not be negative"),
        (
            broken("values['SOLVER']['BATCH_SIZE']['TRAIN'] = 0"),
            "BATCH_SIZE.TRAIN must be a whole number above 0",
        ),
        (broken("values['MODEL']['N_BLOCKS'] = [1, 1]"), "N_BLOCKS must name the blocks of four stages"),
        (broken("values['SOLVER']['LR'] = True"), "SOLVER.LR must be of type float"),
        (broken("values['DATASET']['SCALES'] = 1"), "DATASET.SCALES must be a list of float"),
        (broken("values['MODEL']['NAME'] = 'VGG'"), "MODEL.NAME must be one of DeepLabV2_ResNet101_MSC"),
        ("a: [", "is no YAML"),
        ("", "the file must hold the keys"),
    ],
)
def test_bad_configurations(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load_config(tmp_path / "c.yaml")
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "override", ["SOLVER.NO=1", "NO.LR=1", "SOLVER.LR", "SOLVER.LR.X=1", "MODEL.N_BLOCKS=[1"]
)
def test_bad_overrides(override: str) -> None:
    with pytest.raises(InputError):
        load_config(CONFIG, [override])


@pytest.fixture
def run_options(tiny_data: Path, tmp_path: Path) -> list[object]:
    """A run of a few iterations; the truth of the training images, kept apart, plays the pseudo labels."""
    split = tmp_path / "train.txt"
    shutil.copy(tiny_data / "lists/train_aug.txt", split)
    pseudo = Path(shutil.copytree(tiny_data / "truth", tmp_path / "pseudo"))
    return [
        "--config-path", "configs/voc12.yaml", "--cpu", "--n-jobs", 1,
        f"EXP.OUTPUT_DIR={tmp_path / 'out'}", f"DATASET.ROOT={tiny_data}", f"DATASET.PSEUDO_LABELS={pseudo}",
        "DATASET.N_CLASSES=4", f"DATASET.SPLIT.TRAIN={split}", f"DATASET.SPLIT.VAL={tiny_data / 'lists/val.txt'}",
        f"DATASET.LABELS={tiny_data / 'lists/class_names.txt'}", "DATALOADER.NUM_WORKERS=0", "IMAGE.SIZE.TRAIN=49",
        "MODEL.NAME=DeepLabV2_Mini_MSC", "MODEL.N_BLOCKS=[1, 1, 1, 1]", "MODEL.INIT_MODEL=null",
        "SOLVER.ITER_MAX=4", "SOLVER.BATCH_SIZE.TRAIN=2", "SOLVER.ITER_SAVE=2",
    ]  # fmt: skip


def test_train_test_crf(run_options: list[object], tmp_path: Path) -> None:
    cwd = ROOT / "step2"
    done = run_script("step2/main.py", "train", *run_options, cwd=cwd, process=True)
    assert f"training labels: {tmp_path / 'pseudo'} (20 images)" in done.stdout
    models = tmp_path / "out/models/voc12/deeplabv2_mini_msc/train"
    assert {p.name for p in models.iterdir()} == {
        "checkpoint_2.pth", "checkpoint_4.pth", "checkpoint_final.pth", "last.pth", "log.jsonl",
        "run.json",
    }  # fmt: skip
    assert "bird" in run_script("step2/main.py", "test", *run_options, cwd=cwd).stdout
    run_script("step2/main.py", "crf", *run_options, cwd=cwd)
    scores = tmp_path / "out/scores/voc12/deeplabv2_mini_msc/val"
    for name in ("scores.json", "scores_crf.json"):
        assert 0 < json.loads((scores / name).read_text())["Mean IoU"] < 1
    logits = np.load(tmp_path / "out/features/voc12/deeplabv2_mini_msc/val/logit/val_00001.npy")
    assert logits.shape == (4, 9, 11) and logits.dtype == np.float32
    other = [*run_options, "--model-path", models / "checkpoint_2.pth"]
    run_script("step2/main.py", "test", *other, cwd=cwd)
    other = [*run_options, "--model-path", models / "gone.pth"]
    assert "gone.pth not found" in error_line("step2/main.py", "test", *other, cwd=cwd)


def test_bad_pseudo_labels(run_options: list[object], tiny_data: Path, tmp_path: Path) -> None:
    cwd, split = ROOT / "step2", tmp_path / "train.txt"
    (tmp_path / "pseudo/simple_00003.png").unlink()
    (tmp_path / "pseudo/complex_00002.png").unlink()
    line = error_line("step2/main.py", "train", *run_options, cwd=cwd)
    assert "lacks the pseudo labels of 2 of 20 images, first simple_00003" in line
    # Ground truth in the place of pseudo labels: its folder, or a copy of it.
    shutil.copy(tiny_data / "lists/val.txt", split)
    copy = shutil.copytree(tiny_data / "SegmentationClassAug", tmp_path / "copy")
    for folder in (tiny_data / "SegmentationClassAug", copy):
        options = [*run_options, f"DATASET.PSEUDO_LABELS={folder}"]
        assert "is the ground truth" in error_line("step2/main.py", "train", *options, cwd=cwd)
        options += ["--train-on-ground-truth", "--no-resume"]
        stderr = run_script("step2/main.py", "train", *options, cwd=cwd).stderr
        assert "is in val.txt as well, which makes its scores worthless (4, first val_00001)" in stderr
