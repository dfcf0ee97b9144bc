"""A part of VOC 2012 at reduced size as a data set of the ablation, laid out like the drawn ones."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

import gen_sal2gt
from benchmarks.common import quietly
from datasets.images import open_image, read_image
from datasets.labels import read_label, save_labels
from datasets.lists import Entry, image_path, read_list
from datasets.openmoji.dataset import labelled_iou
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import atomic_write, save_image, save_json

NUM_CLASSES = len(VOC_CLASSES) + 1
HALVES = {"choose": 0, "report": 1}  # every other validation image, from this one on


def shrink(source: Path, root: Path, id_: str, mask_dir: str, factor: int, saliency: bool) -> None:
    """Write a photograph, its mask and, for training images, its saliency map at 1 / factor of the size."""
    photograph = read_image(image_path(source / "JPEGImages", id_))
    size = photograph.shape[1] // factor, photograph.shape[0] // factor  # width, height
    reduced = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    save_image(root / "JPEGImages" / f"{id_}.png", Image.fromarray(reduced[..., ::-1]))
    mask = read_label(source / "SegmentationClassAug" / f"{id_}.png", NUM_CLASSES, photograph.shape[:2])
    save_labels(root / mask_dir / f"{id_}.png", cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))
    if saliency:
        with open_image(source / "saliency" / f"{id_}.png", ": --photos needs saliency maps") as image:
            grey = cv2.resize(np.array(image), size, interpolation=cv2.INTER_AREA)
        save_image(root / "saliency" / f"{id_}.png", Image.fromarray(grey))


def save_lines(path: Path, entries: list[Entry]) -> None:
    with atomic_write(path, "w") as file:
        file.writelines(" ".join(map(str, (entry.id, *entry.classes))) + "\n" for entry in entries)


def make_photographs(root: Path, source: Path | None, factor: int, half: str) -> float:
    """Create the data set in `root`, unless it is complete.

    Args:
        root: output directory; training masks are in `truth`, as no training may read them.
        source: JPEGImages, SegmentationClassAug, saliency (grey maps of the training images) and voc_list.
        factor: by which sides are divided.
        half: the half of the validation images, one of HALVES.

    Returns:
        The mean foreground IoU of the simple images' pseudo labels with their masks.
    """
    record = root / "dataset.json"
    if record.exists():
        return json.loads(record.read_text())["label_iou"]
    if source is None or not (source / "voc_list").is_dir():
        raise InputError(f"{source or '--photos'}: name a folder of VOC's layout with --photos, see --help")
    train = read_list(source / "voc_list/train_cls.txt", NUM_CLASSES)
    val = read_list(source / "voc_list/val.txt", NUM_CLASSES, labelled=False)[HALVES[half] :: 2]
    for folder in ("JPEGImages", "SegmentationClassAug", "truth", "saliency", "lists"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for entries, mask_dir in ((train, "truth"), (val, "SegmentationClassAug")):
        for entry in tqdm(entries, desc=mask_dir, unit="img"):
            shrink(source, root, entry.id, mask_dir, factor, saliency=mask_dir == "truth")
    save_lines(root / "lists/train_cls.txt", train)
    save_lines(root / "lists/val.txt", val)
    save_lines(root / "lists/class_names.txt", [Entry(name) for name in VOC_CLASSES])
    options = {
        "data-dir": root,
        "data-list": root / "lists/train_cls.txt",
        "saliency-dir": root / "saliency",
        "out": root / "sal2gt",
        "list-dir": root / "lists",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    quietly(gen_sal2gt.generate, gen_sal2gt.parse_args(words))
    ious = [
        labelled_iou(
            *(read_label(root / folder / f"{entry.id}.png", NUM_CLASSES) for folder in ("sal2gt", "truth"))
        )
        for entry in read_list(root / "lists/simple_list.txt", NUM_CLASSES)
    ]
    label_iou = float(np.mean(ious))
    save_json(record, {"label_iou": label_iou, "simple": len(ious), "train": len(train), "val": len(val)})
    return label_iou
