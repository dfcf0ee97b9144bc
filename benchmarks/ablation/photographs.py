"""A part of VOC 2012 at reduced size as a data set of the ablation, laid out like the drawn ones."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

import gen_sal2gt
from benchmarks.common import quietly
from datasets.images import read_image
from datasets.labels import read_label, save_labels
from datasets.lists import image_path, read_list
from datasets.openmoji.dataset import labelled_iou
from datasets.splits import write_list
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import save_image, save_json

NUM_CLASSES = len(VOC_CLASSES) + 1
HALVES = {"choose": 0, "report": 1}  # every other validation image, from this one on


def shrink(source: Path, root: Path, id_: str, mask_dir: str, factor: int, saliency: Path | None) -> None:
    """Write a photograph, its mask and, if there is one, its saliency map at 1 / factor of the size."""
    photograph = read_image(image_path(source / "JPEGImages", id_))
    size = photograph.shape[1] // factor, photograph.shape[0] // factor  # width, height
    reduced = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    save_image(root / "JPEGImages" / f"{id_}.png", Image.fromarray(reduced[..., ::-1]))
    mask = read_label(source / "SegmentationClassAug" / f"{id_}.png", NUM_CLASSES, photograph.shape[:2])
    save_labels(root / mask_dir / f"{id_}.png", cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))
    if saliency is not None:
        grey = cv2.resize(gen_sal2gt.read_saliency(saliency), size, interpolation=cv2.INTER_AREA)
        save_image(root / "saliency" / f"{id_}.png", Image.fromarray(grey))


def make_photographs(root: Path, source: Path | None, factor: int, half: str) -> float:
    """Create the data set in `root`, unless it is complete.

    Args:
        root: output directory; training masks are in `truth`, as no training may read them.
        source: JPEGImages, SegmentationClassAug, saliency (maps of the one-class training images) and voc_list.
        factor: by which sides are divided.
        half: the half of the validation images, one of HALVES.

    Returns:
        The mean foreground IoU of the simple images' pseudo labels with their masks.

    Raises:
        InputError: `source` lacks a file, or `root` was made from another one.
    """
    record, origin = root / "dataset.json", str(source and source.resolve())
    if record.exists():
        found = json.loads(record.read_text())
        if source is not None and found["source"] != origin:
            raise InputError(f"{root} was made from {found['source']}: use another --out")
        return found["label_iou"]
    if source is None or not (source / "voc_list").is_dir():
        needs = "--photos must name a directory with JPEGImages, SegmentationClassAug, saliency and voc_list"
        raise InputError(f"{source}: {needs}" if source else needs)
    train = read_list(source / "voc_list/train_cls.txt", NUM_CLASSES)
    val = read_list(source / "voc_list/val.txt", NUM_CLASSES, labelled=False)[HALVES[half] :: 2]
    for folder in ("JPEGImages", "SegmentationClassAug", "truth", "saliency", "lists"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    single = [entry for entry in train if len(set(entry.classes)) == 1]
    maps = gen_sal2gt.find_maps(source / "saliency", single, skip_missing=False)
    for entries, mask_dir in ((train, "truth"), (val, "SegmentationClassAug")):
        for entry in tqdm(entries, desc=mask_dir, unit="img"):
            shrink(source, root, entry.id, mask_dir, factor, maps.get(entry.id))
    write_list(root / "lists/train_cls.txt", train, overwrite=True)
    write_list(root / "lists/val.txt", val, overwrite=True)
    (root / "lists/class_names.txt").write_text("".join(f"{name}\n" for name in VOC_CLASSES))
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
    counts = {"simple": len(ious), "train": len(train), "val": len(val)}
    save_json(record, {"source": origin, "label_iou": label_iou, **counts})
    return label_iou
