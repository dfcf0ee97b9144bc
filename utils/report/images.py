"""The best and the worst images of a run, with their label maps."""

import base64
import contextlib
import io
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from datasets.images import read_image
from datasets.labels import palette_image
from datasets.lists import image_path, read_list
from utils.core.errors import InputError
from utils.evaluation.metrics import ConfusionMatrix
from utils.evaluation.visualize import contact_sheet
from utils.report.run import Run

RANKED = 1500  # images of a kind, evenly spaced in their list; all of VOC's validation images
SHOWN = 8  # of them, the best and the worst
SIDE = 240  # pixels of the longer side of a picture in the page
GALLERY_SIDE = 112  # and in the gallery


class Cell(NamedTuple):
    """One picture: an image (H x W x 3 RGB) or labels (H x W), with its mean IoU if the truth is known."""

    title: str
    picture: np.ndarray
    score: float | None = None


class Kind(NamedTuple):
    """One kind of image, with the IDs and the pictures of the best and the worst."""

    name: str
    note: str
    groups: dict[str, list[tuple[str, list[Cell]]]]


def read_gallery(run: Run) -> list[Kind]:
    """The validation, simple and complex training images that have a list and label maps."""
    options = run.options
    lists = run.folder("data/lists", "dataset/voc_list", ".", recorded=options.get("list_dir")) or run.root
    val_list = Path(options.get("data_list") or "")
    truth = run.data / "SegmentationClassAug"
    train_truth = run.data / "truth" if (run.data / "truth").is_dir() else truth
    saliency = run.folder("data/sal2gt", "dataset/sal2gt", recorded=options.get("pseudo_label_dir"))
    labels = {
        "stage 1": run.folder("logit_train_aug", "logits"),
        "stage 1 + CRF": run.folder("labels/crf"),
        "pseudo label": run.folder("pseudo_labels"),
    }
    stages = {stage.name: stage.folder for stage in run.stages}
    val_list = val_list if val_list.is_file() else lists / "val.txt"
    kinds = [
        read_kind(run, "validation", val_list, Path(options.get("label_dir") or truth), stages),
        read_kind(run, "simple", lists / "simple_list.txt", train_truth, {"saliency label": saliency} | labels),
        read_kind(run, "complex", lists / "complex_list.txt", train_truth, labels),
    ]
    return [kind for kind in kinds if kind.groups]


def read_kind(run: Run, name: str, path: Path, truth: Path, maps: dict[str, Path | None]) -> Kind:
    """A kind of image, ranked by the last of the label maps; without groups if it has no list or no label maps."""
    ids = [entry.id for entry in read_list(path, len(run.names), labelled=False)] if path.is_file() else []
    folders = {title: folder for title, folder in maps.items() if folder is not None}
    if not ids or not folders:
        return Kind(name, "", {})
    known = any((truth / f"{id_}.png").exists() for id_ in ids)
    number = min(len(ids), RANKED if known else 2 * SHOWN)
    chosen = [ids[len(ids) * n // number] for n in range(number)]
    if known:
        title, ranking = list(folders.items())[-1]
        note = f"ranked by the mean IoU of “{title}” over the classes in the truth, the last number of a row in %"
        chosen = rank(run, chosen, truth, ranking)
        groups = {"Best": chosen[:SHOWN], "Worst first": chosen[SHOWN:][: -SHOWN - 1 : -1]}
        folders = {"truth": truth} | folders
    else:
        note, groups = "in the order of the list: their truth is not known", {"A selection": chosen}
    rows = {group: [(id_, cells(run, name, folders, id_)) for id_ in ids] for group, ids in groups.items()}
    return Kind(name, f"{len(ids)} images, {note}.", rows)


def rank(run: Run, ids: list[str], truth_dir: Path, folder: Path) -> list[str]:
    """The IDs with a readable label map, the best first."""
    scored = []
    for id_ in tqdm(ids, desc=folder.name, leave=False, unit="img"):
        with contextlib.suppress(InputError):
            truth = run.read_labels(truth_dir, id_)
            scored.append((-mean_iou(run, truth, run.read_labels(folder, id_, truth.shape)), id_))
    return [id_ for _, id_ in sorted(scored)]


def cells(run: Run, name: str, folders: dict[str, Path], id_: str) -> list[Cell]:
    """The pictures of an image that exist."""
    found, size, truth = [], None, None
    with contextlib.suppress(InputError):
        image = read_image(image_path(run.data / "JPEGImages", id_))[:, :, ::-1]
        found, size = [Cell(f"{name} image", image)], (image.shape[0], image.shape[1])
    for title, folder in folders.items():
        with contextlib.suppress(InputError):
            labels = run.read_labels(folder, id_, size)
            found.append(Cell(title, labels, None if truth is None else mean_iou(run, truth, labels)))
            truth = labels if title == "truth" else truth
    return found


def mean_iou(run: Run, truth: np.ndarray, labels: np.ndarray) -> float:
    """Mean IoU of one label map; pixels with the ignore label count as missed."""
    confusion = ConfusionMatrix(len(run.names) + 1, run.ignore_label)
    labels = np.where(labels == run.ignore_label, len(run.names), labels)
    confusion.update(torch.from_numpy(truth), torch.from_numpy(labels))
    return confusion.scores()["Mean IoU"]


def picture_uri(picture: np.ndarray) -> str:
    """A small copy of a picture as a data URI: labels as palette PNG, an image as JPEG."""
    file, labels = io.BytesIO(), picture.ndim == 2
    image = palette_image(picture) if labels else Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST if labels else Image.Resampling.LANCZOS)
    image.save(file, "PNG" if labels else "JPEG", optimize=True, quality=82)
    return f"data:image/{'png' if labels else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def gallery_sheet(gallery: list[Kind], names: list[str]) -> Image.Image:
    """A few simple training images beside validation images."""
    halves, titles = [], []
    for kind in sorted(gallery):
        if kind.name != "complex":
            rows = [row for group, count in zip(kind.groups.values(), (4, 3)) for _, row in group[:count]]
            halves.append([{cell.title: cell.picture for cell in row} for row in rows])
            titles.append(list(dict.fromkeys(cell.title for row in rows for cell in row)))
    blank = np.full((GALLERY_SIDE, GALLERY_SIDE, 3), 255, np.uint8)
    grid = [
        [row.get(title, blank) for row, columns in zip(rows, titles) for title in columns]
        for rows in zip_longest(*halves, fillvalue={})
    ]
    legend = [*((name, label) for label, name in enumerate(names) if label), ("ignored", 255)]
    sheet = contact_sheet(grid, [*chain(*titles)], GALLERY_SIDE, legend)
    return sheet.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
