"""The pipeline by the commands of the documents: on pictures as a user has them, on photographs, and as the demo.

MDBA_PHOTOS names a folder of photographs in VOC's layout: JPEGImages, SegmentationClassAug, saliency (grey maps of
the training images) and voc_list (simple_list, complex_list and val). Nothing is written to it.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, flags, read_lines, read_mask, run_script
from PIL import Image
from test_resume import step2_options

from datasets.lists import Entry, image_path, read_list
from datasets.voc import VOC_CLASSES
from demo import Demo, parse_args

PHOTOS = Path(os.environ.get("MDBA_PHOTOS", "none"))
NO_PHOTOS = pytest.mark.skipif(not PHOTOS.is_dir(), reason="MDBA_PHOTOS names no folder of photographs")
FORMATS = ("webp", "png", "bmp", "tif")


def make_own(data: Path, root: Path) -> None:
    """Three classes of the drawn data set in any formats, with grey maps and lists of file names."""
    for folder in ("JPEGImages", "saliency"):
        (root / folder).mkdir()
    for name in ("train_cls", "val"):
        lines = []
        for k, line in enumerate((data / f"lists/{name}.txt").read_text().splitlines()):
            id_, *classes = line.split()
            file = f"{id_}.{FORMATS[k % len(FORMATS)]}"
            with Image.open(data / f"JPEGImages/{id_}.jpg") as picture:
                picture.save(root / f"JPEGImages/{file}")
            lines.append(" ".join((file, *classes)))
        (root / f"lists/{name}.txt").write_text("\n".join(lines))
    for path in (data / "sal2gt").iterdir():
        label = read_mask(path)
        grey = np.where(label == 255, 120, np.where(label > 0, 250, 5)).astype(np.uint8)
        Image.fromarray(grey).resize((40, 32)).save(root / f"saliency/{path.name}")
    for folder in ("truth", "SegmentationClassAug"):
        shutil.copytree(data / folder, root / "SegmentationClassAug", dirs_exist_ok=True)
    shutil.copy(data / "lists/class_names.txt", root / "classes.txt")


def take_photographs(root: Path) -> None:
    """A few photographs, spread over the published lists."""
    for folder in ("JPEGImages", "SegmentationClassAug", "saliency"):
        (root / folder).symlink_to(PHOTOS / folder)
    for source, count, name in (("simple_list", 3, "train_cls"), ("complex_list", 2, "train_cls"), ("val", 2, "val")):
        lines = (PHOTOS / f"voc_list/{source}.txt").read_text().splitlines()
        with (root / f"lists/{name}.txt").open("a") as file:
            file.writelines(f"{line}\n" for line in lines[:: len(lines) // count][:count])
    (root / "classes.txt").write_text("\n".join(VOC_CLASSES))


@pytest.fixture(scope="module", params=["own", pytest.param("photographs", marks=NO_PHOTOS)])
def root(request: pytest.FixtureRequest, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, with the results of all steps."""
    root = tmp_path_factory.mktemp("pipeline")
    (root / "lists").mkdir()
    if request.param == "photographs":
        take_photographs(root)
    else:
        make_own(tiny_data, root)
    train, val, names = root / "lists/train_cls.txt", root / "lists/val.txt", root / "classes.txt"
    classes = flags(num_classes=1 + len(names.read_text().splitlines()))
    data, listed, run = [*classes, *flags(data_dir=root)], flags(data_list=train), flags(device="cpu", num_workers=0)
    made = flags(saliency_dir=root / "saliency", out=root / "sal2gt", list_dir=root / "made")
    run_script("gen_sal2gt.py", *data, *listed, *made)
    shutil.copytree(root / "made", root / "lists", dirs_exist_ok=True)
    lists = flags(list_dir=root / "lists", pseudo_label_dir=root / "sal2gt")
    run_script("check_data.py", *data, *lists)

    network = flags(arch="mini", restore_from="none", input_size="48,56", batch_size=2, class_names=names)
    method = flags(iou_thresholds="auto", denoise_from=2, num_steps=4, save_pred_every=2)
    done = run_script("train.py", *data, *lists, *run, *network, *method, *flags(snapshot_dir=root / "snapshots"))
    assert "measured IoU thresholds: 0." in done.stdout
    best = root / "snapshots/VOC_best.pth"
    weights, crf = flags(restore_from=best), flags(crf_iterations=2, n_jobs=1, device="cpu")
    scored = flags(data_list=val, logit_dir=root / "logit_val", score_dir=root / "scores")
    run_script("evaluate.py", *data, *scored, *run, *weights, "--save-predictions", root / "raw")
    run_script("evaluate_crf.py", *data, *scored, *crf, "--prediction-dir", root / "crf")
    pictures = [image_path(root / "JPEGImages", entry.id) for entry in entries(root, "val")]
    run_script("predict.py", *weights, *flags(device="cpu", class_names=names, out=root / "predictions"), *pictures)

    logits, labels = flags(logit_dir=root / "logits"), flags(pseudo_label_dir=root / "pseudo_labels")
    run_script("gen_label.py", *data, *listed, *run, *weights, *logits)
    run_script("gen_label_crf.py", *data, *listed, *crf, *logits, *labels)
    run_script("gen_label_mining.py", *classes, *listed, *labels)
    config = {"PSEUDO_LABELS": root / "pseudo_labels", "LABELS": names, "N_CLASSES": classes[1], "SPLIT.TRAIN": train}
    config = [f"DATASET.{key}={value}" for key, value in config.items()]
    model = f"MODEL.INIT_MODEL={best}", "MODEL.N_BLOCKS=[1, 1, 2, 1]", "SOLVER.ITER_MAX=2"
    run_script("step2/main.py", *step2_options(root, root / "step2"), *config, *model, cwd=ROOT / "step2")
    return root


