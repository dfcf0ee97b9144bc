"""Output of a training run: progress bar, JSON lines, TensorBoard, warnings."""

import argparse
import contextlib
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from utils.core import cli, distributed
from utils.core.errors import InputError
from utils.training.resume import append

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def add_log_options(group: argparse._ActionsContainer) -> None:
    """Add --log-every and --logdir."""
    add = group.add_argument
    add("--log-every", type=cli.positive_int, default=10, help="iterations between lines of log.jsonl")
    add("--logdir", type=Path, help="directory for TensorBoard; needs the package tensorboard")


D_WINS = "the discriminator wins, so that C2S has no effect: try a lower --learning-rate-D"
NONE_PASSES = (
    "no image exceeds the IoU threshold of its class in ONF, so that half of it is used, or all images are kept: try"
    " lower --iou-thresholds or a later --denoise-from"
)


class TrainLog:
    """The log of a run, written by the main process."""

    def __init__(
        self, file: IO[str], bar: tqdm, device: torch.device, images: int, logdir: Path | None
    ) -> None:
        """Args:
        file: receives the JSON lines.
        bar: over the iterations.
        device: whose peak memory is shown.
        images: images per iteration, over all loaders and processes.
        logdir: directory for TensorBoard; None: without it.
        """
        self.file, self.bar, self.device, self.images = file, bar, device, images
        self.board = open_board(logdir, bar.initial) if logdir is not None and distributed.is_main() else None
        self.watches = [Watch("loss_D", 0.01, D_WINS), Watch("passed", 0.001, NONE_PASSES)]

    def __call__(
        self, i: int, lr: float, figures: Mapping[str, float], shown: Sequence[str], key: str = "i"
    ) -> None:
        """Log the figures of iteration i.

        Args:
            i: the iteration.
            lr: its learning rate.
            figures: its means, see `mean_figures`.
            shown: names of the figures that the bar shows.
            key: name of the iteration in a JSON line.
        """
        if not distributed.is_main():
            return
        append(self.file, {key: i, "lr": lr, **figures})
        postfix = {k.removeprefix("loss_"): show(k, figures[k]) for k in shown if k in figures}
        if rate := self.bar.format_dict["rate"]:
            postfix["img/s"] = f"{rate * self.images:.3g}"
        self.bar.set_postfix(postfix | {"mem": f"{peak_memory(self.device):.1f}G"})
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, i)
            self.board.add_scalar("lr", lr, i)
        for watch in self.watches:
            if text := watch(figures):
                self.bar.write(f"warning: {text}", file=sys.stderr)

    def scores(self, i: int, scores: Mapping[str, float | dict]) -> None:
        """Add the scores of a validation to TensorBoard."""
        if self.board is not None:
            for name, value in scores.items():
                if not isinstance(value, dict):
                    self.board.add_scalar(f"val/{name}", value, i)

    def picture(self, i: int, sheet: Image.Image) -> None:
        """Add a contact sheet to TensorBoard."""
        if self.board is not None:
            self.board.add_image("simple images", np.asarray(sheet), i, dataformats="HWC")

    def __enter__(self) -> "TrainLog":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.board is not None:
            # After an error such as a full disk, closing may fail as well.
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                self.board.close()


class Watch:
    """Warns once when a figure stays below a limit for LINES log lines."""

    LINES = 20

    def __init__(self, name: str, below: float, text: str) -> None:
        self.name, self.below, self.text = name, below, text
        self.lines, self.said = 0, False

    def __call__(self, figures: Mapping[str, float]) -> str | None:
        """The warning, if it is due."""
        if self.said or self.name not in figures:
            return None
        self.lines = self.lines + 1 if figures[self.name] < self.below else 0
        self.said = self.lines == self.LINES
        return (
            f"{self.name} below {self.below:g} in {self.LINES} log lines: {self.text}" if self.said else None
        )


def mean_figures(batches: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """The means of all scalars over batches and processes. Synchronizes with the device."""
    gathered: dict[str, list[Tensor]] = {}
    for name, value in (item for batch in batches for item in batch.items()):
        if value.ndim == 0:
            gathered.setdefault(name, []).append(value)
    means = torch.stack([torch.stack(values).mean() for values in gathered.values()])
    return dict(zip(gathered, (distributed.all_reduce_sum(means) / distributed.world_size()).tolist()))


def show(name: str, value: float) -> str:
    """A figure as text for the bar."""
    if name in ("dropped", "foreground"):
        return f"{value:.0%}"
    return f"{value:.0f}" if name == "kept" else f"{value:.3f}"


def peak_memory(device: torch.device) -> float:
    """Peak memory in GiB: of the GPU, otherwise of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def open_board(logdir: Path, first: int) -> "SummaryWriter":
    """The writer for TensorBoard; purges what an earlier run wrote from iteration `first` on.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(f"--logdir needs TensorBoard ({error}): pip install tensorboard") from None
    return SummaryWriter(str(logdir), purge_step=first)
