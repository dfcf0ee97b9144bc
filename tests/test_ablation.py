"""The ablation: rows and runs, the probe's numbers on small examples, a tiny experiment from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import data_options, error_line
from PIL import Image

from benchmarks.ablation import plan, run
from benchmarks.ablation.photographs import make_photographs
from benchmarks.ablation.plan import PARTS, SETTINGS, PhotoSetting, Run, Setting, in_order, parts_of
from benchmarks.ablation.probe import Probe, filter_quality, onf_quality, pnd_quality
from benchmarks.ablation.report import percent
from benchmarks.ablation.results import differences, lost_classes, mious
from benchmarks.ablation.run import parse_args
from benchmarks.ablation.scores import split_val
from datasets.labels import read_label, save_labels
from networks.checkpoint import read_state
from train import train
from utils.core.errors import InputError
from utils.iteration import Method
from utils.training.options import parse_args as parse_train_args

TINY = Setting(
    classes=("bird", "car"),
    simple=8,
    complex=4,
    val=6,
    size=48,
    probe_images=4,
    options="--arch mini --restore-from none --input-size 40 --batch-size 2 --num-steps 4 --denoise-from 1"
    " --iou-thresholds 0.1 --save-pred-every 2 --num-workers 0",
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "tiny", TINY)


def words(out: Path, *more: str) -> list[str]:
    return [
        *["--setting", "tiny", "--seeds", "3", "--device", "cpu", "--n-jobs", "1", "--out"],
        str(out),
        *more,
    ]


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_pnd_quality_by_hand() -> None:
    labels = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 255]])
    # Three labels are wrong; the ignored one does not count.
    truth = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0]])
    loss = torch.tensor([[0.1, 2.0, 0.2, 3.0], [2.5, 2.0, 0.1, 9.0]])
    found = pnd_quality(loss, labels, truth, 1.5, None, 255)  # drops four, two of them wrong ones
    assert found == {"precision": 2 / 4, "recall": 2 / 3, "base": 3 / 7, "dropped": 4 / 7}
    spared = pnd_quality(loss, labels, truth, 1.5, torch.tensor([0]), 255)  # label 0 is never dropped
    assert spared == {"precision": 1.0, "recall": 1 / 3, "base": 3 / 7, "dropped": 1 / 7}
    nothing = pnd_quality(loss, labels, truth, 9.5, None, 255)
    assert nothing["precision"] is None and nothing["recall"] == 0


def test_onf_quality_by_hand() -> None:
    label_iou = torch.tensor([0.9, 0.7, 0.2, 0.0])
    found = onf_quality(torch.tensor([True, False, True, False]), label_iou)
    assert found["iou_kept"] == pytest.approx(0.55) and found["iou_dropped"] == pytest.approx(0.35)
    assert (found["precision"], found["recall"], found["base"], found["dropped"]) == (0.5, 0.5, 0.5, 0.5)
    assert onf_quality(torch.ones(4, dtype=torch.bool), label_iou)["iou_dropped"] is None
    none = torch.zeros(0, dtype=torch.bool)
    assert filter_quality(none, none)["base"] is None


def test_rows_name_the_parts_and_same_parts_run_once(tiny: None, tmp_path: Path) -> None:
    assert parts_of("plain") == () and parts_of("full") == PARTS
    assert parts_of("pnd+onf") == ("onf", "pnd") and parts_of("full-cls-s2c") == ("onf", "pnd", "c2s")
    for wrong in ("onf+crf", "full-crf", "Full", ""):
        with pytest.raises(InputError, match="the parts are cls, onf, pnd, s2c, c2s"):
            parts_of(wrong)
    planned = plan.plan(parse_args(words(tmp_path)))
    runs = in_order(planned)
    assert len(planned) == 11 and len(runs) == 10  # full without C2S is the row before the full method
    assert [run.parts for run in runs[:2]] == [(), PARTS]
    both = {*runs, *in_order(plan.plan(parse_args(words(tmp_path, "--sweep"))))}
    assert len({run.key for run in both}) == 10 + 6  # the sweep shares plain and full at the ablation's noise


def test_parts_reach_the_training(tiny: None, tmp_path: Path) -> None:
    one = Run(TINY, ("onf", "c2s"), 3, options="--high-T 2")
    args = one.train_args(tmp_path, "cpu")
    assert [part for part in PARTS if getattr(args, f"no_{part}")] == ["cls", "pnd", "s2c"]
    assert args.high_T == 2 and args.random_seed == 3 and args.no_val
    assert Run(TINY, ("onf", "c2s"), 3).key != one.key


def test_keys_stay() -> None:
    """Finished runs are found by their key, whatever changes in the program."""
    assert Run(SETTINGS["small"], PARTS, 20).key == "f4da24f3"


def test_settings_are_options_of_train() -> None:
    for name, setting in SETTINGS.items():
        args = Run(setting, PARTS, 0).train_args(Path("out"), "cpu")
        assert args.num_classes == len(setting.classes) + 1, name
        if isinstance(setting, Setting):
            assert max(args.input_size) <= setting.size


def test_runs_are_not_run_again_and_noise_is_in_the_labels(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    args = words(tmp_path, "--rows", "plain", "full-onf")
    with monkeypatch.context() as patch:
        patch.setattr(run, "score", stop)
        with pytest.raises(KeyboardInterrupt):
            run.main(args)
    run.main(args)
    assert "resuming after 4 of 4 iterations" in capsys.readouterr().out  # the interrupted run is resumed
    text = (tmp_path / "runs.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["parts"] for line in lines] == [[], ["cls", "pnd", "s2c", "c2s"]]
    for line in lines:
        assert set(line["raw"]["miou"]) == set(line["crf"]["miou"]) == {"simple", "multi", "all"}
        assert [look["i"] for look in line["probe"]] == [2, 3]
        assert sum(sum(map(sum, counts)) for counts in line["raw"]["confusion"].values()) == 6 * 48 * 48
    assert {path.name for path in tmp_path.iterdir()} >= {"ablation.md", "ablation.png", "denoising.png"}
    assert "full without ONF" in (tmp_path / "ablation.md").read_text()
    assert not list((tmp_path / "running").iterdir())

    do_run, ran = run.do_run, []
    monkeypatch.setattr(run, "do_run", lambda one, args: ran.append(one) or do_run(one, args))
    run.main(args)
    assert not ran and (tmp_path / "runs.jsonl").read_text() == text
    monkeypatch.setattr(plan, "SWEEP_NOISE", ((0.0, 0.0), plan.NOISE))
    run.main(words(tmp_path, "--sweep", "--rows", "plain"))
    assert [one.noise for one in ran] == [(0.0, 0.0)]  # the other is done
    clean, noisy = (run.read_runs(tmp_path / "runs.jsonl")[key] for key in (ran[0].key, lines[0]["key"]))
    assert clean["label_iou"] > 0.99 > noisy["label_iou"] + 0.1
    assert (tmp_path / "sweep.png").exists()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of VOC's layout: 60 x 80 pixels of noise, a box of the class, four training and four val images."""
    root, rng = tmp_path / "voc", np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClassAug", "saliency", "voc_list"):
        (root / folder).mkdir(parents=True)
    lists: dict[str, list[str]] = {"train_cls": [], "val": []}
    for n in range(8):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(root / f"JPEGImages/{n}.jpg")
        mask = np.zeros((60, 80), np.uint8)
        mask[10:50, 20:60], mask[10:14] = n % 3 + 1, 255
        save_labels(root / f"SegmentationClassAug/{n}.png", mask)
        Image.fromarray(np.where(mask == n % 3 + 1, 255, 0).astype(np.uint8)).save(root / f"saliency/{n}.png")
        lists["train_cls" if n < 4 else "val"].append(
            f"{n} {n % 3}" + (" 7" if n == 3 else "") if n < 4 else str(n)
        )
    for name, lines in lists.items():
        (root / f"voc_list/{name}.txt").write_text("\n".join(lines))
    return root


