"""Where the scripts leave their files: below the folder of a run, or where options say."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from datasets.labels import read_label
from utils.core.errors import InputError
from utils.core.files import read_array
from utils.evaluation.inference import full_size

# For each option, its help and where it points below the run's folder; the first that exists is taken.
PLACES = {
    "data_dir": ("folder with JPEGImages/ID.jpg", ("data", "dataset/VOC2012", ".")),
    "list_dir": ("folder of simple_list.txt and complex_list.txt", ("data/lists", "dataset/voc_list", "lists")),
    "label_dir": ("true labels of the validation images", ("data/SegmentationClassAug",
                  "dataset/VOC2012/SegmentationClassAug", "SegmentationClassAug")),
    "truth_dir": ("true labels of the training images, where they are known", ("data/truth",
                  "dataset/VOC2012/SegmentationClassAug", "SegmentationClassAug")),
    "saliency_label_dir": ("saliency labels of the simple images", ("data/sal2gt", "dataset/sal2gt", "sal2gt")),
    "snapshot_dir": ("what train.py left", ("snapshots",)),
    "score_dir": ("scores.json, scores_crf.json", ("scores",)),
    "prediction_dir": ("label maps of stage 1 on the validation images", ("labels/val",)),
    "logit_dir": ("logits of the validation images", ("logit_val",)),
    "crf_dir": ("label maps after the CRF", ("labels/val_crf", "crf_val")),
    "train_logit_dir": ("logits of the training images", ("logit_train_aug", "logit_train")),
    "train_crf_dir": ("pseudo labels before the mining", ("labels/crf",)),
    "pseudo_label_dir": ("pseudo labels for stage 2", ("pseudo_labels",)),
    "step2_dir": ("what stage 2 left: models, features, scores", ("step2/data", "step2")),
}  # fmt: skip
# What tells a folder of the kind from another of the name.
HOLDS = {"data_dir": ("JPEGImages",), "step2_dir": ("models", "features", "scores")}
# The same place in the options of train.py, which run.json holds.
TRAINED_WITH = {"data_dir": "data_dir", "list_dir": "list_dir", "saliency_label_dir": "pseudo_label_dir"}


@dataclass(frozen=True)
class LabelMaps:
    """Label maps that one step made: palette PNGs, or the logits that they follow from."""

    title: str
    folder: Path
    align_corners: bool | None = None  # of the logits' resize; None: PNGs

    def path(self, id_: str) -> Path:
        return self.folder / f"{id_}.{'png' if self.align_corners is None else 'npy'}"

    def read(self, id_: str, num_classes: int, size: tuple[int, int] | None, ignore_label: int) -> np.ndarray:
        """H x W uint8 labels of an image of `size` (H, W); InputError where there are none."""
        if self.align_corners is None:
            return read_label(self.path(id_), num_classes, size, ignore_label)
        logits = torch.from_numpy(read_array(self.path(id_), "evaluate the image"))
        if size is None or logits.ndim != 3 or len(logits) != num_classes:
            raise InputError(
                f"{self.path(id_)}: logits of {num_classes} classes and the image's size are due"
            )
        return full_size(logits[None].float(), size, self.align_corners).argmax(1)[0].to(torch.uint8).numpy()


def label_maps(
    title: str, pngs: Path | None, npys: Path | None, align_corners: bool = True
) -> LabelMaps | None:
    """The label maps of a folder of PNGs or, without it, of one of logits."""
    if pngs is not None:
        return LabelMaps(title, pngs)
    return None if npys is None else LabelMaps(title, npys, align_corners)


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """An option for every place, for those that are not found by themselves."""
    add = parser.add_argument_group("places, where they are not below --run").add_argument
    for name, (text, below) in PLACES.items():
        add(f"--{name.replace('_', '-')}", type=Path, metavar="DIR", help=f"{text} ({' or '.join(below)})")


def find_place(name: str, args: argparse.Namespace, trained_with: dict) -> Path | None:
    """The folder that an option names, the training's options, or the layout below --run; None: there is none.

    Raises:
        InputError: the option names a folder that is missing.
    """
    given = getattr(args, name)
    if given is not None:
        if not given.is_dir():
            raise InputError(f"--{name.replace('_', '-')} {given} not found: name an existing folder")
        return given
    trained = trained_with.get(TRAINED_WITH.get(name))
    places = [Path(trained)] if isinstance(trained, str) else []
    if (
        name in ("label_dir", "truth_dir")
        and (data := find_place("data_dir", args, trained_with)) is not None
    ):
        places += [data / "truth"] * (name == "truth_dir") + [data / "SegmentationClassAug"]
    places += [args.run / below for below in PLACES[name][1]]
    return next((p for p in places if any((p / held).is_dir() for held in HOLDS.get(name, (".",)))), None)
