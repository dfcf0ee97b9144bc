"""The settings and the rows of the ablation, and the trainings that they need."""

import json
import shlex
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.ablation.photographs import make_photographs
from datasets.openmoji.dataset import Recipe, make_dataset
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError

PARTS = ("cls", "onf", "pnd", "s2c", "c2s")
ROWS = {
    "plain": "cross-entropy on all labels",
    "cls": "+ classification",
    "cls+onf": "+ ONF",
    "cls+onf+pnd": "+ PND",
    "cls+onf+pnd+s2c": "+ S2C",
    "full": "+ C2S: the full method",
    "full-cls": "full without classification",
    "full-onf": "full without ONF",
    "full-pnd": "full without PND",
    "full-s2c": "full without S2C",
    "full-c2s": "full without C2S",
    "truth": "cross-entropy on the true masks of the simple images",
}
Noise = tuple[float, float]  # share of the images with a wrong object, and with a wrong border


@dataclass(frozen=True)
class Drawn:
    """An experiment on drawn images, new ones for each seed: their numbers and side, and options of train.py."""

    classes: tuple[str, ...]
    simple: int
    complex: int
    val: int
    size: int
    options: str

    def make_data(self, out: Path, seed: int, noise: Noise, photos: Path | None) -> Path:
        root = out / f"{zlib.crc32(repr(self).encode()):08x}_{seed}_{noise[0]}_{noise[1]}"
        counts = self.simple, self.complex, self.val
        make_dataset(root, Recipe(self.classes, *counts, (self.size, self.size), seed, *noise))
        return root


@dataclass(frozen=True)
class Photographs:
    """An experiment on photographs with saliency maps, the same for all seeds and with no noise but their own."""

    half: int  # every other validation image, from this one on
    shrink: int  # by which the sides are divided
    options: str  # of train.py; {photos} is the folder of --photos
    classes: tuple[str, ...] = VOC_CLASSES

    def make_data(self, out: Path, seed: int, noise: Noise, photos: Path | None) -> Path:
        if photos is None:
            raise InputError("this --setting needs --photos DIR")
        root = out / f"photos_{self.shrink}_{self.half}"
        make_photographs(root, photos, self.shrink, self.half)
        return root


# Half-size photographs, and a small network that knows photographs.
PHOTO_OPTIONS = (
    "--arch mobilenet_v2 --restore-from {photos}/mobilenet_v2_imagenet.pth --input-size 161 --batch-size 8"
    " --random-mirror --num-steps 1000 --learning-rate 0.002 --denoise-from 500 --high-T 3 --low-T 1.5"
    " --iou-thresholds auto --save-pred-every 250 --save-every 100 --channels-last --num-workers 0"
)
# The network has no pre-training and must learn before its predictions can filter labels.
DRAWN_OPTIONS = (
    "--arch mini --restore-from none --input-size 65 --batch-size 8 --random-mirror --num-steps 400"
    " --learning-rate 0.005 --denoise-from 240 --high-T 3 --low-T 1.5 --iou-thresholds 0.3"
    " --save-pred-every 80 --channels-last --num-workers 0"
)
SETTINGS: dict[str, Drawn | Photographs] = {
    "small": Drawn(("bus", "cat", "horse", "tvmonitor"), 600, 300, 200, 84, DRAWN_OPTIONS),
    "photos": Photographs(1, 2, PHOTO_OPTIONS),
    "photos-choose": Photographs(0, 2, PHOTO_OPTIONS),
}


@dataclass(frozen=True)
class Run:
    """One training: everything that its result depends on."""

    setting: Drawn | Photographs
    parts: tuple[str, ...]
    labels: str  # folder of the training labels in the data set: `sal2gt` or `truth`
    seed: int
    noise: Noise
    options: str  # override the setting's

    @property
    def key(self) -> str:
        """A checksum that does not depend on the name of the row."""
        return f"{zlib.crc32(json.dumps(asdict(self), sort_keys=True).encode()):08x}"

    @property
    def name(self) -> str:
        return f"{'+'.join(self.parts) or 'plain'} on {self.labels}, seed {self.seed} ({self.key})"

    def train_options(self, data: Path, photos: Path | None) -> list[str]:
        """The options of train.py, except for --snapshot-dir and --device."""
        return [
            f"--data-dir={data}",
            f"--list-dir={data}/lists",
            f"--pseudo-label-dir={data}/{self.labels}",
            f"--class-names={data}/lists/class_names.txt",
            f"--num-classes={len(self.setting.classes) + 1}",
            f"--random-seed={self.seed}",
            *(word.format(photos=photos) for word in shlex.split(f"{self.setting.options} {self.options}")),
            *(f"--no-{part}" for part in PARTS if part not in self.parts),
        ]


def parts_of(row: str) -> tuple[str, ...]:
    """The parts of a row: `plain`, `truth`, `full` or parts joined by `+`, without those after a `-`."""
    base, *left_out = row.split("-")
    named = {"plain": [], "truth": [], "full": list(PARTS)}.get(base, base.split("+"))
    if not {*named, *left_out} <= {*PARTS}:
        hint = f"use plain, full, truth, parts joined by +, or full-PART; the parts are {', '.join(PARTS)}"
        raise InputError(f"--rows {row}: {hint}")
    return tuple(part for part in PARTS if part in named and part not in left_out)


def plan(setting: str, rows: list[str], seeds: list[int], noise: Noise, options: str) -> dict[str, list[Run]]:
    """The runs of each row, one per seed; rows with the same parts have the same runs."""
    planned = {}
    for row in rows:
        parts, labels = parts_of(row), "truth" if row == "truth" else "sal2gt"
        planned[row] = [Run(SETTINGS[setting], parts, labels, seed, noise, options) for seed in dict.fromkeys(seeds)]
    return planned
