"""Locates and reads a run's outputs."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml

from datasets.labels import read_label
from datasets.lists import read_class_names
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import read_array
from utils.evaluation.inference import full_size
from utils.evaluation.metrics import COUNTS

# Option: its help and the default places below --run (true labels: below the data). The first that exists is used.
PLACES = {
    "data_dir": ("images, JPEGImages/ID.jpg", "dataset/VOC2012", "data"),
    "list_dir": ("image lists", "dataset/voc_list", "data/lists"),
    "saliency_label_dir": ("saliency labels of the simple images", "dataset/sal2gt", "data/sal2gt"),
    "label_dir": ("true labels of the validation images, in --data-dir", "SegmentationClassAug"),
    "truth_dir": ("true labels of the training images, in --data-dir", "truth", "SegmentationClassAug"),
    "snapshot_dir": ("logs of train.py", "snapshots"),
    "score_dir": ("scores of stage 1", "scores"),
    "logit_dir": ("logits of the validation images", "logit_val"),
    "crf_dir": ("label maps of the validation images after the CRF", "crf_val"),
    "train_logit_dir": ("logits of the training images", "logit_train_aug"),
    "train_crf_dir": ("pseudo labels before mining", "labels/crf"),
    "pseudo_label_dir": ("pseudo labels for stage 2", "pseudo_labels"),
    "step2_dir": ("outputs of stage 2", "step2/data"),
}
# The same folders in the options of train.py and evaluate.py, which are recorded with their results.
RECORDED = {name: name for name in ("data_dir", "list_dir", "label_dir")} | {
    "saliency_label_dir": "pseudo_label_dir"
}


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each of PLACES."""
    group = parser.add_argument_group("folders, if not the default ones below --run")
    for name, (text, *places) in PLACES.items():
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=Path, metavar="DIR", help=f"{text} (default: {' or '.join(places)})")


