"""The rows of the ablation, and the trainings that they need."""

import argparse
import json
import shlex
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.ablation.photographs import make_photographs
from datasets.openmoji.dataset import make_dataset
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError
from utils.training.options import parse_args as parse_train_args

PARTS = ("cls", "onf", "pnd", "s2c", "c2s")
CUMULATIVE = ("plain", *("+".join(PARTS[:n]) for n in range(1, len(PARTS))), "full")
ROWS = (*CUMULATIVE, *(f"full-{part}" for part in PARTS))
SWEEP_ROWS = ("plain", "full")

Noise = tuple[float, float]  # share of the images with a wrong object, and with a wrong border
NOISE = (0.3, 0.8)
SWEEP_NOISE = ((0.0, 0.0), (0.15, 0.4), NOISE, (0.6, 1.0))
Row = tuple[str, Noise]  # name and noise


@dataclass(frozen=True)
class Setting:
    """The size of an experiment on drawn images: numbers, their side, and the options of train.py for all rows."""

    noise: ClassVar[Noise] = NOISE
    classes: tuple[str, ...]
    simple: int
    complex: int
    val: int
    size: int
    probe_images: int
    options: str

    def data_name(self, seed: int, noise: Noise) -> str:
        return f"{zlib.crc32(repr(self).encode()):08x}_{seed}_{noise}"

    def make_data(self, root: Path, seed: int, noise: Noise, photos: Path | None) -> float:
        """Create the data set; returns the mean foreground IoU of the pseudo labels with the truth."""
        numbers = self.simple, self.complex, self.val, self.size, seed
        return make_dataset(root, self.classes, *numbers, *noise)["measured"]["mean_foreground_iou"]


@dataclass(frozen=True)
class PhotoSetting:
    """An experiment on photographs, whose saliency maps have noise of their own; all seeds share the data set."""

    noise: ClassVar[Noise] = (0.0, 0.0)  # none is added
    classes: ClassVar[tuple[str, ...]] = VOC_CLASSES
    half: str  # of the validation images: `choose` for choosing options, `report` for scores
    shrink: int
    probe_images: int
    options: str

    def data_name(self, seed: int, noise: Noise) -> str:
        return f"photos_{self.shrink}_{self.half}"

    def make_data(self, root: Path, seed: int, noise: Noise, photos: Path | None) -> float:
        """As in Setting; photographs depend on neither `seed` nor `noise`."""
        return make_photographs(root, photos, self.shrink, self.half)


# For a CPU: half-size photographs, the small network from its pre-trained trunk.
PHOTO_OPTIONS = (
    "--arch mini --restore-from model/mini_tiny_imagenet.pth --input-size 161 --batch-size 8 --num-steps 600"
    " --learning-rate 0.005 --denoise-from 300 --high-T 3 --low-T 1.5 --iou-thresholds auto"
    " --save-pred-every 200 --amp bf16 --channels-last --num-workers 0"
)

SETTINGS: dict[str, Setting | PhotoSetting] = {
    # For CPUs. The network has no pre-training and must learn before its predictions can filter labels.
    "small": Setting(
        classes=("bus", "cat", "horse", "tvmonitor"),
        simple=600,
        complex=300,
        val=200,
        size=84,
        probe_images=200,
        options="--arch mini --restore-from none --input-size 65 --batch-size 8 --random-mirror --num-steps 400"
        " --learning-rate 0.005 --denoise-from 240 --high-T 3 --low-T 1.5 --iou-thresholds 0.3"
        " --save-pred-every 80 --channels-last --num-workers 0",
    ),
    # For a GPU: the published network, crop and schedule, with torchvision's weights.
    "full": Setting(
        classes=VOC_CLASSES,
        simple=6000,
        complex=3000,
        val=500,
        size=375,
        probe_images=300,
        options="--restore-from imagenet --iou-thresholds auto --long-tail-labels none --save-pred-every 1000",
    ),
    "photos": PhotoSetting("report", 2, 200, PHOTO_OPTIONS),
    "photos-choose": PhotoSetting("choose", 2, 200, PHOTO_OPTIONS),
}


@dataclass(frozen=True)
class Run:
    """One training: everything that its result depends on."""

    setting: Setting | PhotoSetting
    parts: tuple[str, ...]
    seed: int
    noise: Noise = NOISE
    options: str = ""  # override the setting's

    @property
    def key(self) -> str:
        """A checksum that does not depend on the name of the row."""
        return f"{zlib.crc32(json.dumps(asdict(self), sort_keys=True).encode()):08x}"

    @property
    def name(self) -> str:
        noise = ", noise {:g}/{:g}".format(*self.noise) if isinstance(self.setting, Setting) else ""
        return f"{'+'.join(self.parts) or 'plain'}, seed {self.seed}{noise}"

    def train_args(self, out: Path, device: str | None) -> argparse.Namespace:
        """The options of train.py, with data and results below `out`."""
        data = out / "data" / self.setting.data_name(self.seed, self.noise)
        words = [
            f"--data-dir={data}",
            f"--list-dir={data}/lists",
            f"--pseudo-label-dir={data}/sal2gt",
            f"--class-names={data}/lists/class_names.txt",
            f"--num-classes={len(self.setting.classes) + 1}",
            f"--random-seed={self.seed}",
            f"--snapshot-dir={out}/running/{self.key}",
            "--no-val",
            *shlex.split(f"{self.setting.options} {self.options}"),
            *(f"--no-{part}" for part in PARTS if part not in self.parts),
            *([f"--device={device}"] if device else []),
        ]
        return parse_train_args("", words)


def parts_of(row: str) -> tuple[str, ...]:
    """The parts of a row: `plain`, `full` or parts joined by `+`, without those after a `-`."""
    base, *left_out = row.split("-")
    named = {"plain": [], "full": list(PARTS)}.get(base, base.split("+"))
    if not {*named, *left_out} <= {*PARTS}:
        hint = f"use plain, full, parts joined by +, or full-PART; the parts are {', '.join(PARTS)}"
        raise InputError(f"--rows {row}: {hint}")
    return tuple(part for part in PARTS if part in named and part not in left_out)


def plan(args: argparse.Namespace) -> dict[Row, list[Run]]:
    """The runs of each row and noise, one per seed; rows with the same parts have the same runs."""
    setting, seeds = SETTINGS[args.setting], dict.fromkeys(args.seeds)
    if args.sweep and isinstance(setting, PhotoSetting):
        raise InputError(f"--sweep: the noise of photographs cannot be chosen (--setting {args.setting})")
    rows = args.rows or (SWEEP_ROWS if args.sweep else ROWS)
    return {
        (row, noise): [Run(setting, parts_of(row), seed, noise, args.options) for seed in seeds]
        for noise in (SWEEP_NOISE if args.sweep else (setting.noise,))
        for row in rows
    }


def in_order(planned: dict[Row, list[Run]]) -> list[Run]:
    """Each run once; cross-entropy and the full method first, so that they can be compared early."""
    runs = dict.fromkeys(run for same_row in planned.values() for run in same_row)
    return sorted(runs, key=lambda run: run.parts not in ((), PARTS))
