"""Images of a run with their label maps, the worst beside the best."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from datasets.lists import image_path, read_list
from datasets.transforms import read_image
from utils.core.errors import InputError
from utils.evaluation.metrics import ConfusionMatrix
from utils.evaluation.visualize import contact_sheet
from utils.report.collect import RunOutputs
from utils.report.places import LabelMaps, label_maps


class Cell(NamedTuple):
    """One picture: an image (H x W x 3 RGB) or labels (H x W), with its own mean IoU where the truth is known."""

    title: str
    picture: np.ndarray
    score: float | None = None


class Row(NamedTuple):
    """The pictures of one image, and the scores of the last of them."""

    id: str
    scores: dict | None
    cells: list[Cell]


@dataclass(frozen=True)
class Kind:
    """One kind of image: which there are, and where their pictures lie; the last of `columns` is what ranks them."""

    name: str
    ids: Sequence[str]
    images: Path | None
    truth: LabelMaps | None
    columns: Sequence[LabelMaps]
    num_classes: int
    ignore_label: int

    def labels(self, maps: LabelMaps, id_: str, size: tuple[int, int] | None = None) -> np.ndarray:
        return maps.read(id_, self.num_classes, size, self.ignore_label)

    def score(self, truth: np.ndarray, found: np.ndarray) -> dict:
        """Scores of one label map; the pixels that it ignores count as missed."""
        confusion = ConfusionMatrix(self.num_classes + 1, self.ignore_label)
        found = np.where(found == self.ignore_label, self.num_classes, found)
        confusion.update(torch.from_numpy(truth), torch.from_numpy(found))
        return confusion.scores()

    def ranked(self, count: int) -> tuple[list[tuple[str, float | None]], int]:
        """(ID, mean IoU), the best first, of at most `count` images spread over the list, and how many lack a label.

        Without the truth the scores are None, and the order is the list's.
        """
        ids = (
            [self.ids[len(self.ids) * n // count] for n in range(count)]
            if len(self.ids) > count
            else self.ids
        )
        found, lacking = [], 0
        for id_ in tqdm(ids, desc=self.name, leave=False, unit="img"):
            try:
                if self.truth is None:
                    if not self.columns[-1].path(id_).exists():
                        raise InputError(f"{self.columns[-1].path(id_)} not found")
                    found.append((id_, None))
                    continue
                truth = self.labels(self.truth, id_)
                labels = self.labels(self.columns[-1], id_, truth.shape)
                found.append((id_, self.score(truth, labels)["Mean IoU"]))
            except InputError:
                lacking += 1
        return sorted(found, key=lambda item: (-(item[1] or 0), item[0] if self.truth else "")), lacking

    def row(self, id_: str) -> Row:
        """All pictures of an image that are there."""
        cells, size, truth, scores = [], None, None, None
        with contextlib.suppress(InputError):
            image = read_image(image_path(self.images or Path(), id_))[:, :, ::-1]
            cells.append(Cell("image", image))
            size = image.shape[:2]
        with contextlib.suppress(InputError):
            if self.truth is not None:
                truth = self.labels(self.truth, id_, size)
                cells.append(Cell("truth", truth))
                size = truth.shape
        for maps in self.columns:
            try:
                labels = self.labels(maps, id_, size)
                scores = None if truth is None else self.score(truth, labels)
            except InputError:
                continue
            cells.append(Cell(maps.title, labels, scores and scores["Mean IoU"]))
        return Row(id_, scores, cells)


def choose(
    ranked: Sequence[tuple[str, float | None]], best: int, middle: int, worst: int
) -> dict[str, list[str]]:
    """IDs by group; all in one where there are no more than asked for, some of the list where nothing ranks them."""
    ids = [id_ for id_, _ in ranked]
    total = best + middle + worst
    if ranked and ranked[0][1] is None:
        return {
            "Some of them": [ids[len(ids) * n // total] for n in range(total)] if len(ids) > total else ids
        }
    if len(ids) <= total:
        return {"All, the best first": ids}
    start = (len(ids) - middle) // 2
    groups = {
        "The best": ids[:best],
        "In the middle": ids[start : start + middle],
        "The worst, the last of all first": ids[-worst:][::-1],
    }
    return {title: group for title, group in groups.items() if group}


def kinds(run: RunOutputs) -> list[Kind]:
    """Validation images, simple and complex training images, as far as there are lists and label maps of them."""
    lists, data = run.place("list_dir"), run.place("data_dir")
    images = None if data is None else data / "JPEGImages"
    train_logits = run.place("train_logit_dir")
    steps = [
        label_maps("saliency label", run.place("saliency_label_dir"), None),
        label_maps("stage 1", None, train_logits),
        label_maps("stage 1 + CRF", run.place("train_crf_dir"), None),
        label_maps("pseudo label", run.place("pseudo_label_dir"), None),
    ]
    val_list = run.args.data_list or (lists and lists / "val.txt")
    found = []
    for name, path, truth, columns in (
        ("validation images", val_list, "label_dir", [stage.maps for stage in run.stages]),
        ("simple training images", lists and lists / "simple_list.txt", "truth_dir", steps),
        ("complex training images", lists and lists / "complex_list.txt", "truth_dir", steps[1:]),
    ):
        columns = [maps for maps in columns if maps is not None]
        if not columns or path is None or not (path.is_file() or path == run.args.data_list):
            continue
        try:
            ids = [entry.id for entry in read_list(path, run.num_classes, labelled=False)]
        except InputError as error:
            if path == run.args.data_list:
                raise
            run.problems.append(str(error))
            continue
        masks = label_maps("truth", run.place(truth), None)
        if masks is not None and not any(masks.path(id_).exists() for id_ in ids):
            masks = None
        found.append(Kind(name, ids, images, masks, columns, run.num_classes, run.args.ignore_label))
    return found


def small(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture no longer than `side`; labels keep their values."""
    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    way = Image.Resampling.NEAREST if picture.ndim == 2 else Image.Resampling.LANCZOS
    return np.array(Image.fromarray(np.ascontiguousarray(picture)).resize(size, way))


def sheet(halves: Mapping[str, Sequence[Row]], names: Sequence[str], side: int = 112) -> Image.Image:
    """Kinds of images by name, side by side, in few colours: a picture for a README."""
    blank = np.full((side, side, 3), 255, np.uint8)
    titles = [list(dict.fromkeys(c.title for row in half for c in row.cells)) for half in halves.values()]

    def cells(row: Row, titles: Sequence[str]) -> list[np.ndarray]:
        by_title = {cell.title: cell.picture for cell in row.cells}
        return [by_title.get(title, blank) for title in titles]

    rows = zip_longest(*halves.values(), fillvalue=Row("", None, []))
    grid = [[picture for parts in zip(row, titles) for picture in cells(*parts)] for row in rows]
    legend = [*((name, label) for label, name in enumerate(names) if label), ("ignored", 255)]
    heads = [f"{half} {title}" if title == "image" else title
             for half, row in zip(halves, titles) for title in row]  # fmt: skip
    picture = contact_sheet(grid, heads, side, legend)
    return picture.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