def entries(root: Path, name: str) -> list[Entry]:
    return read_list(root / f"lists/{name}.txt", 21, labelled=name != "val")


def mean_iou(root: Path, folder: str) -> float:
    """Over the labels that occur in the true masks, counted pixel by pixel and by no code of the project."""
    with_truth = []
    for entry in entries(root, "val"):
        truth = np.array(Image.open(root / f"SegmentationClassAug/{entry.id}.png"))
        with_truth.append(np.stack((truth, read_mask(root / folder / f"{entry.id}.png")))[:, truth != 255])
    truth, found = np.concatenate(with_truth, axis=1)
    ious = [((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in np.unique(truth)]
    return float(np.mean(ious))


def test_labels_from_saliency_maps(root: Path) -> None:
    simple, others, listed = (entries(root, name) for name in ("simple_list", "complex_list", "train_cls"))
    assert len(simple) + len(others) == len(listed) and simple
    assert sorted(path.stem for path in (root / "sal2gt").iterdir()) == sorted(entry.id for entry in simple)
    for entry in simple:
        label = entry.classes[0] + 1
        assert {label} <= set(np.unique(read_mask(root / f"sal2gt/{entry.id}.png"))) <= {0, label, 255}


def test_scores_are_those_of_the_masks(root: Path) -> None:
    raw, crf = (json.loads((root / f"scores/{name}.json").read_text()) for name in ("scores", "scores_crf"))
    assert raw["Mean IoU"] == pytest.approx(mean_iou(root, "raw"), abs=1e-9)
    assert crf["Mean IoU"] == pytest.approx(mean_iou(root, "crf"), abs=1e-9)
    best = max(line["Mean IoU"] for line in read_lines(root / "snapshots/val.jsonl"))
    assert raw["Mean IoU"] == pytest.approx(best, abs=1e-9)


def test_pseudo_labels_are_of_the_image_level_classes(root: Path) -> None:
    for entry in entries(root, "train_cls"):
        found = read_mask(root / f"pseudo_labels/{entry.id}.png")
        if len(set(entry.classes)) > 1:  # mining ignores the background of an image where a class is missing
            assert {c + 1 for c in entry.classes} <= set(np.unique(found)) or not (found == 0).any()
    table = flags(data_list=root / "lists/train_cls.txt", truth_dir=root / "SegmentationClassAug")
    done = run_script("evaluate_labels.py", *table, f"mined={root / 'pseudo_labels'}")
    assert done.stdout.startswith(f"{len(entries(root, 'train_cls'))} images of ")


def test_predictions_and_stage_2(root: Path) -> None:
    for entry in json.loads((root / "predictions/predictions.json").read_text())["pictures"]:
        with Image.open(entry["picture"]) as picture:
            assert read_mask(root / "predictions" / entry["mask"]).shape == picture.size[::-1]
    models = root / "step2/models/voc12/deeplabv2_mini_msc/train_cls"
    assert (models / "checkpoint_final.pth").exists()


@pytest.mark.slow
def test_demo_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = run_script("demo.py", "--out", out, "--num-steps", 6, "--step2-steps", 4, process=True)
    assert done.stdout.count("\n$ ") == 14  # each command line is printed
    summary = json.loads((out / "scores/summary.json").read_text())
    assert list(summary["scores"]) == ["stage 1", "stage 1 + CRF", "stage 2", "stage 2 + CRF"]
    assert [len(summary["commands"]), summary["commands"][1]["command"][:15]] == [13, "python train.py"]
    assert "stage 2 + CRF" in (out / "report.html").read_text()
    with Image.open(out / "gallery.png") as picture:
        assert picture.width > 1000 and picture.height > 800


def test_the_report_needs_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("demo.find_spec", lambda name: None)
    Demo(parse_args([])).report()
    assert capsys.readouterr().out.strip() == "no report: it needs jinja2 and matplotlib"
