"""Builds lists, data sets, networks and output paths of stage 2 from its configuration."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.checks import WARNING, Problem, check_start, warn
from datasets.labels import read_label
from datasets.lists import Entry, read_class_names, read_list
from step2.libs.config import Config
from step2.libs.datasets.pseudo_labelled import PseudoLabelDataset, Stage2Config
from step2.libs.models import build_model
from step2.libs.models.msc import MSC
from utils.core.errors import InputError


class Paths:
    """Paths of the outputs (models/, features/ and scores/ in EXP.OUTPUT_DIR) and of the ground truth."""

    def __init__(self, config: Config) -> None:
        def folder(kind: str, split: str) -> Path:
            return Path(config.EXP.OUTPUT_DIR) / kind / config.EXP.ID / config.MODEL.NAME.lower() / split

        train, val = (Path(split).stem for split in (config.DATASET.SPLIT.TRAIN, config.DATASET.SPLIT.VAL))
        self.models = folder("models", train)
        self.logits = folder("features", val) / "logit"
        self.crf = folder("features", val) / "crf"
        self.scores = folder("scores", val)
        self.truth = Path(config.DATASET.ROOT) / "SegmentationClassAug"


def split_path(split: str) -> Path:
    """The list file of a split: a path, or a name in ../dataset/voc_list."""
    return Path(split) if split.endswith(".txt") else Path("../dataset/voc_list") / f"{split}.txt"


def read_split(config: Config, split: str) -> list[Entry]:
    """Read the image list of a split."""
    return read_list(split_path(split), config.DATASET.N_CLASSES, labelled=False)


def data_config(config: Config, label_dir: Path, seed: int = 0) -> Stage2Config:
    mean = config.IMAGE.MEAN
    return Stage2Config(
        image_dir=Path(config.DATASET.ROOT) / "JPEGImages",
        label_dir=label_dir,
        crop=(config.IMAGE.SIZE.TRAIN,) * 2,
        num_classes=config.DATASET.N_CLASSES,
        ignore_label=config.DATASET.IGNORE_LABEL,
        seed=seed,
        mean_bgr=(mean.B, mean.G, mean.R),
        factors=config.DATASET.SCALES,
    )


def build(config: Config) -> MSC:
    model, data = config.MODEL, config.DATASET
    return build_model(model.NAME, data.N_CLASSES, model.N_BLOCKS, model.ATROUS_RATES)


def class_names(config: Config) -> list[str]:
    return read_class_names(config.DATASET.LABELS, config.DATASET.N_CLASSES)


def check_training(images: PseudoLabelDataset, config: Config, paths: Paths, truth_allowed: bool) -> None:
    """Check that training images and labels exist and that the labels are not the ground truth.

    Raises:
        InputError: a file is missing, or the labels are the ground truth and `truth_allowed` is false.
    """
    folder = Path(config.DATASET.PSEUDO_LABELS)
    missing = [e.id for e in images.entries if not images.label_path(e).exists()]
    if missing:
        raise InputError(
            f"{folder} lacks the pseudo labels of {len(missing)} of {len(images)} images, first {missing[0]}:"
            " generate them with gen_label.py, gen_label_crf.py and gen_label_mining.py, or remove the images from"
            " DATASET.SPLIT.TRAIN"
        )
    same_folder = folder.resolve() == paths.truth.resolve()
    if not truth_allowed and (same_folder or equal_ground_truth(images, paths.truth)):
        raise InputError(
            f"{folder} is the ground truth, not pseudo labels: set DATASET.PSEUDO_LABELS, or use"
            " --train-on-ground-truth if this is intended"
        )
    check_start(split_path(config.DATASET.SPLIT.TRAIN), images.entries, images.files())
    warn_overlap(config, images.entries)


def equal_ground_truth(images: PseudoLabelDataset, truth_dir: Path, count: int = 20) -> bool:
    """Whether the first `count` labels that have a ground truth are equal to it."""
    options = images.config.num_classes, None, images.config.ignore_label
    pairs = [(images.label_path(e), truth_dir / f"{e.id}.png") for e in images.entries]
    pairs = [(label, truth) for label, truth in pairs if truth.exists()][:count]
    equal = (np.array_equal(read_label(a, *options), read_label(b, *options)) for a, b in pairs)
    return bool(pairs) and all(equal)


def warn_overlap(config: Config, entries: Sequence[Entry]) -> None:
    """Warn if the validation list exists and contains training images."""
    train, val = (split_path(s) for s in (config.DATASET.SPLIT.TRAIN, config.DATASET.SPLIT.VAL))
    if val.exists() and val != train:
        listed = {entry.id for entry in read_split(config, str(val))}
        text = f"also in {val.name}, whose scores are then meaningless"
        warn(train, (Problem(WARNING, text, entry.id) for entry in entries if entry.id in listed))
