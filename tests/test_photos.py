"""The whole pipeline on a few real photographs, through the scripts, where MDBA_PHOTOS names a folder of them.

The folder has VOC's layout: JPEGImages, SegmentationClassAug, saliency (grey maps of the training images) and
voc_list (train_cls, simple_list, complex_list and val). Nothing is written to it.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import flags, run_script
from PIL import Image

from datasets.voc import palette

PHOTOS = Path(os.environ.get("MDBA_PHOTOS", "none"))
TAKEN = {"simple_list": 3, "complex_list": 2, "val": 2}

if not (PHOTOS / "JPEGImages").is_dir():
    pytest.skip("MDBA_PHOTOS names no folder of photographs", allow_module_level=True)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of a few photographs, spread over the published ones."""
    folder, taken = tmp_path_factory.mktemp("photos") / "lists", {}
    folder.mkdir()
    for name, count in TAKEN.items():
        lines = (PHOTOS / f"voc_list/{name}.txt").read_text().splitlines()
        taken[name] = lines[:: len(lines) // count][:count]
    train = {line.split()[0] for name in ("simple_list", "complex_list") for line in taken[name]}
    train_cls = (PHOTOS / "voc_list/train_cls.txt").read_text().splitlines()
    taken["train_cls"] = [line for line in train_cls if line.split()[0] in train]
    for name in ("train_cls", "val"):
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in taken[name]))
    return folder


@pytest.fixture(scope="module")
def stage1(lists: Path) -> Path:
    """The outputs of stage 1, up to the mined pseudo labels."""
    out = lists.parent
    data, train_cls = flags(data_dir=PHOTOS), flags(data_list=lists / "train_cls.txt")
    saliency = flags(saliency_dir=PHOTOS / "saliency", out=out / "sal2gt", list_dir=lists)
    run_script("gen_sal2gt.py", *data, *train_cls, *saliency)
    inputs = [*data, *flags(list_dir=lists, pseudo_label_dir=out / "sal2gt")]
    checked = run_script("check_data.py", *inputs).stdout
    assert "found 7 of 7 images" in checked and "found 2 of 2 validation masks" in checked

    run, crf = flags(device="cpu", num_workers=0), flags(crf_iterations=2, n_jobs=1, device="cpu")
    train = flags(arch="mini", restore_from="none", input_size=97, batch_size=2, num_steps=2, denoise_from=1)
    run_script("train.py", *inputs, *run, *train, *flags(snapshot_dir=out / "snapshots", save_pred_every=2))
    network = [*run, *flags(restore_from=out / "snapshots/VOC_best.pth")]
    scored = flags(data_list=lists / "val.txt", score_dir=out / "scores", logit_dir=out / "logit_val")
    run_script("evaluate.py", *data, *network, *scored, "--save-predictions", out / "predicted")
    run_script("evaluate_crf.py", *data, *crf, *scored, "--prediction-dir", out / "crf_val")

    logits, labels = flags(logit_dir=out / "logits"), flags(pseudo_label_dir=out / "pseudo_labels")
    run_script("gen_label.py", *data, *network, *train_cls, *logits)
    run_script("gen_label_crf.py", *data, *crf, *train_cls, *logits, *labels)
    run_script("gen_label_mining.py", *train_cls, *labels)
    return out


def ids(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()]


def read_mask(path: Path, id_: str) -> np.ndarray:
    """A label map of the project, which has VOC's palette and the size of the photograph."""
    with Image.open(path / f"{id_}.png") as mask, Image.open(PHOTOS / f"JPEGImages/{id_}.jpg") as photo:
        assert mask.mode == "P" and mask.size == photo.size
        assert mask.getpalette() == palette().ravel().tolist()
        return np.array(mask)


def mean_iou(folder: Path, listed: list[str]) -> float:
    """Over the labels that occur in the true masks, counted pixel by pixel and by no code of the project."""
    with_truth = []
    for id_ in listed:
        with Image.open(PHOTOS / f"SegmentationClassAug/{id_}.png") as mask:
            truth = np.array(mask)
        with_truth.append(np.stack((truth, read_mask(folder, id_)))[:, truth != 255])
    truth, found = np.concatenate(with_truth, axis=1)
    ious = [((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in np.unique(truth)]
    return float(np.mean(ious))


def test_labels_from_saliency_maps(lists: Path, stage1: Path) -> None:
    simple = [line.split() for line in (lists / "simple_list.txt").read_text().splitlines()]
    others = ids(lists / "complex_list.txt")
    assert len(simple) + len(others) == 5 and 0 < len(simple) <= 3
    assert sorted(path.stem for path in (stage1 / "sal2gt").glob("*.png")) == sorted(id_ for id_, _ in simple)
    for id_, c in simple:
        found = set(np.unique(read_mask(stage1 / "sal2gt", id_)).tolist())
        assert int(c) + 1 in found and found <= {0, int(c) + 1, 255}


def test_scores_are_those_of_the_masks(lists: Path, stage1: Path) -> None:
    val = ids(lists / "val.txt")
    scores = [json.loads(line) for line in (stage1 / "snapshots/val.jsonl").read_text().splitlines()]
    for name, folder in (("scores", "predicted"), ("scores_crf", "crf_val")):
        written = json.loads((stage1 / f"scores/{name}.json").read_text())["Mean IoU"]
        assert written == pytest.approx(mean_iou(stage1 / folder, val), abs=1e-9)
        if name == "scores":
            assert written == pytest.approx(max(line["Mean IoU"] for line in scores), abs=1e-9)


def test_pseudo_labels_are_of_the_image_level_classes(lists: Path, stage1: Path) -> None:
    for line in (lists / "train_cls.txt").read_text().splitlines():
        id_, *classes = line.split()
        found = read_mask(stage1 / "pseudo_labels", id_)
        if len(set(classes)) > 1:  # mining ignores the background of an image where a class is missing
            sizes = [(found == int(c) + 1).sum() for c in classes]
            assert min(sizes) > 0 or not (found == 0).any()
    table = run_script(
        "evaluate_labels.py",
        *flags(data_list=lists / "train_cls.txt", truth_dir=PHOTOS / "SegmentationClassAug"),
        f"mined={stage1 / 'pseudo_labels'}",
    ).stdout
    assert table.startswith("5 images of ")
