"""train.py and evaluate.py as a user runs them, and what they say to a bad input."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import data_options, error_line, flags, run_script
from PIL import ExifTags, Image

import evaluate
from networks.checkpoint import save
from networks.deeplab import build_deeplab
from utils.core.errors import InputError
from utils.evaluation.metrics import ConfusionMatrix, report_scores
from utils.training.options import build_method, parse_args


def train_options(root: Path, out: Path, *more: object) -> list[object]:
    options = "--arch mini --restore-from none --batch-size 2 --input-size 48,56 --num-steps 4 --save-pred-every 2"
    folders = flags(list_dir=root / "lists", pseudo_label_dir=root / "sal2gt", snapshot_dir=out)
    return [*data_options(root), *folders, *options.split(), *flags(log_every=1, denoise_from=2), *more]


def eval_options(root: Path, weights: Path, out: Path, *more: object) -> list[object]:
    folders = flags(data_list=root / "lists/val.txt", logit_dir=out / "logit_val", score_dir=out / "scores")
    return [*data_options(root), *folders, "--restore-from", weights, *more]


def test_background_only_is_reported(tiny_data: Path, tmp_path: Path) -> None:
    """A network whose classifier prefers background everywhere: once a warning, and 0 % foreground in log and bar."""
    start = build_deeplab("mini", 4, seed=0).state_dict()
    start["layer5.conv2d_list.0.bias"][0] = 1e4
    save(start, tmp_path / "background.pth")
    more = "--restore-from", tmp_path / "background.pth", "--learning-rate", 1e-9
    done = run_script("train.py", *train_options(tiny_data, tmp_path / "out", *more))
    assert done.stderr.count("warning: the network predicts background only") == 1
    assert "foreground=0%" in done.stderr
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert [line["foreground"] for line in log] == [0, 0, 0, 0]


def test_train_then_evaluate(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "snapshots"
    done = run_script(
        "train.py", *train_options(tiny_data, out, "--class-names", tiny_data / "lists/class_names.txt")
    )
    assert "bird" in done.stdout and "val mIoU" in done.stdout
    assert "validation after the last iteration, 3:" in done.stdout
    assert re.search(r"best val mIoU [\d.]+ %, iteration [23]: ", done.stdout)
    log, val = ([json.loads(line) for line in (out / f"{name}.jsonl").open()] for name in ("log", "val"))
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
    scores = json.loads((out / "scores/scores.json").read_text())
    assert scores["Mean IoU"] == pytest.approx(max(line["Mean IoU"] for line in val))
    assert list(scores["Class IoU"]) == ["0", "1", "2", "3"]


def test_worker_processes_change_nothing(tiny_data: Path, tmp_path: Path) -> None:
    """Started as by Python 3.14 (see conftest.py), they give the same losses and scores."""
    for name, workers in (("none", 0), ("one", 1)):
        options = train_options(tiny_data, tmp_path / name, "--num-workers", workers, "--no-c2s")
        run_script("train.py", *options)
    for name in ("log.jsonl", "val.jsonl"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "none" / name).read_text()


def test_logits_of_another_evaluation_are_replaced(tiny_data: Path, weights: Path, tmp_path: Path) -> None:
    """But no other image's."""
    options = eval_options(tiny_data, weights, tmp_path, "--save-predictions", tmp_path / "png")
    run_script("evaluate.py", *options, "--scales", "1")
    first = np.load(tmp_path / "logit_val/val_00001.npy")
    assert first.shape == (4, 9, 11) and first.dtype == np.float32
    np.save(tmp_path / "logit_val/other.npy", first)
    run_script("evaluate.py", *options, "--scales", "1,0.5")
    assert (tmp_path / "logit_val/other.npy").exists()
    assert not np.array_equal(np.load(tmp_path / "logit_val/val_00001.npy"), first)
    with Image.open(tmp_path / "png/val_00001.png") as picture:
        assert picture.mode == "P" and picture.size == (80, 64)


