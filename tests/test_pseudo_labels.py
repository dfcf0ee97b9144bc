"""The CRF over lists of images, and the three steps of the pseudo labels, as a user runs them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import contents, error_line, flags, read_mask, reference_json, reference_npz, run_script
from PIL import Image
from test_scripts import eval_options

from datasets.labels import save_labels
from datasets.lists import Entry, read_list
from datasets.loaders import DataConfig, EvalDataset
from utils.core.files import read_note, save_array
from utils.crf.dense_crf import CRFParams, dense_crf
from utils.crf.run import CRFSettings, create_label_maps
from utils.mining import mine


def test_mining_reproduces_the_reference() -> None:
    arrays, classes = reference_npz("mining.npz"), reference_json("values.json")["mining_classes"]
    for before, after, c in zip(arrays["before"], arrays["after"], classes, strict=True):
        assert np.array_equal(mine(before, c), after)


def test_mining_by_hand() -> None:
    for counts, classes, ignored in (
        ({3: 20, 8: 20}, (2, 7), set()),
        ({3: 19, 8: 0}, (2, 7), {0, 3}),
        ({3: 19}, (2,), set()),  # one class: as it is
        ({3: 19}, (2, 2), set()),  # the same class named twice is one class
        ({3: 30, 5: 7, 8: 30}, (2, 7), set()),  # what the image has not is not asked for
    ):
        labels = np.zeros((20, 20), np.uint8)
        labels.flat[: sum(counts.values())] = np.repeat(list(counts), list(counts.values()))
        mined = mine(labels, classes)
        assert set(np.unique(labels[mined != labels])) == ignored and set(mined[mined != labels]) <= {255}
        assert np.array_equal(mine(mined, classes), mined)


@pytest.fixture(scope="module")
def work(tiny_data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and the logits of the training and val images."""
    root = tmp_path_factory.mktemp("work")
    shutil.copy(weights, root)
    run_script("gen_label.py", *gen_label(tiny_data, root))
    run_script("evaluate.py", *eval_options(tiny_data, weights, root))
    return root


def common(data: Path, data_list: str, **more: object) -> list[object]:
    return flags(data_dir=data, num_classes=4, device="cpu", data_list=data / f"lists/{data_list}.txt", **more)


def gen_label(data: Path, root: Path, *more: object) -> list[object]:
    run = flags(restore_from=root / "tiny.pth", logit_dir=root / "logits", num_workers=0)
    return [*common(data, "train_aug"), *run, *more]


def gen_label_crf(data: Path, logits: Path, out: Path, *more: object) -> list[object]:
    return [*common(data, "train_cls", logit_dir=logits, pseudo_label_dir=out, n_jobs=1), *more]


def mining(data: Path, out: Path) -> list[object]:
    return ["--num-classes", 4, "--data-list", data / "lists/train_cls.txt", "--pseudo-label-dir", out]


def test_three_steps_to_pseudo_labels(tiny_data: Path, work: Path, tmp_path: Path) -> None:
    out, bare = tmp_path / "pseudo", tmp_path / "bare"  # ground truth is not needed
    for folder in ("JPEGImages", "lists"):
        shutil.copytree(tiny_data / folder, bare / folder)
    run_script("gen_label_crf.py", *gen_label_crf(bare, work / "logits", out))
    ids = {entry.id for entry in read_list(tiny_data / "lists/train_aug.txt", 4, labelled=False)}
    assert {path.stem for path in out.iterdir()} == ids
    run_script("gen_label_mining.py", *mining(bare, out))
    once = contents(out)
    assert "changed 0 of" in run_script("gen_label_mining.py", *mining(bare, out)).stdout
    run_script("gen_label_crf.py", *gen_label_crf(bare, work / "logits", out))  # finished: it does not unmine
    assert contents(out) == once
    # Their scores would be those of the pixels that mining keeps.
    mined = common(tiny_data, "simple_list", logit_dir=work / "logits", prediction_dir=out, n_jobs=1)
    mined += flags(label_dir=tiny_data / "truth")
    save_labels(out / "simple_00001.png", np.full((64, 80), 255, np.uint8), read_note(out / "simple_00001.png"))
    assert "score it with evaluate_labels.py" in error_line("evaluate_crf.py", *mined)


def test_image_labels_confine_the_pseudo_labels(tiny_data: Path, work: Path, tmp_path: Path) -> None:
    run_script("gen_label_crf.py", *gen_label_crf(tiny_data, work / "logits", tmp_path, "--use-image-labels"))
    for entry in read_list(tiny_data / "lists/train_cls.txt", 4):
        found = read_mask(tmp_path / f"{entry.id}.png")
        assert set(np.unique(found)) <= {0, *(c + 1 for c in entry.classes)}
    more = "--use-image-labels", "--data-list", tiny_data / "lists/train_aug.txt"
    options = gen_label_crf(tiny_data, work / "logits", tmp_path / "out", *more)
    assert "has no class" in error_line("gen_label_crf.py", *options)


