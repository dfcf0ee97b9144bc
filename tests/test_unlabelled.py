"""Images without true labels, such as VOC's test images: predictions for the evaluation server."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import error_line, flags, run_script
from PIL import Image

from datasets.voc import palette
from networks.checkpoint import save
from step2.libs.models import build_model

IDS = [f"val_{n:05}" for n in range(1, 5)]


@pytest.fixture
def data(tiny_data: Path, weights: Path, tmp_path: Path) -> Path:
    """Images and their list alone, and weights of both stages."""
    root = tmp_path / "data"
    shutil.copytree(tiny_data / "JPEGImages", root / "JPEGImages")
    (root / "test.txt").write_text("".join(f"{id_}\n" for id_ in IDS))
    shutil.copy(weights, root)
    save(build_model("DeepLabV2_ResNet101_MSC", 4, (1, 1, 1, 1), (6,)).state_dict(), root / "stage2.pth")
    return root


def check(folder: Path) -> None:
    """The folder has a palette PNG of the size of each image and nothing else."""
    assert sorted(path.name for path in folder.iterdir()) == [f"{id_}.png" for id_ in IDS]
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert image.mode == "P" and image.size == (80, 64)
            assert image.getpalette() == palette().ravel().tolist() and np.array(image).max() < 4


def evaluate(data: Path, out: Path, *more: object) -> list[object]:
    words = flags(data_dir=data, data_list=data / "test.txt", restore_from=data / "tiny.pth", num_workers=0)
    return [*words, "--device", "cpu", "--no-labels", *flags(logit_dir=out / "logits"), *more]


def test_stage_1_and_its_crf(data: Path, tmp_path: Path) -> None:
    raw, crf = (tmp_path / name / "comp6_test_cls" for name in ("raw", "crf"))
    words = evaluate(data, tmp_path, "--save-predictions", raw, "--score-dir", tmp_path / "scores")
    done = run_script("evaluate.py", *words)
    assert f"predictions: {raw}" in done.stdout and "4/4" in done.stderr
    check(raw)
    words = flags(num_classes=4, data_dir=data, data_list=data / "test.txt", logit_dir=tmp_path / "logits")
    words += ["--no-labels", "--device", "cpu", *flags(n_jobs=1, prediction_dir=crf, score_dir=tmp_path / "scores")]
    run_script("evaluate_crf.py", *words)
    check(crf)
    assert not (tmp_path / "scores").exists()


def test_stage_2_and_its_crf(data: Path, tmp_path: Path) -> None:
    raw, crf = (tmp_path / name / "comp6_test_cls" for name in ("raw", "crf"))
    config = ["--config-path", Path(__file__).parent.parent / "step2/configs/voc12.yaml", "--cpu", "--no-labels"]
    values = {"EXP.OUTPUT_DIR": tmp_path, "DATASET.ROOT": data, "DATASET.N_CLASSES": 4, "DATALOADER.NUM_WORKERS": 0}
    values |= {"DATASET.SPLIT.VAL": data / "test.txt", "MODEL.N_BLOCKS": [1, 1, 1, 1], "MODEL.ATROUS_RATES": [6]}
    overrides = [f"{key}={value}" for key, value in values.items()]
    model = ["--model-path", data / "stage2.pth"]
    run_script("step2/main.py", "test", *config, *model, "--save-predictions", raw, *overrides)
    check(raw)
    run_script("step2/main.py", "crf", *config, "--n-jobs", 1, "--save-predictions", crf, *overrides)
    check(crf)
    assert not list(tmp_path.rglob("scores*"))


def test_nothing_to_write(data: Path, tmp_path: Path) -> None:
    assert "use --save-predictions" in error_line("evaluate.py", *evaluate(data, tmp_path, "--no-logits"))
