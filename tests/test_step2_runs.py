"""Stage 2 as a user runs it: configurations, commands, and what they say to a bad input."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, error_line, run_script
from test_resume import step2_options

from networks.checkpoint import save
from networks.deeplab import build_deeplab
from step2.libs.config import load_config
from utils.core.errors import InputError

CONFIG = ROOT / "step2/configs/voc12.yaml"


def test_published_configuration() -> None:
    config = load_config(CONFIG)
    assert (config.SOLVER.ITER_MAX, config.SOLVER.BATCH_SIZE.TRAIN, config.IMAGE.SIZE.TRAIN) == (20000, 10, 321)
    assert (config.SOLVER.LR, config.SOLVER.ITER_SAVE, config.SOLVER.LR_DECAY) == (2.5e-4, 5000, 10)
    assert config.DATASET.PSEUDO_LABELS == "../pseudo_labels" and config.DATASET.SCALES[0] == 0.5
    assert load_config(CONFIG, ["SOLVER.LR=1e-4", "MODEL.N_BLOCKS=[1, 1, 2, 1]"]).MODEL.N_BLOCKS[2] == 2


def test_keys_of_published_files_without_effect_are_accepted(tmp_path: Path) -> None:
    values = yaml.safe_load(CONFIG.read_text())
    values["SOLVER"]["ITER_TB"], values["IMAGE"]["SIZE"]["BASE"] = 100, None
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert load_config(tmp_path / "c.yaml").SOLVER.ITER_MAX == 20000


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
        (broken("values['SOLVER'] = 3"), "unknown key SOLVER"),
        (broken("values['SOLVER']['ITER_MAX'] = 'many'"), "SOLVER.ITER_MAX must be a positive integer, not 'many'"),
        (broken("values['SOLVER']['ITER_MAX'] = 1.5"), "SOLVER.ITER_MAX must be a positive integer, not 1.5"),
        (broken("values['SOLVER']['LR'] = -1"), "SOLVER.LR must be a non-negative number, not -1"),
        (broken("values['SOLVER']['BATCH_SIZE']['TRAIN'] = 0"), "BATCH_SIZE.TRAIN must be a positive integer, not 0"),
        (broken("values['MODEL']['N_BLOCKS'] = [1, 1]"), "N_BLOCKS must be a list of four positive integers"),
        (broken("values['SOLVER']['LR'] = True"), "SOLVER.LR must be a non-negative number, not True"),
        (broken("values['DATASET']['SCALES'] = 1"), "DATASET.SCALES must be a list of numbers from 0.1 to 4"),
        (broken("values['DATASET']['SCALES'] = [1, 0]"), "DATASET.SCALES must be a list of numbers from 0.1 to 4"),
        (broken("values['MODEL']['NAME'] = 'VGG'"), "MODEL.NAME must be one of DeepLabV2_ResNet101_MSC"),
        ("a: [", "is not valid YAML"),
        ("", "missing key CRF.BI_RGB_STD, "),
    ],
)
def test_bad_configurations(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load_config(tmp_path / "c.yaml")
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["SOLVER.NO=1", "NO.LR=1", "SOLVER.LR", "SOLVER.LR.X=1", "MODEL.N_BLOCKS=[1"])
def test_bad_overrides(override: str) -> None:
    with pytest.raises(InputError, match=re.escape(override.partition("=")[0])):
        load_config(CONFIG, [override])


@pytest.fixture
def run_options(tiny_data: Path, tmp_path: Path) -> list[object]:
    """A run of a few iterations; the truth of the training images, kept apart, plays the pseudo labels."""
    split = shutil.copy(tiny_data / "lists/train_aug.txt", tmp_path / "train.txt")
    pseudo = shutil.copytree(tiny_data / "truth", tmp_path / "pseudo")
    lists = f"DATASET.SPLIT.VAL={tiny_data}/lists/val.txt", f"DATASET.LABELS={tiny_data}/lists/class_names.txt"
    changes = f"DATASET.PSEUDO_LABELS={pseudo}", f"DATASET.SPLIT.TRAIN={split}", "SOLVER.ITER_MAX=4"
    options = [*step2_options(tiny_data, tmp_path / "out"), *lists, *changes, "SOLVER.ITER_SAVE=2", "--n-jobs", 1]
    return options[1:]  # without the command


def test_train_test_crf(run_options: list[object], tmp_path: Path) -> None:
    done = run_script("step2/main.py", "train", *run_options)
    assert f"training labels: {tmp_path / 'pseudo'} (20 images)" in done.stdout
    models = tmp_path / "out/models/voc12/deeplabv2_mini_msc/train"
    files = "checkpoint_2.pth checkpoint_4.pth checkpoint_final.pth last.pth log.jsonl .lock run.json"
    assert {p.name for p in models.iterdir()} == set(files.split())
    assert "bird" in run_script("step2/main.py", "test", *run_options).stdout
    run_script("step2/main.py", "crf", *run_options)
    scores = tmp_path / "out/scores/voc12/deeplabv2_mini_msc/val"
    for name in ("scores.json", "scores_crf.json"):
        assert 0 < json.loads((scores / name).read_text())["Mean IoU"] < 1
    other = [*run_options, "--model-path", models / "gone.pth"]
    assert "gone.pth not found" in error_line("step2/main.py", "test", *other)
    save(build_deeplab("mobilenet_v2", 4).state_dict(), models / "gone.pth")
    assert "holds a MobileNetV2" in error_line("step2/main.py", "test", *other)


def test_bad_pseudo_labels(run_options: list[object], tiny_data: Path, tmp_path: Path) -> None:
    split = tmp_path / "train.txt"
    (tmp_path / "pseudo/simple_00003.png").unlink()
    (tmp_path / "pseudo/complex_00002.png").unlink()
    line = error_line("step2/main.py", "train", *run_options)
    assert "simple_00003.png not found, the first of 2 missing among 20 listed labels: generate the pseudo" in line
    # Ground truth in the place of pseudo labels: its folder, or a copy of it.
    shutil.copy(tiny_data / "lists/val.txt", split)
    copy = shutil.copytree(tiny_data / "SegmentationClassAug", tmp_path / "copy")
    for folder in (tiny_data / "SegmentationClassAug", copy):
        options = [*run_options, f"DATASET.PSEUDO_LABELS={folder}"]
        assert "is the ground truth" in error_line("step2/main.py", "train", *options)
        options += ["--train-on-ground-truth", "--no-resume"]
        stderr = run_script("step2/main.py", "train", *options).stderr
        assert "also in val.txt, whose scores are then meaningless (4, first val_00001)" in stderr
