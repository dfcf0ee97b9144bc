"""A part of VOC 2012 at reduced size as a data set of the ablation, laid out like the drawn ones."""

import json
from pathlib import Path

import cv2
from PIL import Image
from tqdm import tqdm

from benchmarks.ablation.run import script
from datasets.images import read_image
from datasets.labels import read_label, save_labels
from datasets.lists import Entry, image_path, read_list, write_list
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import save_image, save_json

NUM_CLASSES = len(VOC_CLASSES) + 1


def make_photographs(root: Path, source: Path, factor: int, half: int) -> None:
    """Create the data set in `root`, unless it is complete. Training masks are in `truth`.

    Args:
        source: JPEGImages, SegmentationClassAug, saliency (ID.png, of the one-class training images) and voc_list.
        factor: by which sides are divided.
        half: 0 or 1: from which validation image on every other one is used.
    """
    record, origin = root / "dataset.json", str(source.resolve())
    if record.exists():
        made_from = json.loads(record.read_text())["source"]
        if made_from != origin:
            raise InputError(f"{root} was made from {made_from}: use another --out")
        return
    train = read_list(source / "voc_list/train_cls.txt", NUM_CLASSES)
    val = read_list(source / "voc_list/val.txt", NUM_CLASSES, labelled=False)[half::2]
    for entries, mask_dir in ((train, root / "truth"), (val, root / "SegmentationClassAug")):
        for entry in tqdm(entries, desc=mask_dir.name, unit="img"):
            shrink(source, root, entry.id, mask_dir, factor)
    write_list(root / "lists/train_cls.txt", train, overwrite=True)
    write_list(root / "lists/val.txt", [Entry(entry.id) for entry in val], overwrite=True)
    (root / "lists/class_names.txt").write_text("".join(f"{name}\n" for name in VOC_CLASSES))
    data = f"--data-dir={root}", f"--data-list={root}/lists/train_cls.txt", f"--saliency-dir={root}/saliency"
    script("gen_sal2gt", *data, f"--out={root}/sal2gt", f"--list-dir={root}/lists")
    save_json(record, {"source": origin, "train": len(train), "val": len(val)})


def shrink(source: Path, root: Path, id_: str, mask_dir: Path, factor: int) -> None:
    """Write a photograph, its mask and, if there is one, its saliency map at 1 / factor of the size."""
    photograph = read_image(image_path(source / "JPEGImages", id_))
    size = photograph.shape[1] // factor, photograph.shape[0] // factor  # width, height
    reduced = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    save_image(root / f"JPEGImages/{id_}.png", Image.fromarray(reduced[..., ::-1]))
    mask = read_label(source / f"SegmentationClassAug/{id_}.png", NUM_CLASSES, photograph.shape[:2])
    save_labels(mask_dir / f"{id_}.png", cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))
    saliency = cv2.imread(str(source / f"saliency/{id_}.png"), cv2.IMREAD_GRAYSCALE)
    if saliency is not None:
        grey = cv2.resize(saliency, size, interpolation=cv2.INTER_AREA)
        save_image(root / f"saliency/{id_}.png", Image.fromarray(grey))
