"""The best and the worst images of a run, with their label maps."""

import base64
import contextlib
import io
from itertools import zip_longest
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
    """One kind of image with the folders of its label maps by title. The last of them ranks the images."""

    name: str
    ids: list[str]
    truth: Path | None
    columns: dict[str, Path]


Gallery = list[tuple[Kind, dict[str, list[tuple[str, list[Cell]]]]]]  # kind, group, ID


def kinds(run: Run) -> list[Kind]:
    """The validation, simple and complex training images that have a list and label maps."""
    options = run.data_options
    lists = run.folder("data/lists", "dataset/voc_list", ".", recorded=options.get("list_dir")) or run.root
    val_list = Path(options.get("data_list") or "")
    val_list = val_list if val_list.is_file() else lists / "val.txt"
    truth = run.data / "SegmentationClassAug"
    train_truth = run.data / "truth" if (run.data / "truth").is_dir() else truth
    stages = {stage.name: stage.folder for stage in run.stages}
    labels = {
        "stage 1": run.folder("logit_train_aug", "logits"),
        "stage 1 + CRF": run.folder("labels/crf"),
        "pseudo label": run.folder("pseudo_labels"),
    }
    saliency = run.folder("data/sal2gt", "dataset/sal2gt", recorded=options.get("pseudo_label_dir"))
    found = [
        read_kind(run, "validation", val_list, Path(options.get("label_dir") or truth), stages),
        read_kind(run, "simple", lists / "simple_list.txt", train_truth, {"saliency label": saliency} | labels),
        read_kind(run, "complex", lists / "complex_list.txt", train_truth, labels),
    ]
    return [kind for kind in found if kind.ids and kind.columns]


def read_kind(run: Run, name: str, path: Path, truth: Path, maps: dict[str, Path | None]) -> Kind:
    """A kind of image with the label maps and the truth that exist; without IDs if it has no list."""
    entries = read_list(path, len(run.names), labelled=False) if path.is_file() else []
    known = any((truth / f"{entry.id}.png").exists() for entry in entries)
    columns = {title: folder for title, folder in maps.items() if folder is not None}
    return Kind(name, [entry.id for entry in entries], truth if known else None, columns)


def mean_iou(run: Run, truth: np.ndarray, labels: np.ndarray) -> float:
    """Mean IoU of one label map; pixels with the ignore label count as missed."""
    confusion = ConfusionMatrix(len(run.names) + 1, run.ignore_label)
    labels = np.where(labels == run.ignore_label, len(run.names), labels)
    confusion.update(torch.from_numpy(truth), torch.from_numpy(labels))
    return confusion.scores()["Mean IoU"]


def choose(run: Run, kind: Kind) -> dict[str, list[str]]:
    """IDs by group; without the truth, a selection in the order of the list."""
    number = min(len(kind.ids), RANKED if kind.truth else 2 * SHOWN)
    ids = [kind.ids[len(kind.ids) * n // number] for n in range(number)]
    if kind.truth is None:
        return {"A selection": ids}
    scored, ranking = [], list(kind.columns.values())[-1]
    for id_ in tqdm(ids, desc=kind.name, leave=False, unit="img"):
        with contextlib.suppress(InputError):  # without a readable label map
            truth = run.read_labels(kind.truth, id_)
            scored.append((-mean_iou(run, truth, run.read_labels(ranking, id_, truth.shape)), id_))
    ids = [id_ for _, id_ in sorted(scored)]
    return {"Best": ids[:SHOWN], "Worst first": ids[SHOWN:][: -SHOWN - 1 : -1]}


def cells(run: Run, kind: Kind, id_: str) -> list[Cell]:
    """The pictures of an image that exist."""
    found, size, truth = [], None, None
    with contextlib.suppress(InputError):
        image = read_image(image_path(run.data / "JPEGImages", id_))[:, :, ::-1]
        found, size = [Cell("image", image)], (image.shape[0], image.shape[1])
    with contextlib.suppress(InputError):
        if kind.truth is not None:
            truth = run.read_labels(kind.truth, id_, size)
            found.append(Cell("truth", truth))
    for title, folder in kind.columns.items():
        with contextlib.suppress(InputError):
            labels = run.read_labels(folder, id_, size)
            found.append(Cell(title, labels, None if truth is None else mean_iou(run, truth, labels)))
    return found


def data_uri(picture: np.ndarray) -> str:
    """A small copy of a picture as a data URI: labels as palette PNG, an image as JPEG."""
    file, labels = io.BytesIO(), picture.ndim == 2
    image = palette_image(picture) if labels else Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST if labels else Image.Resampling.LANCZOS)
    image.save(file, "PNG" if labels else "JPEG", optimize=True, quality=82)
    return f"data:image/{'png' if labels else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def read_gallery(run: Run) -> Gallery:
    """The best and the worst images of each kind."""
    return [
        (kind, {group: [(id_, cells(run, kind, id_)) for id_ in ids] for group, ids in choose(run, kind).items()})
        for kind in kinds(run)
    ]


def gallery_sheet(gallery: Gallery, names: list[str]) -> Image.Image | None:
    """A few simple training images beside validation images; None if there are no label maps."""
    halves = []
    for kind, groups in sorted(gallery, key=lambda item: item[0].name):
        if kind.name != "complex":
            rows = [row for group, count in zip(groups.values(), (4, 3)) for _, row in group[:count]]
            first = {"image": f"{kind.name} image"}
            halves.append([{first.get(c.title, c.title): c.picture for c in row} for row in rows])
    if not any(halves):
        return None
    columns = [list(dict.fromkeys(title for row in rows for title in row)) for rows in halves]
    blank = np.full((GALLERY_SIDE, GALLERY_SIDE, 3), 255, np.uint8)
    grid = [
        [row.get(title, blank) for row, titles in zip(rows, columns) for title in titles]
        for rows in zip_longest(*halves, fillvalue={})
    ]
    legend = [*((name, label) for label, name in enumerate(names) if label), ("ignored", 255)]
    sheet = contact_sheet(grid, [title for titles in columns for title in titles], GALLERY_SIDE, legend)
    return sheet.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
