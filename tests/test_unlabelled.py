"""Images without true labels, such as VOC's test images: predictions for the evaluation server."""

import shutil
from pathlib import Path

import pytest
from conftest import error_line, flags, read_mask, run_script
from test_resume import step2_options
from test_scripts import eval_options

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
    save(build_model("DeepLabV2_Mini_MSC", 4, (1, 1, 1, 1), (6, 12, 18, 24)).state_dict(), root / "stage2.pth")
    return root


def check(folder: Path) -> None:
    """The folder has a mask of the size of each image and nothing else."""
    assert sorted(path.name for path in folder.iterdir()) == [f"{id_}.png" for id_ in IDS]
    for path in folder.iterdir():
        labels = read_mask(path)
        assert labels.shape == (64, 80) and labels.max() < 4


def evaluate(data: Path, out: Path, *more: object) -> list[object]:
    return eval_options(data, data / "tiny.pth", out, "--data-list", data / "test.txt", "--no-labels", *more)


def test_stage_1_and_its_crf(data: Path, tmp_path: Path) -> None:
    raw, crf = (tmp_path / name / "comp6_test_cls" for name in ("raw", "crf"))
    done = run_script("evaluate.py", *evaluate(data, tmp_path, "--save-predictions", raw))
    assert f"predictions: {raw}" in done.stdout and "4/4" in done.stderr
    check(raw)
    words = flags(num_classes=4, data_dir=data, data_list=data / "test.txt", logit_dir=tmp_path / "logit_val")
    words += flags(device="cpu", n_jobs=1, prediction_dir=crf, score_dir=tmp_path / "scores")
    run_script("evaluate_crf.py", *words, "--no-labels")
    check(crf)
    assert not (tmp_path / "scores").exists()


def test_stage_2_and_its_crf(data: Path, tmp_path: Path) -> None:
    raw, crf = (tmp_path / name / "comp6_test_cls" for name in ("raw", "crf"))
    _, *options = step2_options(data, tmp_path)
    options += [f"DATASET.SPLIT.VAL={data / 'test.txt'}", "--no-labels"]
    model = ["--model-path", data / "stage2.pth"]
    run_script("step2/main.py", "test", *options, *model, "--save-predictions", raw)
    check(raw)
    run_script("step2/main.py", "crf", *options, "--n-jobs", 1, "--save-predictions", crf)
    check(crf)
    assert not list(tmp_path.rglob("scores*"))


def test_nothing_to_write(data: Path, tmp_path: Path) -> None:
    assert "use --save-predictions" in error_line("evaluate.py", *evaluate(data, tmp_path, "--no-logits"))