def test_photographs_are_reduced_and_scored_on_half_of_val(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "tiny", PhotoSetting("report", 2, 3, TINY.options))
    args = words(tmp_path, "--rows", "plain", "full")
    with pytest.raises(InputError, match="--photos must name a directory with JPEGImages"):
        run.main(args)
    run.main([*args, "--photos", str(photos)])
    data = tmp_path / "data/photos_2_report"
    assert (data / "lists/val.txt").read_text().split() == ["5", "7"]
    assert (data / "lists/simple_list.txt").read_text().splitlines() == ["0 0", "1 1", "2 2"]
    assert read_label(data / "truth/1.png", 21).shape == (30, 40)
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["label_iou"] > 0.9  # pixels that the mask ignores do not count
        known = sum(sum(map(sum, counts)) for counts in line["raw"]["confusion"].values())
        assert known == 2 * (30 * 40 - 2 * 40)
    assert [len(line["probe"]) for line in lines] == [2, 2]
    with pytest.raises(InputError, match="was made from"):
        make_photographs(data, tmp_path, 2, "report")
    with pytest.raises(InputError, match="noise of photographs cannot be chosen"):
        run.main([*args, "--sweep"])


def test_probe_changes_nothing(tiny_data: Path, tmp_path: Path) -> None:
    weights = []
    for name in ("with", "without"):
        options = (
            f"--list-dir {tiny_data}/lists --pseudo-label-dir {tiny_data}/sal2gt --arch mini --restore-from none"
            " --input-size 40 --batch-size 2 --num-steps 3 --denoise-from 1 --save-pred-every 1 --no-val"
            f" --snapshot-dir {tmp_path}/{name}"
        )
        args = parse_train_args("", [*data_options(tiny_data), *options.split()])
        probe = Probe(args, 4, tmp_path / "probe")

        def look(i: int, G: torch.nn.Module, method: Method, probe: Probe = probe) -> None:
            before = torch.random.get_rng_state()
            probe(i, G, method)
            assert torch.equal(torch.random.get_rng_state(), before) and G.training

        train(args, look if name == "with" else None)
        weights.append(read_state(tmp_path / name / "VOC_best.pth"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert len(list((tmp_path / "probe").iterdir())) == 2


def test_val_is_split_by_the_classes_in_its_truth(tiny_data: Path) -> None:
    args = parse_train_args("", [*data_options(tiny_data), "--list-dir", str(tiny_data / "lists")])
    kinds = split_val(args, tiny_data / "SegmentationClassAug")
    assert sum(map(len, kinds.values())) == 4


def test_gains_are_taken_seed_by_seed() -> None:
    def line(seed: int, value: float | None) -> dict:
        return {"seed": seed, "raw": {"miou": {} if value is None else {"all": value}}}

    less, more = [line(1, 0.25), line(2, 0.5), line(3, 0.5)], [line(2, 0.75), line(1, 0.5), line(4, 1.0)]
    assert differences(less, more, "raw", "all") == [0.25, 0.25]
    assert mious([line(1, None), line(2, 0.5)], "raw", "all") == {2: 0.5}
    assert percent([0.4, 0.6], "+") == "+50.0 ± 14.1" and percent([0.4]) == "40.0" and percent([]) == ""


def test_a_class_that_is_never_found_is_lost() -> None:
    counts = [[50, 0, 0], [3, 7, 0], [10, 0, 0]]
    line = {"raw": {"confusion": {"simple": counts, "multi": counts}}}
    assert lost_classes(line) == 1


def test_bad_input_is_one_line(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "benchmarks/ablation/__main__.py"
    assert "has no finished run" in error_line(script, "--report-only", "--out", tmp_path)
    assert "--rows onf+x" in error_line(script, "--rows", "onf+x", "--out", tmp_path)
    (tmp_path / "runs.jsonl").write_text('{"key": "a"}\n{"ke')
    assert "runs.jsonl is damaged" in error_line(script, "--out", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="matplotlib is not installed: pip install"):
        run.main(words(tmp_path))