@dataclass(frozen=True)
class LabelMaps:
    """The label maps of one step: palette PNGs, or logits to take the argmax of."""

    title: str
    folder: Path
    num_classes: int
    ignore_label: int
    align_corners: bool = True  # how logits are resized to the image

    def exists(self, id_: str) -> bool:
        return any((self.folder / f"{id_}.{ending}").exists() for ending in ("png", "npy"))

    def read(self, id_: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """H x W uint8 labels of an image of `size` (H, W). InputError if missing or damaged."""
        path = self.folder / f"{id_}.npy"
        if not path.exists():
            return read_label(path.with_suffix(".png"), self.num_classes, size, self.ignore_label)
        logits = torch.from_numpy(read_array(path, "evaluate the image again"))
        if size is None or logits.ndim != 3 or len(logits) != self.num_classes:
            raise InputError(f"{path}: not logits of {self.num_classes} classes for an image of known size")
        return full_size(logits[None].float(), size, self.align_corners).argmax(1)[0].to(torch.uint8).numpy()


class Stage(NamedTuple):
    """The results of one step on the validation images."""

    name: str
    command: str  # makes the results
    scores: dict
    counts: dict  # confusion.json
    data_list: str | None  # name of the list of images
    folder: Path | None  # label maps or logits

    @property
    def matrix(self) -> list[list[int]]:
        """The confusion matrix, true labels in rows; empty if unknown."""
        return self.counts.get(COUNTS, [])

    @property
    def pixels(self) -> tuple[int, ...]:
        """Scored pixels of each true label; empty if unknown."""
        return tuple(map(sum, self.matrix))


class RunOutputs:
    """The outputs of a run. `problems` lists the files that could not be read.

    Args:
        args: the parsed options of report.py.

    Raises:
        InputError: the run or a folder named by an option is missing, or there is nothing to report.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.root, self.args = args.run, args
        self.problems: list[str] = []
        self.recorded: dict = {}
        self.newest = 0.0  # modification time of the newest file read
        if not self.root.is_dir():
            raise InputError(f"{self.root} not found: --run names the folder that the scripts wrote to")
        snapshots = self.place("snapshot_dir") or self.root / "snapshots"
        scores = self.place("score_dir") or self.root / "scores"
        self.made = self.read_json(snapshots / "run.json")
        self.summary = self.read_json(self.root / "scores/summary.json")
        self.options: dict = self.made.get("options") or {}
        self.recorded = (self.read_json(scores / "scores_run.json").get("options") or {}) | self.options
        self.train_log = self.read_lines(snapshots / "log.jsonl")
        self.val_log = self.read_lines(snapshots / "val.jsonl")
        self.step2_log = self.read_lines(self._newest("models/*/*/*/log.jsonl"))
        self.label_scores = {
            kind: self.read_json(scores / f"labels_{kind}_list.json") for kind in ("simple", "complex")
        }
        self.stages = self._stages(scores)
        self.names = self._class_names()
        self.confusions = [stage for stage in self.stages if len(stage.matrix) == len(self.names)]
        found = (self.train_log, self.val_log, self.step2_log, *self.label_scores.values())
        if not any((*found, self.place("pseudo_label_dir"), *(s.scores or s.folder for s in self.stages))):
            raise InputError(
                f"{self.root} holds nothing to report, neither logs nor scores nor label maps: run train.py or"
                " evaluate.py, or name the folders with the options"
            )

    def place(self, name: str) -> Path | None:
        """A folder of PLACES: from the option, the recorded options or the default layout. None if missing."""
        given = getattr(self.args, name)
        if given is not None:
            if not given.is_dir():
                raise InputError(f"--{name.replace('_', '-')} {given} not found: name an existing folder")
            return given
        base = self.place("data_dir") if name in ("label_dir", "truth_dir") else self.root
        folders = [base / place for place in PLACES[name][1:]] if base else []
        if recorded := self.recorded.get(RECORDED.get(name)):
            folders.insert(0, Path(recorded))
        return next((folder for folder in folders if folder.is_dir()), None)

    def hint(self, command: str) -> str:
        """The command that makes a missing output; `make demo` for a run of the demo."""
        return "make demo" if self.summary else command

    def _read(self, path: Path | None) -> str:
        """The text of a file; empty if it is missing."""
        if path is None or not path.is_file():
            return ""
        self.newest = max(self.newest, path.stat().st_mtime)
        return path.read_text(encoding="utf-8", errors="replace")

    def read_json(self, path: Path | None, *keys: str) -> dict:
        """A JSON object; empty if the file is missing or, which is noted, damaged or without one of the keys."""
        try:
            value = json.loads(self._read(path) or "null")
        except ValueError as error:
            self.problems.append(f"{path} cannot be read: {error}")
            return {}
        if value is None or (isinstance(value, dict) and set(keys) <= set(value)):
            return value or {}
        self.problems.append(f"{path} cannot be read: no JSON object with {' and '.join(keys) or 'results'}")
        return {}

    def read_lines(self, path: Path | None) -> list[dict]:
        """The lines of a log; incomplete ones are skipped."""
        lines = [json.loads(line) for line in self._read(path).splitlines() if line.endswith("}")]
        return [line for line in lines if {"i", "iteration"} & set(line)]

    def denoising(self) -> tuple[int, bool] | None:
        """The first iteration with ONF and PND, and whether the options tell it (else: seen in the log)."""
        options, log = self.options, self.train_log
        if options.get("no_onf") and options.get("no_pnd"):
            return None
        if options:
            start = options.get("denoise_from")
            return options["num_steps"] // 12 if start is None else start, True
        most = max((line.get("kept", 0) for line in log), default=0)
        drops = (line["i"] for line in log if line.get("dropped", 0) > 0 or line.get("kept", most) < most)
        return next(((first, False) for first in drops), None)

    def comparable(self) -> bool:
        """Whether all stages were scored on the same images, as far as the files tell."""
        scored = [stage for stage in self.stages if stage.scores]
        pixels = [stage.pixels for stage in scored if stage.pixels]
        lists = {stage.data_list for stage in scored if stage.data_list}
        return len(set(pixels)) < 2 and (len(pixels) == len(scored) or len(lists) < 2)

    def label_maps(self, title: str, folder: Path | None, align_corners: bool = True) -> LabelMaps | None:
        """The label maps of a folder; None without a folder."""
        if folder is None:
            return None
        return LabelMaps(title, folder, len(self.names), self.args.ignore_label, align_corners)

    def _newest(self, pattern: str) -> Path | None:
        """The output of stage 2 that was written last, among all configurations."""
        step2 = self.place("step2_dir")
        return max(step2.glob(pattern), key=lambda p: (p.stat().st_mtime, p), default=None) if step2 else None

    def _stages(self, scores: Path) -> list[Stage]:
        main = "cd step2 && python main.py {} --config-path configs/voc12.yaml"
        stages = []
        for name, command, end, folder in (
            ("stage 1", "python evaluate.py", "", self.place("logit_dir")),
            ("stage 1 + CRF", "python evaluate_crf.py", "_crf", self.place("crf_dir")),
            ("stage 2", main.format("test"), "", self._newest("features/*/*/*/logit")),
            ("stage 2 + CRF", main.format("crf"), "_crf", self._newest("features/*/*/*/crf")),
        ):
            file = f"scores{end}.json"
            path = scores / file if name.startswith("stage 1") else self._newest(f"scores/*/*/*/{file}")
            counts = self.read_json(path and path.with_name(f"confusion{end}.json"), "labels", COUNTS)
            options = self.read_json(path and path.with_name(f"scores{end}_run.json")).get("options") or {}
            data_list = options.get("data_list")
            if "config" in options:  # of stage 2
                data_list = yaml.safe_load(options["config"])["DATASET"]["SPLIT"]["VAL"]
            list_name = data_list and Path(data_list).stem
            found = self.read_json(path, "Mean IoU", "Class IoU")
            stages.append(Stage(name, self.hint(command), found, counts, list_name, folder))
        return stages

    def _class_names(self) -> list[str]:
        """Names of all labels: from the options, the scores, the training, or VOC's."""
        file, count = self.args.class_names, self.args.num_classes
        labels: list[str] = next((stage.counts["labels"] for stage in self.stages if stage.counts), [])
        if labels and file is None and count in (None, len(labels)):
            return labels
        recorded = Path(self.recorded.get("class_names") or "")
        file = file or (recorded if recorded.is_file() else None)
        count = count or len(labels) or self.recorded.get("num_classes", len(VOC_CLASSES) + 1)
        return read_class_names(file, count)
