"""Finds and reads the outputs of a run."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from datasets.labels import read_label
from datasets.lists import read_class_names
from datasets.voc import IGNORE_LABEL, VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import read_array
from utils.evaluation.inference import full_size
from utils.evaluation.metrics import COUNTS, class_ious

MEANS = ("Mean IoU", "Min IoU", "Mean Accuracy", "Pixel Accuracy", "Frequency Weighted IoU")


class Stage(NamedTuple):
    """The results of one step on the validation images; empty where a file is missing."""

    name: str
    scores: dict
    counts: dict  # of confusion.json
    folder: Path | None  # label maps or logits


class Run:
    """The outputs of a run in its default folders, or in those that train.py and evaluate.py recorded."""

    def __init__(self, root: Path) -> None:
        """Args: root: the folder that the scripts wrote to."""
        self.root = root
        snapshots, scores = self.folder("snapshots", ".") or root, self.folder("scores", ".") or root
        self.logs = {
            "train": read_lines(snapshots / "log.jsonl"),
            "val": read_lines(snapshots / "val.jsonl"),
            "step2": read_lines(self._newest("models/*/*/*/log.jsonl")),
        }
        self.made = read_json(snapshots / "run.json")
        commands = read_json(root / "scores/summary.json").get("commands")
        self.commands: list[dict] = commands or [{"command": f"python {self.made.get('command', 'train.py')}"}]
        labels = {kind: read_json(scores / f"labels_{kind}_list.json") for kind in ("simple", "complex")}
        self.label_scores = {kind: rows for kind, rows in labels.items() if rows}
        training = self.made.get("options", {})
        evaluated = read_json(scores / "scores_run.json").get("options", {})
        after_crf = read_json(scores / "scores_crf_run.json").get("options", {})
        self.options: dict = evaluated | training
        self.denoise_from = denoising_start(training)
        self.data = self.folder("data", "dataset/VOC2012", recorded=self.options.get("data_dir")) or root
        logits = self.folder("logit_val", recorded=evaluated.get("logit_dir"))
        maps = self.folder("crf_val", recorded=after_crf.get("prediction_dir"))
        self.step2_logits, maps2 = (self._newest(f"features/*/*/*/{name}") for name in ("logit", "crf"))
        scores2, scores_crf2 = (self._newest(f"scores/*/*/*/scores{end}.json") for end in ("", "_crf"))
        self.stages = [
            read_stage("stage 1", scores / "scores.json", logits),
            read_stage("stage 1 + CRF", scores / "scores_crf.json", maps),
            read_stage("stage 2", scores2, self.step2_logits),
            read_stage("stage 2 + CRF", scores_crf2, maps2),
        ]
        if not any((*self.logs.values(), *(stage.scores or stage.folder for stage in self.stages))):
            raise InputError(f"{root} holds neither logs nor scores: --run names the folder of a run")
        self.names = self._class_names()
        self.ignore_label: int = self.options.get("ignore_label", IGNORE_LABEL)

    def folder(self, *places: str, recorded: str | None = None) -> Path | None:
        """The first folder that exists: the recorded one or those below the run; None if there is none."""
        folders = [Path(recorded)] if recorded else []
        return next((path for path in [*folders, *(self.root / p for p in places)] if path.is_dir()), None)

    def read_labels(self, folder: Path, id_: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """H x W uint8 labels of an image of `size` (H, W): a palette PNG, or the argmax of logits."""
        path, number = folder / f"{id_}.npy", len(self.names)
        if not path.exists():
            return read_label(folder / f"{id_}.png", number, size, self.ignore_label)
        logits = torch.from_numpy(read_array(path, "evaluate the image again"))
        if size is None or logits.ndim != 3 or len(logits) != number:
            raise InputError(f"{path}: not logits of {number} classes for an image of known size")
        aligned = folder != self.step2_logits  # stage 2 resizes otherwise
        return full_size(logits[None].float(), size, aligned).argmax(1)[0].to(torch.uint8).numpy()

    def _newest(self, pattern: str) -> Path | None:
        """The output of stage 2 that was written last, among all configurations."""
        paths = [path for folder in ("step2/data", "step2") for path in self.root.glob(f"{folder}/{pattern}")]
        return max(paths, key=lambda path: path.stat().st_mtime, default=None)

    def _class_names(self) -> list[str]:
        """Names of all labels: from the scores, the training, or VOC's."""
        for stage in self.stages:
            if stage.counts:
                return stage.counts["labels"]
        file = self.options.get("class_names")
        count = self.options.get("num_classes") or len(VOC_CLASSES) + 1
        return read_class_names(file if file and Path(file).is_file() else None, count)


def denoising_start(options: dict) -> int | None:
    """The first iteration with ONF and PND, from the options of train.py; None if unknown or never."""
    if "num_steps" not in options or (options.get("no_onf") and options.get("no_pnd")):
        return None
    start = options.get("denoise_from")
    return options["num_steps"] // 12 if start is None else start


def read_stage(name: str, path: Path | None, folder: Path | None) -> Stage:
    """Read `scores.json` and the confusion matrix beside it."""
    counts = path and path.with_name(path.name.replace("scores", "confusion", 1))
    return Stage(name, read_json(path), read_json(counts), folder)


def score_table(run: Run) -> dict[str, dict[str, float | None]]:
    """The rows of the table of scores: shares, or None, by the stages that have scores."""
    columns = {}
    for stage in run.stages:
        if stage.scores:
            counts = stage.counts.get(COUNTS)
            present = {label for label, row in enumerate(counts) if sum(row)} if counts else None
            ious = dict(zip(run.names, class_ious(stage.scores, present)))
            columns[stage.name] = ious | {key: stage.scores.get(key) for key in MEANS}
    return {row: {stage: values[row] for stage, values in columns.items()} for row in (*run.names, *MEANS)}


def read_json(path: Path | None) -> dict:
    """A JSON object; empty if the file is missing."""
    if path is None or not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({error}): delete it, or make it again") from None


def read_lines(path: Path | None) -> list[dict]:
    """The lines of a log; an incomplete one is skipped."""
    if path is None or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
