"""Own pictures, saliency maps and labels, by the commands of the README to a trained network."""

import json
from pathlib import Path

import numpy as np
from conftest import ROOT, run_script
from PIL import Image


def make_own(data: Path, own: Path) -> None:
    """Three classes of the drawn data set as a user has them: PNG pictures, grey maps, a list, names."""
    for folder in ("JPEGImages", "saliency", "lists"):
        (own / folder).mkdir(parents=True)
    for path in sorted((data / "JPEGImages").glob("[sc]*.jpg")):
        with Image.open(path) as picture:
            picture.save(own / f"JPEGImages/{path.stem}.png")
    for path in (data / "sal2gt").iterdir():
        with Image.open(path) as label:
            values = np.array(label)
        grey = np.where(values == 255, 120, np.where(values > 0, 250, 5)).astype(np.uint8)
        Image.fromarray(grey).resize((40, 32)).save(own / f"saliency/{path.name}")
    (own / "lists/train_cls.txt").write_text((data / "lists/train_cls.txt").read_text())
    (own / "classes.txt").write_text((data / "lists/class_names.txt").read_text())


def test_from_pictures_to_a_trained_network(tiny_data: Path, tmp_path: Path) -> None:
    own, snapshots = tmp_path / "own", tmp_path / "own/snapshots"
    make_own(tiny_data, own)
    common = ["--data-dir", own, "--num-classes", 4]
    run_script(
        "gen_sal2gt.py",
        *common,
        "--data-list",
        own / "lists/train_cls.txt",
        "--saliency-dir",
        own / "saliency",
        "--out",
        own / "sal2gt",
        "--list-dir",
        own / "lists",
    )
    lists = ["--list-dir", own / "lists", "--pseudo-label-dir", own / "sal2gt"]
    run_script("check_data.py", *common, *lists, "--no-val")
    done = run_script(
        "train.py",
        *common,
        *lists,
        "--class-names",
        own / "classes.txt",
        "--iou-thresholds",
        "auto",
        "--no-val",
        "--snapshot-dir",
        snapshots,
        "--arch",
        "mini",
        "--restore-from",
        "none",
        "--num-steps",
        4,
        "--batch-size",
        2,
        "--denoise-from",
        2,
        "--input-size",
        "48,56",
        "--num-workers",
        0,
        "--device",
        "cpu",
    )
    assert "measured IoU thresholds: 0." in done.stdout and "no validation" in done.stdout
    run_script(
        "predict.py",
        "--restore-from",
        snapshots / "VOC_best.pth",
        "--class-names",
        own / "classes.txt",
        "--device",
        "cpu",
        "--out",
        tmp_path / "predictions",
        own / "JPEGImages",
    )
    with Image.open(tmp_path / "predictions/simple_00001.png") as mask:
        assert mask.mode == "P" and mask.size == (80, 64)
    assert json.loads((tmp_path / "predictions/predictions.json").read_text())

    train_cls, labels = own / "lists/train_cls.txt", own / "pseudo_labels"
    images = ["--data-dir", own, "--data-list", train_cls, "--logit-dir", own / "logits"]
    run_script("gen_label.py", "--restore-from", snapshots / "VOC_best.pth", *images, "--num-workers", 0)
    run_script("gen_label_crf.py", "--num-classes", 4, *images, "--pseudo-label-dir", labels, "--n-jobs", 1)
    run_script(
        "gen_label_mining.py", "--num-classes", 4, "--data-list", train_cls, "--pseudo-label-dir", labels
    )
    run_script(
        "step2/main.py",
        "train",
        "--config-path",
        "configs/voc12.yaml",
        "--cpu",
        "EXP.ID=own",
        f"EXP.OUTPUT_DIR={own / 'step2'}",
        f"DATASET.ROOT={own}",
        f"DATASET.PSEUDO_LABELS={labels}",
        f"DATASET.LABELS={own / 'classes.txt'}",
        "DATASET.N_CLASSES=4",
        f"DATASET.SPLIT.TRAIN={train_cls}",
        f"DATASET.SPLIT.VAL={own / 'lists/val.txt'}",
        f"MODEL.INIT_MODEL={snapshots / 'VOC_best.pth'}",
        "MODEL.NAME=DeepLabV2_Mini_MSC",
        "MODEL.N_BLOCKS=[1, 1, 2, 1]",
        "IMAGE.SIZE.TRAIN=49",
        "SOLVER.ITER_MAX=2",
        "SOLVER.BATCH_SIZE.TRAIN=2",
        "DATALOADER.NUM_WORKERS=0",
        cwd=ROOT / "step2",
    )
    assert (own / "step2/models/own/deeplabv2_mini_msc/train_cls/checkpoint_final.pth").exists()
