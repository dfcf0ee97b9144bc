"""Own pictures, saliency maps and labels, by the commands of the documents to a trained network."""

import json
from pathlib import Path

import numpy as np
from conftest import ROOT, flags, run_script
from PIL import Image

FORMATS = ("webp", "png", "bmp", "tif")


def make_own(data: Path, own: Path) -> None:
    """Three classes of the drawn data set as a user has them: any formats, grey maps, a list with suffixes, names."""
    for folder in ("JPEGImages", "saliency", "lists"):
        (own / folder).mkdir(parents=True)
    lines = []
    for k, line in enumerate((data / "lists/train_cls.txt").read_text().splitlines()):
        id_, *classes = line.split()
        name = f"{id_}.{FORMATS[k % len(FORMATS)]}"
        with Image.open(data / f"JPEGImages/{id_}.jpg") as picture:
            picture.save(own / f"JPEGImages/{name}")
        lines.append(" ".join((name, *classes)))
    for path in (data / "sal2gt").iterdir():
        with Image.open(path) as label:
            values = np.array(label)
        grey = np.where(values == 255, 120, np.where(values > 0, 250, 5)).astype(np.uint8)
        Image.fromarray(grey).resize((40, 32)).save(own / f"saliency/{path.name}")
    (own / "lists/train_cls.txt").write_text("\n".join(lines))
    (own / "classes.txt").write_text((data / "lists/class_names.txt").read_text())


def test_from_pictures_to_a_trained_network(tiny_data: Path, tmp_path: Path) -> None:
    own, snapshots = tmp_path / "own", tmp_path / "own/snapshots"
    make_own(tiny_data, own)
    train_cls, labels, names = own / "lists/train_cls.txt", own / "pseudo_labels", own / "classes.txt"
    data, classes, listed = flags(data_dir=own), flags(num_classes=4), flags(data_list=train_cls)
    made = flags(saliency_dir=own / "saliency", out=own / "sal2gt", list_dir=own / "lists")
    run_script("gen_sal2gt.py", *data, *classes, *listed, *made)
    lists = flags(list_dir=own / "lists", pseudo_label_dir=own / "sal2gt")
    run_script("check_data.py", *data, *classes, *lists, "--no-val")
    method = flags(class_names=names, iou_thresholds="auto", num_steps=4, batch_size=2, denoise_from=2)
    network = flags(arch="mini", restore_from="none", input_size="48,56", num_workers=0, device="cpu")
    saved = flags(snapshot_dir=snapshots)
    done = run_script("train.py", *data, *classes, *lists, *method, *network, *saved, "--no-val")
    assert "measured IoU thresholds: 0." in done.stdout and "no validation" in done.stdout
    weights, run = flags(restore_from=snapshots / "VOC_best.pth"), flags(device="cpu")
    predicted = flags(class_names=names, out=tmp_path / "predictions")
    run_script("predict.py", *weights, *run, *predicted, own / "JPEGImages")
    with Image.open(tmp_path / "predictions/simple_00001.png") as mask:
        assert mask.mode == "P" and mask.size == (80, 64)
    assert len(json.loads((tmp_path / "predictions/predictions.json").read_text())["pictures"]) == 20

    logits, written = flags(logit_dir=own / "logits"), flags(pseudo_label_dir=labels)
    run_script("gen_label.py", *data, *listed, *weights, *logits, *run, *flags(num_workers=0))
    run_script("gen_label_crf.py", *data, *classes, *listed, *logits, *written, *run, *flags(n_jobs=1))
    run_script("gen_label_mining.py", *classes, *listed, *written)
    dataset = {"ROOT": own, "PSEUDO_LABELS": labels, "LABELS": names, "N_CLASSES": 4, "SPLIT.TRAIN": train_cls}
    model = {"INIT_MODEL": snapshots / "VOC_best.pth", "NAME": "DeepLabV2_Mini_MSC", "N_BLOCKS": [1, 1, 2, 1]}
    config = {f"DATASET.{key}": value for key, value in dataset.items()}
    config |= {f"MODEL.{key}": value for key, value in model.items()}
    config |= {"DATASET.SPLIT.VAL": own / "lists/val.txt", "EXP.ID": "own", "EXP.OUTPUT_DIR": own / "step2"}
    config |= {
        "IMAGE.SIZE.TRAIN": 49,
        "SOLVER.ITER_MAX": 2,
        "SOLVER.BATCH_SIZE.TRAIN": 2,
        "DATALOADER.NUM_WORKERS": 0,
    }
    words = ["--config-path", "configs/voc12.yaml", "--cpu", *(f"{k}={v}" for k, v in config.items())]
    run_script("step2/main.py", "train", *words, cwd=ROOT / "step2")
    assert (own / "step2/models/own/deeplabv2_mini_msc/train_cls/checkpoint_final.pth").exists()
