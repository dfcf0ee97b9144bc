"""train.py and evaluate.py as a user runs them, and what they say to a bad input."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import data_options, error_line, flags, read_lines, run_script, train_options
from PIL import Image
from test_checks import turn

import evaluate
from utils.core.errors import InputError
from utils.evaluation.metrics import ConfusionMatrix, report_scores
from utils.training.options import build_method, parse_args


def eval_options(root: Path, weights: Path, out: Path, *more: object) -> list[object]:
    """An option in `more` counts instead of the same one before it."""
    folders = flags(data_list=root / "lists/val.txt", logit_dir=out / "logit_val", score_dir=out / "scores")
    return [*data_options(root), *folders, "--restore-from", weights, *more]


def test_train_then_evaluate(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "snapshots"
    more = flags(class_names=tiny_data / "lists/class_names.txt", num_steps=4, save_pred_every=2, denoise_from=2)
    done = run_script("train.py", *train_options(tiny_data, out, *more, "--input-size", "48,56"))
    assert "bird" in done.stdout and "val mIoU" in done.stdout
    assert "validation after the last iteration, 3:" in done.stdout
    assert re.search(r"best val mIoU [\d.]+ %, iteration [23]: ", done.stdout)
    log, val = (read_lines(out / f"{name}.jsonl") for name in ("log", "val"))
    assert [line["i"] for line in log] == [0, 1, 2, 3] and [line["i"] for line in val] == [2, 3]
    names = {"loss_seg", "loss_cls", "loss_adv_complex", "loss_D", "kept", "dropped", "lr"}
    assert all(names <= set(line) for line in log)
    assert [p.name for p in sorted((out / "sheets").iterdir())] == ["000002.png", "000003.png"]
    run = json.loads((out / "run.json").read_text())
    assert run["options"]["num_steps"] == 4 and run["options"]["snapshot_dir"] == str(out)
    assert run["versions"]["torch"] == torch.__version__ and run["device"].startswith("cpu")
    files = "log.jsonl val.jsonl VOC_best.pth VOC_best_D.pth last.pth run.json sheets .lock"
    assert {p.name for p in out.iterdir()} == set(files.split())
    # The commands that the run names work as they are.
    _, _, following = done.stdout.partition("next:")
    commands = [shlex.split(line) for line in following.splitlines() if line.strip()]
    scripts = [script for _, script, *_ in commands]
    assert scripts == ["evaluate.py", "evaluate_crf.py", "predict.py", "report.py"]
    photograph = next((tiny_data / "JPEGImages").iterdir())
    for _, script, *words in commands[:3]:
        more = {"evaluate.py": ["--num-workers", 0], "evaluate_crf.py": ["--n-jobs", 1]}.get(script, [])
        run_script(script, *(photograph if word == "photo.jpg" else word for word in words), *more)
    assert {"scores.json", "scores_crf.json"} <= {path.name for path in (out / "scores").iterdir()}
    assert (out / "predictions/predictions.json").exists()


def test_logits_of_another_evaluation_are_replaced(tiny_data: Path, weights: Path, tmp_path: Path) -> None:
    """But no other image's."""
    options = eval_options(tiny_data, weights, tmp_path)
    run_script("evaluate.py", *options, "--scales", "1")
    first = np.load(tmp_path / "logit_val/val_00001.npy")
    np.save(tmp_path / "logit_val/other.npy", first)
    run_script("evaluate.py", *options, "--scales", "1,0.5")
    assert (tmp_path / "logit_val/other.npy").exists()
    assert not np.array_equal(np.load(tmp_path / "logit_val/val_00001.npy"), first)


