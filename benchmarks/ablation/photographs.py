"""A part of VOC 2012 at reduced size as a data set of the ablation, laid out like the drawn ones."""

import json
from pathlib import Path

import cv2
from PIL import Image
from tqdm import tqdm

from benchmarks.ablation.script import script
from datasets.images import read_image
from datasets.labels import read_label, save_labels
from datasets.lists import image_path, read_list
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import save_image, save_json

NUM_CLASSES = len(VOC_CLASSES) + 1
FOLDERS = ("JPEGImages", "SegmentationClassAug", "saliency", "voc_list")


def shrink(source: Path, root: Path, id_: str, mask_dir: str, factor: int) -> None:
    """Write a photograph, its mask and, if there is one, its saliency map at 1 / factor of the size."""
    photograph = read_image(image_path(source / "JPEGImages", id_))
    size = photograph.shape[1] // factor, photograph.shape[0] // factor  # width, height
    reduced = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    save_image(root / "JPEGImages" / f"{id_}.png", Image.fromarray(reduced[..., ::-1]))
    mask = read_label(source / "SegmentationClassAug" / f"{id_}.png", NUM_CLASSES, photograph.shape[:2])
    save_labels(root / mask_dir / f"{id_}.png", cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))
    saliency = cv2.imread(str(source / "saliency" / f"{id_}.png"), cv2.IMREAD_GRAYSCALE)
    if saliency is not None:
        grey = cv2.resize(saliency, size, interpolation=cv2.INTER_AREA)
        save_image(root / "saliency" / f"{id_}.png", Image.fromarray(grey))


def make_photographs(root: Path, source: Path, factor: int, half: int) -> None:
    """Create the data set in `root`, unless it is complete.

    Args:
        root: output directory; training masks are in `truth`, as no training but that of the row `truth` reads them.
        source: JPEGImages, SegmentationClassAug, saliency (ID.png, of the one-class training images) and voc_list.
        factor: by which sides are divided.
        half: 0 or 1: from which validation image on every other one is used.

    Raises:
        InputError: `source` lacks a folder, or `root` was made from another one.
    """
    record, origin = root / "dataset.json", str(source.resolve())
    if record.exists():
        made_from = json.loads(record.read_text())["source"]
        if made_from != origin:
            raise InputError(f"{root} was made from {made_from}: use another --out")
        return
    missing = [name for name in FOLDERS if not (source / name).is_dir()]
    if missing:
        raise InputError(f"--photos {source} has no folder {missing[0]}; it needs {', '.join(FOLDERS)}")
    train = read_list(source / "voc_list/train_cls.txt", NUM_CLASSES)
    val = read_list(source / "voc_list/val.txt", NUM_CLASSES, labelled=False)[half::2]
    for folder in ("JPEGImages", "SegmentationClassAug", "truth", "saliency", "lists"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for entries, mask_dir in ((train, "truth"), (val, "SegmentationClassAug")):
        for entry in tqdm(entries, desc=mask_dir, unit="img"):
            shrink(source, root, entry.id, mask_dir, factor)
    lists = {
        "train_cls": [" ".join(map(str, (entry.id, *entry.classes))) for entry in train],
        "val": [entry.id for entry in val],
        "class_names": VOC_CLASSES,
    }
    for name, lines in lists.items():
        (root / f"lists/{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    options = {
        "data-dir": root,
        "data-list": root / "lists/train_cls.txt",
        "saliency-dir": root / "saliency",
        "out": root / "sal2gt",
        "list-dir": root / "lists",
    }
    script("gen_sal2gt", *(f"--{name}={path}" for name, path in options.items()))
    save_json(record, {"source": origin, "train": len(train), "val": len(val)})