def test_a_stopped_run_goes_on_and_shards_add_up(tiny_data: Path, work: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_script("gen_label_crf.py", *gen_label_crf(tiny_data, work / "logits", whole))
    for part in ("1/3", "3/3"):
        run_script("gen_label_crf.py", *gen_label_crf(tiny_data, work / "logits", parts, "--shard", part))
    done = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert len(done) == len(contents(whole)) - len(range(1, len(contents(whole)), 3))
    run_script("gen_label_crf.py", *gen_label_crf(tiny_data, work / "logits", parts))
    assert all((parts / name).stat().st_mtime_ns == time for name, time in done.items())
    assert contents(parts) == contents(whole)
    # Other parameters make other labels: nothing of the earlier ones passes for them.
    other = gen_label_crf(tiny_data, work / "logits", parts, "--crf-iterations", 0)
    assert "was made with other params" in error_line("gen_label_crf.py", *other)
    run_script("gen_label_crf.py", *other, "--overwrite")
    assert all((parts / name).stat().st_mtime_ns > time for name, time in done.items())


@pytest.mark.parametrize(("size", "aligned"), [((9, 11), False), ((4, 5), True)])  # stride 8, as in stage 2; 16
def test_crf_of_a_list_is_that_of_each(tiny_data: Path, tmp_path: Path, size: tuple[int, int], aligned: bool) -> None:
    settings = CRFSettings(CRFParams(), None)
    images = EvalDataset([Entry("val_00001")], DataConfig(tiny_data / "JPEGImages", num_classes=4), labels=False)
    images.align_corners = aligned
    values = np.random.default_rng(0).normal(0, 2, (4, *size)).astype(np.float32)
    save_array(tmp_path / "logits/val_00001.npy", values)
    create_label_maps(images, tmp_path / "logits", tmp_path, settings, n_jobs=1)
    image = np.array(Image.open(tiny_data / "JPEGImages/val_00001.jpg"))[:, :, ::-1]
    logits = torch.from_numpy(values)[None]
    p = torch.nn.functional.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=aligned)[0].softmax(0)
    expected = dense_crf(np.ascontiguousarray(image), p, prune=None).argmax(0)
    assert np.array_equal(np.array(Image.open(tmp_path / "val_00001.png")), expected)


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_logits_are_named_and_finished_work_stays(tiny_data: Path, work: Path, tmp_path: Path, jobs: int) -> None:
    logits, out = Path(shutil.copytree(work / "logits", tmp_path / "logits")), tmp_path / "out"
    options = gen_label_crf(tiny_data, logits, out, "--n-jobs", jobs)
    last = logits / "complex_00008.npy"
    good = last.read_bytes()
    last.write_bytes(good[:200])
    assert "complex_00008.npy cannot be read" in error_line("gen_label_crf.py", *options)
    assert len(list(out.iterdir())) == 19
    if jobs == 1:
        last.unlink()
        assert "complex_00008.npy not found" in error_line("gen_label_crf.py", *options)
        for values, reason in (
            (np.zeros((4, 2, 3)), " contains float64 (4, 2, 3), but logits for "),
            (np.zeros((21, 9, 11)), " have the shape (4, 9, 11) or (4, 4, 5) or (4, 64, 80): see --num-classes"),
            (np.full((4, 9, 11), np.nan), ": CRF: the probabilities are not all finite"),
        ):
            save_array(last, values)
            line = error_line("gen_label_crf.py", *options)
            assert "complex_00008.npy" in line and reason in line
        save_array(last, np.zeros((4, 9, 11), np.float32), {"weights": "others"})
        assert "complex_00008.npy were not made in the same way" in error_line("gen_label_crf.py", *options)
        last.write_bytes(good)
        run_script("gen_label_crf.py", *options)
    assert not [path for path in out.iterdir() if path.suffix == ".tmp"]