@pytest.mark.parametrize(
    ("truth", "prediction", "remark"),
    [(0, 1, "the true labels contain background alone"), (1, 0, "the prediction contains background alone")],
)
def test_background_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture, truth: int, prediction: int, remark: str
) -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([truth, 255]), torch.tensor([prediction, 1]))
    report_scores(confusion, ["background", "cat"], tmp_path / "scores.json", {}, torch.device("cpu"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and remark in line


def test_train_without_the_method(tiny_data: Path, tmp_path: Path) -> None:
    parts = ["--no-onf", "--no-pnd", "--no-s2c", "--no-c2s", "--no-cls", "--denoise-from", "1", "--num-steps", "3"]
    more = *parts, "--arch", "mobilenet_v2", "--iter-size", 2, "--single-steps"
    run_script("train.py", *train_options(tiny_data, tmp_path, *more))
    for line in read_lines(tmp_path / "log.jsonl"):
        assert set(line) == {"i", "lr", "loss_seg", "kept", "dropped", "foreground"}
        assert line["kept"] == 2 and line["dropped"] == 0
    assert not (tmp_path / "VOC_best_D.pth").exists()


def test_published_defaults() -> None:
    args = parse_args("", [])
    assert (args.batch_size, args.iter_size, args.num_steps, args.input_size) == (10, 1, 12000, (321, 321))
    assert (args.learning_rate, args.learning_rate_D, args.momentum, args.weight_decay) == (2.5e-4, 1e-4, 0.9, 5e-4)
    assert parse_args("", ["--arch", "mobilenet_v2"]).learning_rate == 0.002
    assert (args.high_T, args.low_T, args.lambda_adv, args.power) == (1.2, 0.8, 0.001, 0.9)
    assert not (args.random_mirror or args.random_scale or args.not_restore_last or args.single_steps)
    assert args.restore_from == "model/resnet101COCO-41f33a49.pth" and args.restore_from_D is None
    method = build_method(args, torch.device("cpu"))
    assert (method.denoise_from, method.denoise_until) == (1000, 11000)
    assert method.exempt.tolist() == [11] and method.iou_thresholds[10] == 0 and len(method.iou_thresholds) == 20
    other = build_method(parse_args("", ["--num-classes", "5", "--num-steps", "240"]), torch.device("cpu"))
    assert (other.denoise_from, other.denoise_until) == (20, 220)
    assert other.exempt.tolist() == [] and other.iou_thresholds.tolist() == [0.5] * 4
    assert evaluate.parse_args(["--gpu", "0"]).restore_from == Path("snapshots/VOC_best.pth")


def test_options_refused(capsys: pytest.CaptureFixture) -> None:
    for words in (
        "--batch-size 0",
        "--input-size 1,2,3",
        "--learning-rate nan",
        "--num-step 5",
        "--scales 1,-1",
        "--scales 1,0.001",
        "--long-tail-labels 300",
    ):
        with pytest.raises(SystemExit) as stop:
            parse_args("", words.split())
        assert stop.value.code == 2 and words.split()[0] in capsys.readouterr().err
    for words, reason in {
        "--denoise-from 9 --denoise-until 5": "is before",
        "--iou-thresholds 0.1,0.2": "has 2 values",
        "--iou-thresholds high": "give voc, auto, one number",
        "--iou-thresholds 60": "one number from 0 to 1",
        "--iou-thresholds 0.5,1.01": "one number from 0 to 1",
    }.items():
        with pytest.raises(InputError, match=reason):
            build_method(parse_args("", words.split()), torch.device("cpu"))


@pytest.mark.cuda
def test_unknown_device(textured_data: Path, tmp_path: Path) -> None:
    options = train_options(textured_data, tmp_path)
    assert "abacus" in error_line("train.py", *options, "--device", "abacus")
    if not torch.cuda.is_available():
        assert "--device cpu" in error_line("train.py", *options, "--device", "cuda")


def test_missing_data_and_weights_say_where_they_come_from(tiny_data: Path, tmp_path: Path) -> None:
    assert "VOCtrainval_11-May-2012.tar" in error_line("train.py", "--device", "cpu", cwd=tmp_path)
    options = train_options(tiny_data, tmp_path)
    del options[options.index("--restore-from") : options.index("--restore-from") + 2]
    line = error_line("train.py", *options)
    assert "model/resnet101COCO-41f33a49.pth not found" in line and "--restore-from none" in line


def test_bad_data_of_a_training(own_data: Path, tmp_path: Path) -> None:
    """What training meets while it reads, in a worker process; test_checks.py has all that it refuses."""
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(own_data / "sal2gt/simple_00001.png")
    options = train_options(own_data, tmp_path / "out", "--num-workers", 1, "--no-val")
    assert "simple_00001.png is 5x5, but its image is 80x64" in error_line("train.py", *options)


def test_weights_of_another_network(tiny_data: Path, weights: Path, tmp_path: Path) -> None:
    options = eval_options(tiny_data, weights, tmp_path, "--num-classes", 21)
    assert "has 4 classes" in error_line("evaluate.py", *options)
    options = train_options(tiny_data, tmp_path, "--arch", "resnet50", "--restore-from", weights)
    assert "no convolution matches this network" in error_line("train.py", *options)


def test_bad_data_of_an_evaluation(own_data: Path, weights: Path, tmp_path: Path) -> None:
    words, path = eval_options(own_data, weights, tmp_path), own_data / "JPEGImages/val_00003.jpg"
    turn(path)
    stderr = run_script("evaluate.py", *words).stderr
    assert f"image turned by its EXIF orientation: see that its label is turned as well (1, first {path})" in stderr
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(own_data / "SegmentationClassAug/val_00003.png")
    assert "val_00003.png is 9x9, but its image is 80x64" in error_line("evaluate.py", *words)
    Image.new("RGB", (80, 64)).save(path.with_suffix(".png"))
    line = error_line("evaluate.py", *words)
    assert "JPEGImages has val_00003.jpg and val_00003.png for one ID: rename or remove all but one" in line
