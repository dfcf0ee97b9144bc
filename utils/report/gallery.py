"""Images of a run with their label maps: the best, the middle and the worst."""

import base64
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
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
from utils.report.collect import LabelMaps, RunOutputs

SIDE = 240  # pixels of the longer side of a picture in the page
SHEET_ROWS = (4, 0, 3)  # the best, the middle, the worst

Ranking = list[tuple[str, float | None]]  # (ID, mean IoU)


class Cell(NamedTuple):
    """One picture: an image (H x W x 3 RGB) or labels (H x W), with their scores if the truth is known."""

    title: str
    picture: np.ndarray
    scores: dict | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of image and its label maps. The images are ranked by the last of `columns`."""

    name: str
    ids: Sequence[str]
    images: Path
    truth: LabelMaps | None
    columns: Sequence[LabelMaps]

    def score(self, truth: np.ndarray, found: np.ndarray) -> dict:
        """Scores of one label map; pixels with the ignore label count as missed."""
        maps = self.columns[-1]
        confusion = ConfusionMatrix(maps.num_classes + 1, maps.ignore_label)
        found = np.where(found == maps.ignore_label, maps.num_classes, found)
        confusion.update(torch.from_numpy(truth), torch.from_numpy(found))
        return confusion.scores()

    def ranked(self, count: int) -> Ranking:
        """The best of at most `count` images, evenly spaced in the list, come first.

        Images without a readable label map are left out. Without the truth, the scores are None and the order is
        that of the list.
        """
        count, found = min(count, len(self.ids)), []
        ids = [self.ids[len(self.ids) * n // count] for n in range(count)]
        for id_ in tqdm(ids, desc=self.name, leave=False, unit="img"):
            with contextlib.suppress(InputError):
                if self.truth is not None:
                    truth = self.truth.read(id_)
                    labels = self.columns[-1].read(id_, truth.shape)
                    found.append((id_, self.score(truth, labels)["Mean IoU"]))
                elif self.columns[-1].exists(id_):
                    found.append((id_, None))
        return sorted(found, key=lambda item: (-(item[1] or 0), item[0])) if self.truth else found

    def cells(self, id_: str) -> list[Cell]:
        """The pictures of an image that exist."""
        cells, size, truth = [], None, None
        with contextlib.suppress(InputError):
            cells.append(Cell("image", read_image(image_path(self.images, id_))[:, :, ::-1]))
            size = cells[0].picture.shape[:2]
        with contextlib.suppress(InputError):
            if self.truth is not None:
                truth = self.truth.read(id_, size)
                cells.append(Cell("truth", truth))
                size = truth.shape
        for maps in self.columns:
            with contextlib.suppress(InputError):
                labels = maps.read(id_, size)
                cells.append(Cell(maps.title, labels, None if truth is None else self.score(truth, labels)))
        return cells


def choose(ranked: Ranking, best: int, middle: int, worst: int) -> dict[str, list[str]]:
    """IDs by group; a single group if there are few images, or if they have no scores."""
    ids, total = [id_ for id_, _ in ranked], best + middle + worst
    if ranked and ranked[0][1] is None:
        step = max(1, len(ids) / total)
        return {"A selection": [ids[int(n * step)] for n in range(min(total, len(ids)))]}
    if len(ids) <= total:
        return {"All, best first": ids}
    start = (len(ids) - middle) // 2
    groups = {"Best": ids[:best], "Middle": ids[start : start + middle], "Worst first": ids[-worst:][::-1]}
    return {title: group for title, group in groups.items() if group}


def kinds(run: RunOutputs) -> list[Kind]:
    """The validation, simple and complex training images that have a list and label maps."""
    lists, data = run.place("list_dir") or run.root / "lists", run.place("data_dir") or run.root
    stages = [run.label_maps(s.name, s.folder, s.name.startswith("stage 1")) for s in run.stages]
    steps = [
        run.label_maps("saliency label", run.place("saliency_label_dir")),
        run.label_maps("stage 1", run.place("train_logit_dir")),
        run.label_maps("stage 1 + CRF", run.place("train_crf_dir")),
        run.label_maps("pseudo label", run.place("pseudo_label_dir")),
    ]
    found = []
    for name, path, truth_dir, maps in (
        ("validation images", run.args.data_list or lists / "val.txt", "label_dir", stages),
        ("simple training images", lists / "simple_list.txt", "truth_dir", steps),
        ("complex training images", lists / "complex_list.txt", "truth_dir", steps[1:]),
    ):
        columns = [column for column in maps if column is not None]
        if not columns or not (path.is_file() or path == run.args.data_list):
            continue
        try:
            ids = [entry.id for entry in read_list(path, len(run.names), labelled=False)]
        except InputError as error:
            if path == run.args.data_list:
                raise
            run.problems.append(str(error))
            continue
        truth = run.label_maps("truth", run.place(truth_dir))
        known = truth is not None and any(truth.exists(id_) for id_ in ids)
        found.append(Kind(name, ids, data / "JPEGImages", truth if known else None, columns))
    return found


def data_uri(picture: np.ndarray) -> str:
    """A small copy of a picture as a data URI: labels as palette PNG, an image as JPEG."""
    file, labels = io.BytesIO(), picture.ndim == 2
    image = palette_image(picture) if labels else Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST if labels else Image.Resampling.LANCZOS)
    image.save(file, "PNG" if labels else "JPEG", optimize=True, quality=82)
    return f"data:image/{'png' if labels else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def contents(labels: np.ndarray, names: Sequence[str], ignore_label: int) -> str:
    """The classes of a label map with their shares, for alternative texts: `cat 24 %, ignored 3 %`."""
    pixels = np.bincount(labels.ravel(), minlength=256) / labels.size
    shown = sorted(((pixels[n], name) for n, name in enumerate(names) if n and pixels[n]), reverse=True)
    shown += [(pixels[ignore_label], "ignored")] * bool(pixels[ignore_label])
    return ", ".join(f"{name} {100 * share:.0f} %" for share, name in shown) or "only background"


def gallery_sheet(run: RunOutputs, side: int = 112) -> Image.Image | None:
    """The best and the worst simple training images beside validation images; None if there are no label maps."""
    halves = []
    for kind in sorted(kinds(run), key=lambda kind: kind.name):
        if kind.name.startswith(("simple", "validation")):
            groups = choose(kind.ranked(run.args.max_images), *SHEET_ROWS)
            cells = [kind.cells(id_) for ids in groups.values() for id_ in ids]
            image = f"{kind.name.split()[0]} image"
            halves.append([{c.title.replace("image", image): c.picture for c in row} for row in cells])
    if not any(halves):
        return None
    titles = [list(dict.fromkeys(title for row in rows for title in row)) for rows in halves]
    blank = np.full((side, side, 3), 255, np.uint8)
    grid = [
        [row.get(title, blank) for row, columns in zip(rows, titles) for title in columns]
        for rows in zip_longest(*halves, fillvalue={})
    ]
    legend = [*((name, label) for label, name in enumerate(run.names) if label), ("ignored", 255)]
    sheet = contact_sheet(grid, [title for columns in titles for title in columns], side, legend)
    return sheet.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