@pytest.mark.parametrize(
    ("truth", "prediction", "remark"),
    [(0, 1, "the true labels contain background alone"), (1, 0, "the prediction contains background alone")],
)
def test_scores_of_background_alone_are_remarked(
    tmp_path: Path, capsys: pytest.CaptureFixture, truth: int, prediction: int, remark: str
) -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([truth, 255]), torch.tensor([prediction, 1]))
    report_scores(confusion, ["background", "cat"], tmp_path / "scores.json", {}, torch.device("cpu"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and remark in line


def test_train_without_the_method(tiny_data: Path, tmp_path: Path) -> None:
    parts = ["--no-onf", "--no-pnd", "--no-s2c", "--no-c2s", "--no-cls", "--arch", "mobilenet_v2"]
    run_script("train.py", *train_options(tiny_data, tmp_path, *parts, "--iter-size", 2, "--single-steps"))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(set(line) == {"i", "lr", "loss_seg", "kept", "dropped", "foreground"} for line in log)
    assert not (tmp_path / "VOC_best_D.pth").exists()


def test_published_defaults() -> None:
    args = parse_args("", [])
    assert (args.batch_size, args.iter_size, args.num_steps, args.input_size) == (10, 1, 12000, (321, 321))
    assert (args.learning_rate, args.learning_rate_D, args.momentum, args.weight_decay) == (2.5e-4, 1e-4, 0.9, 5e-4)
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


def test_help_names_defaults_and_groups() -> None:
    text = " ".join(run_script("train.py", "--help").stdout.split())
    for part in ("data:", "optimization:", "method:", "machine:", "(default: 0.00025; mobilenet_v2: 0.002)", "nats"):
        assert part in text


@pytest.mark.cuda
def test_unknown_device(textured_data: Path, tmp_path: Path) -> None:
    options = train_options(textured_data, tmp_path)
    options[options.index("--device") + 1] = "abacus"
    assert "abacus" in error_line("train.py", *options)
    if not torch.cuda.is_available():
        options[options.index("--device") + 1] = "cuda"
        assert "--device cpu" in error_line("train.py", *options)
    both = run_script("train.py", "--gpu", 0, "--device", "cpu", status=2).stderr
    assert "not allowed with argument" in both


def test_missing_data_and_weights_say_where_they_come_from(tiny_data: Path, tmp_path: Path) -> None:
    assert "VOCtrainval_11-May-2012.tar" in error_line("train.py", "--device", "cpu", cwd=tmp_path)
    options = train_options(tiny_data, tmp_path)
    del options[options.index("--restore-from") : options.index("--restore-from") + 2]
    line = error_line("train.py", *options)
    assert "model/resnet101COCO-41f33a49.pth not found" in line and "--restore-from none" in line
    words = eval_options(tiny_data, tmp_path / "gone.pth", tmp_path)
    assert "gone.pth not found" in error_line("evaluate.py", *words)


def test_bad_data(own_data: Path, tmp_path: Path) -> None:
    """What training meets while it reads, in a worker process; test_checks.py has all that it refuses."""
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(own_data / "sal2gt/simple_00001.png")
    options = train_options(own_data, tmp_path / "out", "--num-steps", 12, "--num-workers", 1, "--no-val")
    assert "simple_00001.png is 5x5, but its image is 80x64" in error_line("train.py", *options)


def test_bad_checkpoints(tiny_data: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:5000])
    assert "cut.pth cannot be read" in error_line(
        "evaluate.py", *eval_options(tiny_data, tmp_path / "cut.pth", tmp_path)
    )
    options = eval_options(tiny_data, weights, tmp_path)
    options[options.index("--num-classes") + 1] = 21
    assert "has 4 classes" in error_line("evaluate.py", *options)
    # A file of another network must not start a training, either.
    start = train_options(tiny_data, tmp_path, "--arch", "resnet50", "--restore-from", weights)
    assert "no convolution matches this network" in error_line("train.py", *start)
    assert not (tmp_path / "scores").exists()


def test_a_turned_image_a_label_of_another_size_and_two_images_of_one_id(
    own_data: Path, weights: Path, tmp_path: Path
) -> None:
    words, path, exif = eval_options(own_data, weights, tmp_path), own_data / "JPEGImages/val_00003.jpg", Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    with Image.open(path) as image:
        image.save(path, exif=exif)
    stderr = run_script("evaluate.py", *words).stderr
    assert f"image turned by its EXIF orientation: see that its label is turned as well (1, first {path})" in stderr
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(own_data / "SegmentationClassAug/val_00003.png")
    assert "val_00003.png is 9x9, but its image is 80x64" in error_line("evaluate.py", *words)
    Image.new("RGB", (80, 64)).save(path.with_suffix(".png"))
    line = error_line("evaluate.py", *words)
    assert "JPEGImages has val_00003.jpg and val_00003.png for one ID: rename or remove all but one" in line
