"""Builds lists, data sets, networks and output paths of stage 2 from its configuration."""

from pathlib import Path

import numpy as np

from datasets.checks import WARNING, check_start, warn
from datasets.labels import read_label
from datasets.lists import Entry, read_class_names, read_list
from step2.libs.config import Config
from step2.libs.datasets.pseudo_labelled import PseudoLabelDataset, Stage2Config
from step2.libs.models import MSC, build_model
from utils.core.distributed import is_main
from utils.core.errors import InputError


class Paths:
    """Paths of the outputs (models/, features/ and scores/ in EXP.OUTPUT_DIR) and of the ground truth."""

    def __init__(self, config: Config) -> None:
        def folder(kind: str, split: str) -> Path:
            return Path(config.EXP.OUTPUT_DIR) / kind / config.EXP.ID / config.MODEL.NAME.lower() / Path(split).stem

        train, val = config.DATASET.SPLIT.TRAIN, config.DATASET.SPLIT.VAL
        self.models, self.scores = folder("models", train), folder("scores", val)
        self.logits, self.crf = folder("features", val) / "logit", folder("features", val) / "crf"
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


def training_images(config: Config, seed: int, truth_allowed: bool) -> PseudoLabelDataset:
    """The training images and their pseudo labels, which must exist and not be the ground truth."""
    folder, split, truth = Path(config.DATASET.PSEUDO_LABELS), config.DATASET.SPLIT, Paths(config).truth
    images = PseudoLabelDataset(read_split(config, split.TRAIN), data_config(config, folder, seed))
    if is_main():
        print(f"training labels: {folder.resolve()} ({len(images)} images)")
    train, val = split_path(split.TRAIN), split_path(split.VAL)
    check_start(train, images.entries, images.files(), images.origin)
    if not truth_allowed and (folder.resolve() == truth.resolve() or equal_ground_truth(images, truth)):
        raise InputError(
            f"{folder} is the ground truth, not pseudo labels: set DATASET.PSEUDO_LABELS, or use"
            " --train-on-ground-truth if this is intended"
        )
    if val.exists() and val != train:
        listed = {entry.id for entry in read_split(config, split.VAL)}
        text = f"also in {val.name}, whose scores are then meaningless"
        warn(train, ((WARNING, text, entry.id) for entry in images.entries if entry.id in listed))
    return images


def equal_ground_truth(images: PseudoLabelDataset, truth_dir: Path, count: int = 20) -> bool:
    """Whether the first `count` labels that have a ground truth are equal to it."""
    options = images.config.num_classes, None, images.config.ignore_label
    pairs = [(images.label_path(e), truth_dir / f"{e.id}.png") for e in images.entries]
    pairs = [(label, truth) for label, truth in pairs if truth.exists()][:count]
    equal = (np.array_equal(read_label(a, *options), read_label(b, *options)) for a, b in pairs)
    return bool(pairs) and all(equal)
