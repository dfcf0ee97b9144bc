"""What the parts of gpu.py share: the sizes of the measurements and the record of the results."""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.trainer import CASES, Setting
from utils.core.cli import CORES
from utils.core.files import save_json


@dataclass(frozen=True)
class Preset:
    """The sizes of the measurements. Those of `loading` to `training` are command-line options."""

    crop: int
    batch_size: int
    warm_up: int  # iterations before the timed ones
    iterations: int  # in a row, without waiting for the device in between
    rounds: int  # of so many iterations
    modes: tuple[str, ...]  # of train_step.py; the most important ones first, in case the time runs out
    compiled: tuple[str, ...]
    compiled_cases: tuple[str, ...]
    loading: str
    evaluation: str
    crf: str
    images: int  # pictures of the training run
    image_size: tuple[int, int]
    training: str
    steps: int  # iterations of the training run


# Kinds of iteration, in case the time runs out.
MOST_FREQUENT_FIRST = tuple(CASES)[::-1]
BF16 = "ours+channels-last+bf16"
TF32 = "ours+channels-last"
FULL = Preset(
    crop=321,
    batch_size=10,
    warm_up=2,
    iterations=4,
    rounds=2,
    modes=(
        "baseline",
        BF16,
        TF32,
        f"{BF16}+autotune",
        "ours+bf16",
        "ours",
        "baseline+float32",
        f"{TF32}+float32",
    ),
    compiled=(f"{BF16}+compile", f"{TF32}+compile"),
    compiled_cases=MOST_FREQUENT_FIRST,
    loading="--images 64 --iterations 25 --rounds 2",
    evaluation="--images 50 --rounds 2 --no-memory --num-workers 4",
    crf="--count 8 --classes 21 --size 375 500",
    images=100,
    image_size=(375, 500),
    training="--amp bf16 --channels-last --batch-size 10 --num-workers 4 --save-every 1000",
    steps=500,
)
# Enough to show that everything runs.
SMALL = Preset(
    crop=65,
    batch_size=2,
    warm_up=1,
    iterations=1,
    rounds=1,
    modes=("baseline", BF16, TF32),
    compiled=(f"{TF32}+compile",),
    compiled_cases=("warm-up",),
    loading="--images 8 --size 100 120 --crop 65 --batch-size 2 --iterations 2 --rounds 1",
    evaluation="--images 4 --shrink 5 --rounds 1 --no-memory",
    crf="--count 1 --classes 5 --size 64 80",
    images=20,
    image_size=(100, 120),
    training="--batch-size 2 --input-size 65 --num-workers 0",
    steps=12,
)


def plain(value: Any) -> Any:
    """The value with None for every number that is not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Record:
    """The results of a part in a JSON file, which is rewritten after every change."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def update(self, **values: object) -> None:
        save_json(self.path, self.read() | plain(values))

    def append(self, name: str, *rows: dict) -> None:
        """Appends rows to a list."""
        self.update(**{name: [*self.read().get(name, []), *rows]})


@dataclass(frozen=True)
class Context:
    """What a part is given."""

    device: torch.device
    arch: str
    threads: int
    preset: Preset
    record: Record

    @classmethod
    def of(cls, args: argparse.Namespace, part: str) -> "Context":
        device = torch.device(args.device)
        preset = FULL if device.type == "cuda" else SMALL
        return cls(device, args.arch, args.threads, preset, Record(record_path(args.out, part)))

    @property
    def setting(self) -> Setting:
        return Setting(self.arch, self.preset.crop, self.preset.batch_size, device=str(self.device))

    @property
    def workers(self) -> int:
        """Processes of each of the four loaders, one per core altogether."""
        return max(1, CORES // 4)

    def options(self, text: str) -> list[str]:
        """The command line of another benchmark."""
        return [f"--device={self.device}", f"--threads={self.threads}", *text.split()]


def record_path(out: Path, part: str) -> Path:
    """The file of a part's results."""
    return out / "parts" / f"{part}.json"
