"""What a run has left: where its files lie, and what is in them as far as they are there and whole."""

import argparse
import json
import math
import shlex
from pathlib import Path
from typing import NamedTuple

from datasets.lists import read_class_names
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError
from utils.evaluation.metrics import COUNTS
from utils.report.places import LabelMaps, find_place, label_maps


class Stage(NamedTuple):
    """One step's results on the validation images."""

    name: str
    scores: dict | None
    confusion: list[list[int]] | None
    maps: LabelMaps | None
    made_by: str  # the command that makes the scores


class RunOutputs:
    """A run's files, read once; `problems` tells what could not be read."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.root, self.args, self.problems = args.run, args, []
        if not self.root.is_dir():
            raise InputError(f"{self.root} not found: --run names the folder that the scripts wrote to")
        self.options: dict = {}  # train.py's; other places may depend on them
        self.snapshots = self.place("snapshot_dir")
        self.made = self.read_json(self._in(self.snapshots, "run.json")) or {}
        self.summary = self.read_json(self.root / "scores/summary.json") or {}
        if isinstance(self.made.get("options"), dict):
            self.options = self.made["options"]
        self.log = self.read_lines(self._in(self.snapshots, "log.jsonl"), "i")
        self.val_log = self.read_lines(self._in(self.snapshots, "val.jsonl"), "i")
        self.step2 = self.place("step2_dir")
        self.step2_log = self.read_lines(self._newest("models/*/*/*/log.jsonl"), "iteration")
        scores = self.place("score_dir")
        found = [self._scores(self._in(scores, f"scores{end}.json")) for end in ("", "_crf")]
        found += [self._scores(self._newest(f"scores/*/*/*/scores{end}.json")) for end in ("", "_crf")]
        self.label_scores = {
            kind: self.read_json(self._in(scores, f"labels_{kind}_list.json"))
            for kind in ("simple", "complex")
        }
        self.num_classes, self.names = self._classes(found)
        self.stages = [
            Stage(name, scores, self._matrix(counts), maps, self.hint(command))
            for (name, maps, command), (scores, counts) in zip(self._stages(), found)
        ]
        self._check_not_empty()

    def hint(self, command: str) -> str:
        """The command that makes what is missing: the demo's own for a demo."""
        return "make demo" if self.summary else command

    def place(self, name: str) -> Path | None:
        """One of PLACES; None where it is missing."""
        return find_place(name, self.args, self.options)

    def read_json(self, path: Path | None) -> dict | None:
        """A JSON object; None where there is none, which is noted if the file is there."""
        if path is None or not path.exists():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.problems.append(f"{path} cannot be read: {error}")
            return None
        if not isinstance(value, dict):
            self.problems.append(f"{path} holds no JSON object")
            return None
        return value

    def read_lines(self, path: Path | None, key: str) -> list[dict]:
        """The lines of a log with a number under `key`; others, such as one cut off, are left out."""
        if path is None or not path.exists():
            return []
        lines = []
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get(key), int):
                lines.append(line)
        return lines

    def denoising(self) -> tuple[int, bool] | None:
        """The iteration from which ONF and PND run, and whether that is told (else: first seen in the log)."""
        flags = {word for command in self.commands() for word in command["command"].split()}
        if all(self.options.get(f"no_{part}") or f"--no-{part}" in flags for part in ("onf", "pnd")):
            return None
        start, steps = self.options.get("denoise_from"), self.options.get("num_steps")
        if self.options and start is None and isinstance(steps, int):
            start = steps // 12
        if start is None:
            start = next((n for c in self.commands() if (n := told(c["command"], "--denoise-from"))), None)
        if isinstance(start, int | str):
            return int(start), True
        most = max((line["kept"] for line in self.log if "kept" in line), default=0)
        seen = [n["i"] for n in self.log if n.get("dropped", 0) > 0 or n.get("kept", most) < most]
        return (seen[0], False) if seen else None

    def commands(self) -> list[dict]:
        """The demo's command lines and their seconds, in the order in which they ran."""
        found = self.summary.get("commands")
        return [c for c in found if {"command", "seconds"} <= set(c)] if isinstance(found, list) else []

    def newest(self) -> float:
        """When the last of the results was written, in seconds since the epoch."""
        folders = (
            (self.snapshots, "*.json*"),
            (self.place("score_dir"), "*.json"),
            (self.step2, "*/*/*/*/*.json*"),
        )
        files = [file for folder, pattern in folders if folder is not None for file in folder.glob(pattern)]
        return max((file.stat().st_mtime for file in files), default=self.root.stat().st_mtime)

    def _in(self, folder: Path | None, name: str) -> Path | None:
        return None if folder is None else folder / name

    def _newest(self, pattern: str) -> Path | None:
        """Of stage 2's configurations that have such a file, the one that wrote it last."""
        paths = sorted(self.step2.glob(pattern)) if self.step2 is not None else []
        return max(paths, key=lambda path: path.stat().st_mtime, default=None)

    def _scores(self, path: Path | None) -> tuple[dict | None, dict | None]:
        """Scores, and the counts behind them with the labels' names."""
        scores = self.read_json(path)
        if scores is not None and not (isinstance(scores.get("Class IoU"), dict) and "Mean IoU" in scores):
            self.problems.append(f"{path} holds no scores")
            scores = None
        counts = None if path is None else path.with_name(path.name.replace("scores", "confusion", 1))
        return scores, self.read_json(counts)

    def _matrix(self, counts: dict | None) -> list[list[int]] | None:
        """A confusion matrix of the run's labels; None where there is none of their number."""
        rows, size = (counts or {}).get(COUNTS), self.num_classes
        return rows if rows and len(rows) == size and all(len(row) == size for row in rows) else None

    def _classes(self, found: list[tuple]) -> tuple[int, list[str]]:
        """How many labels there are, and their names: as the options say, or the results."""
        file, count = self.args.class_names, self.args.num_classes
        labels = next((counts["labels"] for _, counts in found if counts and "labels" in counts), None)
        if file is None and labels and count in (None, len(labels)):
            return len(labels), [str(name) for name in labels]
        counts = [len(scores["Class IoU"]) for scores, _ in found if scores]
        if isinstance(trained_with := self.options.get("num_classes"), int):
            counts.append(trained_with)
        if file is None:
            lists = self.place("list_dir")
            places = [Path(self.options.get("class_names") or ""), (lists or Path()) / "class_names.txt"]
            file = next((path for path in places if path.is_file()), None)
        if file is not None and not counts and count is None:
            count = 1 + sum(bool(line.strip()) for line in file.read_text(encoding="utf-8").splitlines())
        count = count or next(iter(counts), len(VOC_CLASSES) + 1)
        try:
            return count, read_class_names(file, count)
        except InputError as error:
            if self.args.class_names is not None:
                raise
            self.problems.append(str(error))
            return count, read_class_names(None, count)

    def _stages(self) -> list[tuple[str, LabelMaps | None, str]]:
        """Name, label maps and command of every stage."""
        main = "cd step2 && python main.py {} --config-path configs/voc12.yaml"
        step2 = self._newest("features/*/*/*/logit"), self._newest("features/*/*/*/crf")
        predictions, logits, crf = (self.place(n) for n in ("prediction_dir", "logit_dir", "crf_dir"))
        found = [
            ("stage 1", predictions, logits, True, "python evaluate.py"),
            ("stage 1 + CRF", crf, None, True, "python evaluate_crf.py"),
            ("stage 2", None, step2[0], False, main.format("test")),
            ("stage 2 + CRF", step2[1], None, False, main.format("crf")),
        ]
        return [(name, label_maps(name, pngs, npys, align), made) for name, pngs, npys, align, made in found]

    def _check_not_empty(self) -> None:
        """InputError where there is nothing to report."""
        some = self.log or self.val_log or self.step2_log or any(s.scores or s.maps for s in self.stages)
        if not some and not any(self.label_scores.values()) and self.place("pseudo_label_dir") is None:
            raise InputError(
                f"{self.root} holds nothing to report, neither logs nor scores nor label maps: run train.py or"
                " evaluate.py, or name the places by the options"
            )


def told(command: str, option: str) -> str | None:
    """The value of an option in a command line."""
    words = shlex.split(command)
    return words[words.index(option) + 1] if option in words[:-1] else None


def series(lines: list[dict], key: str, x: str = "i") -> list[tuple[float, float]]:
    """(iteration, value) of every line that has the value and has it finite."""
    return [
        (line[x], line[key])
        for line in lines
        if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
