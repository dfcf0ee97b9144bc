"""Output of a training run: progress bar, JSON lines, TensorBoard, warnings."""

import contextlib
import json
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from utils.core import distributed
from utils.core.errors import import_optional
from utils.core.files import atomic_write

D_WINS = "the discriminator wins, so that C2S has no effect: try a lower --learning-rate-D"
NONE_PASSES = (
    "no image exceeds the IoU threshold of its class in ONF, so that half of it is used, or all images are kept: try"
    " lower --iou-thresholds or a later --denoise-from"
)
BACKGROUND_ONLY = (
    "the network predicts background only on all validation images: start from pre-trained weights (--restore-from),"
    " or try a later --denoise-from, higher --high-T and --low-T, or another --learning-rate"
)
WATCHED = {"loss_D": (0.01, D_WINS), "passed": (0.001, NONE_PASSES)}  # figures that should not stay below a limit
LOW_LINES = 20  # of the log until the warning


@dataclass
class TrainLog:
    """The log of a run, a context; written by the main process."""

    folder: Path  # gets the files
    names: Sequence[str]  # of the files
    iterations: range  # that will be run; ends with the last of the run
    first_number: int  # of the run's first iteration
    key: str  # name of that number in a line
    images: int  # per iteration, over all loaders and processes
    logdir: Path | None  # for TensorBoard

    def __enter__(self) -> "TrainLog":
        done, total, main = self.iterations.start, self.iterations.stop, distributed.is_main()
        first = done + self.first_number
        self.board = None
        if self.logdir and main:
            tensorboard = import_optional("torch.utils.tensorboard", "--logdir needs it: pip install tensorboard")
            self.board = tensorboard.SummaryWriter(str(self.logdir), purge_step=first)
        self.files = {name: open_log(self.folder / name, self.key, first) for name in self.names if main}
        self.bar = tqdm(self.iterations, initial=done, total=total, unit="it", disable=not main)
        self.low = dict.fromkeys(WATCHED, 0)  # log lines in a row in which the figure is below its limit
        self.said: set[str] = set()  # warnings
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.bar.close()
        # After an error such as a full disk, closing may fail as well.
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            for file in (*self.files.values(), self.board):
                if file is not None:
                    file.close()

    def __call__(self, n: int, lr: float, figures: Mapping[str, float], shown: Sequence[str]) -> None:
        """Log the mean figures of iteration n and its learning rate; the bar shows those named `shown`."""
        if not distributed.is_main():
            return
        self.append("log.jsonl", n, {"lr": lr, **figures})
        postfix = {k.removeprefix("loss_"): show(k, figures[k]) for k in shown if k in figures}
        if rate := self.bar.format_dict["rate"]:
            postfix["img/s"] = f"{rate * self.images:.3g}"
        self.bar.set_postfix(postfix | {"mem": f"{peak_memory():.1f}G"})
        for name, (limit, text) in WATCHED.items():
            self.low[name] = self.low[name] + 1 if figures.get(name, limit) < limit else 0
            if self.low[name] == LOW_LINES:
                self.warn_once(f"{name} below {limit} in {LOW_LINES} log lines: {text}")

    def scores(self, n: int, scores: Mapping[str, float | dict], collapsed: bool) -> None:
        """Log the scores of a validation; `collapsed`: all pixels were predicted as background."""
        if not distributed.is_main():
            return
        self.append("val.jsonl", n, scores, "val/")
        self.bar.write(f"iteration {n}: val mIoU {100 * float(scores['Mean IoU']):.2f} %")  # type: ignore[arg-type]
        if collapsed:  # the falling loss looks like success
            self.warn_once(BACKGROUND_ONLY)

    def warn_once(self, text: str) -> None:
        if text not in self.said:
            self.bar.write(f"warning: {text}", file=sys.stderr)
        self.said.add(text)

    def picture(self, n: int, sheet: Image.Image) -> None:
        if self.board is not None:
            self.board.add_image("simple images", np.asarray(sheet), n, dataformats="HWC")

    def append(self, name: str, n: int, record: Mapping[str, Any], prefix: str = "") -> None:
        """Write a line of a log, and its numbers to TensorBoard."""
        try:
            self.files[name].write(json.dumps({self.key: n, **record}) + "\n")
        except OSError as error:
            error.filename = str(self.folder / name)
            raise
        for key, value in record.items():
            if self.board is not None and isinstance(value, float):
                self.board.add_scalar(prefix + key, value, n)


def open_log(path: Path, key: str, first: int) -> IO[str]:
    """Open a JSON-lines log for appending, without the lines whose `key` is `first` or later, to be run again."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            if json.loads(line)[key] >= first:
                break
        except (ValueError, KeyError):
            break  # the last line may be incomplete
        kept.append(line + "\n")
    with atomic_write(path, "w") as file:
        file.writelines(kept)
    return open(path, "a", buffering=1)


def mean_figures(batches: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """The means of all scalars, over the batches that have them and over the processes; waits for the device."""
    values: dict[str, list[Tensor]] = {}
    for batch in batches:
        for name, value in batch.items():
            if value.ndim == 0:
                values.setdefault(name, []).append(value)
    means = torch.stack([torch.stack(scalars).mean() for scalars in values.values()])
    return dict(zip(values, (distributed.all_reduce_sum(means) / distributed.world_size()).tolist()))


def show(name: str, value: float) -> str:
    """A figure as text for the bar."""
    if name in ("dropped", "foreground"):
        return f"{value:.0%}"
    return f"{value:.0f}" if name == "kept" else f"{value:.3f}"


def peak_memory() -> float:
    """Peak memory in GiB: of the GPU if one is used, otherwise of this process."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
