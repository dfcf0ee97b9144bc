"""The benchmarks compare what gives the same numbers; the ablation's rows, runs and figures, and a tiny experiment.

Nothing here depends on time.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_close, error_line
from PIL import Image

from benchmarks import bench
from benchmarks.ablation import __main__ as ablation
from benchmarks.ablation import plan
from benchmarks.ablation.plan import PARTS, ROWS, SETTINGS, Drawn, Photographs, Run, parts_of
from benchmarks.ablation.report import differences, percent
from benchmarks.ablation.run import filter_quality
from benchmarks.runner import CASES, Runner, Setting, gradient_difference, gradients_of, loss_difference, make_batches
from datasets.labels import read_label, save_labels
from utils.core.errors import InputError
from utils.core.files import save_image
from utils.training.options import parse_args

TINY = (
    "--arch mini --restore-from none --input-size 40 --batch-size 2 --num-steps 4 --denoise-from 1"
    " --iou-thresholds 0.1 --save-pred-every 2 --num-workers 0"
)
SCRIPT = "benchmarks/ablation/__main__.py"


def words(out: Path, *more: object) -> list[str]:
    return ["--setting", "tiny", "--seeds", "3", "--device", "cpu", "--out", str(out), *map(str, more)]


def results(out: Path) -> list[dict]:
    found = [json.loads(path.read_text()) for path in out.glob("*/result.json")]
    return sorted(found, key=lambda run: (run["labels"], run["parts"]))


@pytest.mark.parametrize("case", ["denoising", "denoising+cutmix"])
@pytest.mark.parametrize("threshold", [0.3, 0.8, 2.0])  # some are kept; some at half of it; none, so all
def test_baseline_filters_as_we_do(threshold: float, case: str) -> None:
    s = Setting("mini", crop=49, batch_size=4, iou_threshold=threshold)
    ours, theirs = Runner("ours", s), Runner("baseline", s)
    found, first = (runner.gradients(make_batches(s), case) for runner in (ours, theirs))
    assert loss_difference(found, first) < 1e-5
    assert gradient_difference(gradients_of(ours), gradients_of(theirs)) < 1e-3
    assert 0 < found["dropped"] < 1
    assert (found["kept"] == 4) == (threshold == 2)
    for buffer, expected in zip(ours.G.buffers(), theirs.G.buffers(), strict=True):
        assert_close(buffer, expected, 1e-4, "running statistics")


def test_all_parts_of_the_benchmark(capsys: pytest.CaptureFixture) -> None:
    small = "--device cpu --arch mini --crop 33 --images 1 --iterations 1 --rounds 1 --num-workers 0"
    found = bench.main(small.split())
    out = capsys.readouterr().out
    assert all(bench.as_text(*part) in out for part in found.values())
    rows = found["iteration"][1]
    assert len(rows) == (len(CASES) + 1) * len(bench.MODES)
    for case, mode, *_, difference in rows:
        assert case == "whole run" or difference < (0.05 if "bf16" in mode else 1e-4)
    assert {row[-1] for row in found["crf"][1]} == {100}
    assert all(row[-1] < 1e-4 for row in found["evaluation"][1])


def test_a_filter_by_hand() -> None:
    dropped, bad = torch.tensor([1, 1, 0, 0, 0]) > 0, torch.tensor([1, 0, 1, 1, 0]) > 0
    expected = {"bad": 3 / 5, "dropped": 2 / 5, "bad after": 2 / 3, "precision": 1 / 2, "recall": 1 / 3}
    assert filter_quality(dropped, bad) == pytest.approx(expected)
    assert filter_quality(torch.zeros_like(bad), bad)["precision"] is None


def test_rows_name_the_parts_and_same_parts_run_once() -> None:
    assert parts_of("plain") == parts_of("truth") == () and parts_of("full") == PARTS
    assert parts_of("pnd+onf") == ("onf", "pnd") and parts_of("full-cls-s2c") == ("onf", "pnd", "c2s")
    for wrong in ("onf+crf", "full-crf", "Full", ""):
        with pytest.raises(InputError, match="the parts are cls, onf, pnd, s2c, c2s"):
            parts_of(wrong)
    planned = plan.plan("photos", list(ROWS), [1234, 1234], (0.3, 0.8), "")
    keys = {row: run.key for row, (run,) in planned.items()}
    assert len(keys) == len(ROWS) and len({*keys.values()}) == len(ROWS) - 1
    assert keys["full-c2s"] == keys["cls+onf+pnd+s2c"]
    # Finished runs are found again.
    assert (keys["plain"], keys["full"], keys["truth"]) == ("22ce4c1d", "6c692160", "f4dba0c8")


def test_settings_are_options_of_train() -> None:
    for setting in SETTINGS.values():
        run = Run(setting, ("onf", "c2s"), "truth", 3, (0, 0), "--high-T 2")
        args = parse_args("", run.train_options(Path("data"), Path("dir")))
        assert args.num_classes == len(setting.classes) + 1 and args.random_seed == 3 and args.high_T == 2
        assert [part for part in PARTS if getattr(args, f"no_{part}")] == ["cls", "pnd", "s2c"]
        assert args.pseudo_label_dir == Path("data/truth")
        if isinstance(setting, Photographs):
            assert args.restore_from == "dir/mobilenet_v2_imagenet.pth"


def test_gains_are_taken_seed_by_seed() -> None:
    less, more = (
        [{"seed": s, "raw": {"all": v}} for s, v in runs]
        for runs in ([(1, 0.25), (2, 0.5), (3, 0.5)], [(2, 0.75), (1, 0.5), (4, 1.0)])
    )
    assert differences(less, more, "raw", "all") == [0.25, 0.25]
    assert percent([0.4, 0.6], "+") == "+50.0 ± 14.1" and percent([0.4, None]) == "40.0" and percent([]) == ""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of VOC's layout: 60 x 80 pixels of noise, a box of the class, four training and four val images."""
    root, rng = tmp_path / "voc", np.random.default_rng(0)
    (root / "voc_list").mkdir(parents=True)
    for n in range(8):
        noise = rng.integers(0, 256, (60, 80, 3), np.uint8)
        save_image(root / f"JPEGImages/{n}.jpg", Image.fromarray(noise))
        mask = np.zeros((60, 80), np.uint8)
        mask[10:50, 20:60], mask[10:14] = n % 3 + 1, 255
        save_labels(root / f"SegmentationClassAug/{n}.png", mask)
        saliency = np.where(mask == n % 3 + 1, 255, 0).astype(np.uint8)
        saliency[:, 20:22] = 0  # a tenth of the object is missing
        save_image(root / f"saliency/{n}.png", Image.fromarray(saliency))
    (root / "voc_list/train_cls.txt").write_text("0 0\n1 1\n2 2\n3 0 7\n")
    (root / "voc_list/val.txt").write_text("4\n5\n6\n7\n")
    monkeypatch.setitem(SETTINGS, "tiny", Photographs(1, 2, TINY))
    return root