def test_every_script_looks_at_its_list_and_files_first(own_data: Path, work: Path, tmp_path: Path) -> None:
    data, out, val, train = own_data, tmp_path / "out", "val_00004", "complex_00008"
    for name, id_ in (("val", val), ("train_aug", train), ("train_cls", train)):
        path = data / f"lists/{name}.txt"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, next(line for line in lines if line.startswith(id_))]))
    truth = data / "SegmentationClassAug"
    quality = [*flags(num_classes=4, data_list=data / "lists/val.txt", truth_dir=truth), f"same={truth}"]
    crf = common(data, "val", logit_dir=work / "logit_val", prediction_dir=out / "crf_val", score_dir=out, n_jobs=1)
    scripts = {
        "evaluate.py": (eval_options(data, work / "tiny.pth", out), val),
        "evaluate_crf.py": (crf, val),
        "gen_label.py": (gen_label(data, work, "--logit-dir", out / "logits"), train),
        "gen_label_crf.py": (gen_label_crf(data, work / "logits", out / "pseudo"), train),
        "gen_label_mining.py": (mining(data, out / "pseudo"), train),
        "evaluate_labels.py": (quality, val),
    }
    for script, (options, id_) in scripts.items():
        stderr = run_script(script, *options).stderr
        assert f"listed more than once (1, first {id_})" in stderr, script
    # It counts once.
    labels = [np.array(Image.open(path)) for path in truth.iterdir()]
    counts = json.loads((out / "scores/confusion.json").read_text())["rows are true labels"]
    assert np.sum(counts) == sum((label != 255).sum() for label in labels) and len(labels) == 4
    lost = [data / f"JPEGImages/{id_}.jpg" for id_ in (val, train)]
    for path in (*lost, data / f"SegmentationClassAug/{val}.png", out / f"pseudo/{train}.png"):
        path.unlink()
    shutil.copytree(work / "logits", out / "logits", dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    for script, (options, id_) in scripts.items():
        assert f"{id_}." in (line := error_line(script, *options)) and "not found, the first of" in line
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_quality_of_labels(tiny_data: Path, tmp_path: Path) -> None:
    truth = tiny_data / "SegmentationClassAug"
    for path in truth.iterdir():
        save_labels(tmp_path / "nothing" / path.name, np.full((64, 80), 255, np.uint8))
    listed = flags(num_classes=4, data_list=tiny_data / "lists/val.txt")
    folders = f"truth={truth}", f"nothing={tmp_path / 'nothing'}"
    table = flags(truth_dir=truth, score_path=tmp_path / "quality.json")
    done = run_script("evaluate_labels.py", *listed, *table, *folders)
    rows = json.loads((tmp_path / "quality.json").read_text())
    assert rows["truth"]["Mean IoU"] == 1 and rows["truth"]["error"] == 0
    assert rows["nothing"] == {"Mean IoU": None, "labelled": 0, "error": None}
    assert done.stdout.splitlines()[-1].split() == ["nothing", "-", "0.00", "-"]
    grey = tmp_path / "grey"
    for path in truth.iterdir():
        save_labels(grey / path.name, np.array(Image.open(path)).astype(bool).astype(np.uint8) * 255)
    done = run_script("evaluate_labels.py", *listed, *flags(truth_dir=grey), folders[0])
    assert "warning: the true labels contain background alone: in masks of 0 and 255" in done.stderr
    save_labels(grey / "val_00004.png", np.zeros((9, 9), np.uint8))
    assert "val_00004.png differ in size" in error_line("evaluate_labels.py", *listed, *table[:2], f"other={grey}")
    done = run_script("evaluate_labels.py", *listed, "--score-path", listed[-1], folders[0], status=2)
    assert "val.txt: the name must end in .json" in done.stderr


def test_predictions_of_another_method(tiny_data: Path, tmp_path: Path) -> None:
    """Label maps, and class scores of the size of the images, get the same score."""
    theirs, rng = tmp_path / "theirs", np.random.default_rng(0)
    for path in (tiny_data / "SegmentationClassAug").iterdir():
        scores = rng.normal(size=(4, 64, 80)).astype(np.float16)
        save_array(theirs / f"{path.stem}.npy", scores)
        Image.fromarray(scores.argmax(0).astype(np.uint8)).save(theirs / path.name)
    listed = flags(num_classes=4, data_list=tiny_data / "lists/val.txt")
    table = flags(truth_dir=tiny_data / "SegmentationClassAug", score_path=tmp_path / "table.json")
    run_script("evaluate_labels.py", *listed, *table, f"theirs={theirs}")
    folders = flags(data_dir=tiny_data, logit_dir=theirs, prediction_dir=theirs / "crf", score_dir=theirs)
    run_script("evaluate_crf.py", *listed, *folders, "--device", "cpu", *flags(crf_iterations=0, n_jobs=1))
    miou = json.loads((tmp_path / "table.json").read_text())["theirs"]["Mean IoU"]
    assert json.loads((theirs / "scores_crf.json").read_text())["Mean IoU"] == pytest.approx(miou)
