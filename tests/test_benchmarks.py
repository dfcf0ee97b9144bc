"""The benchmarks run, and what they compare gives the same numbers; nothing here depends on time."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, assert_close, error_line
from test_layout import imports

from benchmarks import crf, evaluate, growth, loading, train_step
from benchmarks.data import make_data
from benchmarks.trainer import Setting, Trainer, make_batches, make_mix
from datasets.loaders import DataConfig

# The shared modules, and what each may import.
SHARED = {"common": set(), "data": set(), "baseline": set(), "trainer": {"baseline", "common"}}
SMALL = ["--device", "cpu", "--arch", "mini", "--crop", "65", "--batch-size", "2", "--iterations", "1"]


def here(function: Callable, *args: object) -> object:
    """Replaces `alone`: calls the function in this process."""
    return function(*args)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda path: path.stem)
def test_scripts_do_not_import_each_other(path: Path) -> None:
    own = {"ablation"} if path.parent.name == "ablation" else set()
    if "gpu" in path.stem or path.parent.name == "gpu_parts":  # runs the others
        own = {"gpu_parts", "train_step", "loading", "evaluate", "crf"}
    allowed = SHARED.get(path.stem, set(SHARED)) | own
    modules = {module.split(".")[1] for module in imports(path) if module.startswith("benchmarks.")}
    assert modules <= allowed


def test_modes_of_the_iteration_agree(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = ["baseline", "ours", "ours+channels-last"]
    monkeypatch.setattr(train_step, "matrix_rate", lambda *_: 1e11)
    monkeypatch.setattr(train_step, "alone", here)
    cases = ["warm-up", "denoising+cutmix"]
    results = train_step.main([*SMALL, "--cases", *cases, "--modes", *modes, "--turns", "1"])
    assert list(results) == cases
    for rows in results.values():
        assert [row["mode"] for row in rows] == modes
        assert all(float(row["losses"]) < 1e-4 and float(row["gradients"]) < 1e-2 for row in rows)
    assert "TFLOP" in capsys.readouterr().out


@pytest.mark.parametrize("case", ["denoising", "denoising+cutmix"])
@pytest.mark.parametrize("threshold", [0.3, 0.9, 2.0])  # some are kept; some at half of it; none, so all
def test_baseline_filters_as_we_do(threshold: float, case: str) -> None:
    """Also the running statistics: with CutMix, ours filters before the other forward passes."""
    s = Setting("mini", crop=65, batch_size=4, iou_threshold=threshold)
    batches, mix = make_batches(s), make_mix(s)
    ours, theirs = Trainer("ours", s), Trainer("baseline", s)
    losses, first = (trainer.gradients(batches, case, mix) for trainer in (ours, theirs))
    assert train_step.loss_difference(losses, first) < 1e-5
    gradients = map(train_step.gradients_of, (ours, theirs))
    assert train_step.gradient_difference(*gradients) < 1e-3
    assert 0 < losses["dropped"] < 1
    assert (losses["kept"] == 4) == (threshold == 2)
    for found, expected in zip(ours.G.buffers(), theirs.G.buffers(), strict=True):
        assert_close(found, expected, 1e-4, "running statistics")


def test_bf16_is_close() -> None:
    s = Setting("mini", crop=65)
    batches, mix = make_batches(s), make_mix(s)
    ours, theirs = Trainer("ours+bf16", s), Trainer("baseline", s)
    losses, first = (t.gradients(batches, "denoising", mix) for t in (ours, theirs))
    assert train_step.loss_difference(losses, first) < 0.05


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_network_sees_the_same_bits(tmp_path: Path, scale: bool, mirror: bool) -> None:
    # Larger than the crop, smaller along either side or both, odd and even.
    entries = make_data(tmp_path, [(75, 101), (33, 120), (120, 33), (37, 41), (48, 56)])
    config = DataConfig(tmp_path / "JPEGImages", tmp_path / "labels", (48, 56), scale, mirror)
    for before, now in zip(loading.BEFORE, loading.NOW):
        assert loading.same_items(before(entries, config), now(entries, config), 60)


def test_loading(capsys: pytest.CaptureFixture) -> None:
    small = "--images 4 --size 50 60 --crop 48 --batch-size 2 --iterations 1 --rounds 1 --workers 0 1"
    loading.main([*small.split(), "--random-scale", "--random-mirror"])
    assert "items are the same" in capsys.readouterr().out


def test_evaluation(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "alone", here)
    small = [
        "--device",
        "cpu",
        "--arch",
        "mini",
        "--images",
        "5",
        "--shrink",
        "5",
        "--rounds",
        "1",
        "--no-memory",
    ]
    ways = [row["way"] for row in evaluate.main(small)["ways"]]
    assert ways == ["one after the other", "reading ahead", "evaluate.py"]
    evaluate.main([*small, "--stand-in", "1"])
    assert "logits differ by at most 0.0e+00" in capsys.readouterr().out


def test_crf(capsys: pytest.CaptureFixture) -> None:
    crf.main(["--device", "cpu", "--count", "1", "--size", "64", "80", "--classes", "3"])
    assert "100.0000" in capsys.readouterr().out


def test_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    for module in (growth, evaluate):
        monkeypatch.setattr(module, "alone", here)
    monkeypatch.setattr(growth, "USUAL", growth.USUAL | {"crop": 33, "images": 2, "image side": 40})
    small = [
        ("train", "batch size", [1, 2]),
        ("loading", "crop", [33, 48]),
        ("evaluation", "images", [1, 2]),
        ("crf", "classes", [3, 5]),
    ]
    monkeypatch.setattr(growth, "RANGES", small)
    growth.main(["--device", "cpu", "--out", str(tmp_path)])
    assert {path.stem for path in tmp_path.iterdir()} == {"crf", "evaluation", "loading", "train"}


def test_bad_input() -> None:
    assert "--crop" in error_line("benchmarks/train_step.py", "--crop", 16)
    assert "--size" in error_line("benchmarks/loading.py", "--size", 8, 8)
    assert "--device tpu" in error_line("benchmarks/evaluate.py", "--device", "tpu")