def test_photographs_are_reduced_and_scored_on_half_of_val(photos: Path, tmp_path: Path) -> None:
    args = words(tmp_path / "out", "--rows", "plain", "full", "truth")
    with pytest.raises(InputError, match="needs --photos"):
        ablation.main(args)
    ablation.main([*args, "--photos", str(photos), "--labels"])
    data = tmp_path / "out/data/photos_2_1"
    assert (data / "lists/val.txt").read_text().split() == ["5", "7"]
    assert (data / "lists/simple_list.txt").read_text().splitlines() == ["0 0", "1 1", "2 2"]
    assert read_label(data / "truth/1.png", 21).shape == (30, 40)
    plain, full, truth = results(tmp_path / "out")
    for run in (plain, full, truth):
        assert list(run["curve"]) == ["2", "3"] and run["curve"]["3"] == run["raw"]["all"]
        assert set(run["raw"]) == set(run["crf"]) == {"all", "one class"}
        # Pixels that the mask ignores do not count.
        assert run["iou"]["labels"] == pytest.approx(1 if run is truth else 0.95)
    assert plain["simple"]["saliency: error"] > truth["pnd"]["bad"] == 0
    assert plain["onf"]["dropped"] == 0
    text = (tmp_path / "out/ablation.md").read_text()
    assert "| cross-entropy on the true masks of the simple images |" in text and "mined: labelled" in text
    (tmp_path / "out/ablation.md").unlink()
    (data / "lists/val.txt").unlink()  # a training would need it
    ablation.main(args)
    assert (tmp_path / "out/ablation.md").read_text() == text
    with pytest.raises(InputError, match="was made from"):
        ablation.main(words(tmp_path / "out", "--rows", "cls", "--photos", tmp_path))


def test_an_interrupted_run_is_resumed_and_other_processes_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(SETTINGS, "tiny", Drawn(("bird", "car"), 8, 4, 6, 48, TINY))
    args = words(tmp_path, "--rows", "plain")
    key = plan.plan("tiny", ["plain"], [3], (0.3, 0.8), "")["plain"][0].key
    hold = "import sys; from pathlib import Path; from utils.training.resume import lock_folder\n"
    hold += "with lock_folder(Path(sys.argv[1])): print(flush=True), sys.stdin.read()"
    command = [sys.executable, "-c", hold, tmp_path / "running" / key]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()  # it has the lock
        ablation.main(args)
        other.stdin.close()
    assert "in progress in another process: plain" in capsys.readouterr().out and not results(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.ablation.run.scores_by_kind", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ablation.main(args)
    ablation.main(args)
    assert "resuming after 4 of 4 iterations" in capsys.readouterr().out
    assert len(results(tmp_path)) == 1 and not (tmp_path / key / "last.pth").exists()


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    assert "has no finished run" in error_line(SCRIPT, "--report-only", "--out", tmp_path)
    assert "--rows onf+x" in error_line(SCRIPT, "--rows", "onf+x", "--out", tmp_path)
    photos = ("--setting", "photos", "--photos", tmp_path, "--out", tmp_path)
    assert "voc_list/train_cls.txt not found" in error_line(SCRIPT, *photos)
