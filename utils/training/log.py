"""What a training says while it runs: the bar, a JSON line every few iterations, TensorBoard, warnings."""

import argparse
import contextlib
import resource
import sys
from collections.abc import Mapping, Sequence
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
    """How often, and where to."""
    add = group.add_argument
    add("--log-every", type=cli.positive_int, default=10, help="iterations between lines of log.jsonl")
    add("--logdir", type=Path, help="folder for TensorBoard; needs the package tensorboard")


class TrainLog:
    """One for a training; with several processes the first one writes."""

    def __init__(
        self, file: IO[str], bar: tqdm, device: torch.device, images: int, logdir: Path | None
    ) -> None:
        """Args:
        file: JSON lines go there.
        bar: of the iterations; where it begins, TensorBoard's curves go on.
        images: that one iteration takes from all of the loaders and processes, for images per second.
        """
        self.file, self.bar, self.device, self.images = file, bar, device, images
        self.board = open_board(logdir, bar.initial) if logdir is not None and distributed.is_main() else None
        self.watches = [
            Watch("loss_D", below=0.01, text="the discriminator has won, and C2S teaches nothing any more: try a"
                  " lower --learning-rate-D"),
            Watch("passed", below=0.001, text="ONF: no image agrees with its label enough for its class's threshold,"
                  " so half of it counts, or the whole batch is kept: try lower --iou-thresholds, or a later"
                  " --denoise-from"),
        ]  # fmt: skip

    def __call__(
        self, i: int, lr: float, figures: Mapping[str, float], shown: Sequence[str], key: str = "i"
    ) -> None:
        """One line of JSON, the bar's figures and TensorBoard's, of iteration i.

        Args:
            shown: the figures that the bar shows.
            key: the name of the iteration in a line.
        """
        if not distributed.is_main():
            return
        append(self.file, {key: i, "lr": lr, **figures})
        postfix = {k.removeprefix("loss_"): show(k, figures[k]) for k in shown if k in figures}
        rate = self.bar.format_dict["rate"]
        if rate:
            postfix["img/s"] = f"{rate * self.images:.0f}"
        self.bar.set_postfix(postfix | {"mem": f"{peak_memory(self.device):.1f}G"})
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, i)
            self.board.add_scalar("lr", lr, i)
        for watch in self.watches:
            if text := watch(figures):
                self.bar.write(f"warning: {text}", file=sys.stderr)

    def scores(self, i: int, scores: Mapping[str, float | dict]) -> None:
        """TensorBoard's curves of the validation."""
        if self.board is not None:
            for name, value in scores.items():
                if not isinstance(value, dict):
                    self.board.add_scalar(f"val/{name}", value, i)

    def picture(self, i: int, sheet: Image.Image) -> None:
        """A contact sheet for TensorBoard."""
        if self.board is not None:
            self.board.add_image("simple images", np.asarray(sheet), i, dataformats="HWC")

    def __enter__(self) -> "TrainLog":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.board is not None:
            # Its last lines may meet the full disk that has ended the run already.
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                self.board.close()


class Watch:
    """A figure that stays too low for long is worth a warning, once."""

    LINES = 20

    def __init__(self, name: str, below: float, text: str) -> None:
        self.name, self.below, self.text = name, below, text
        self.lines, self.said = 0, False

    def __call__(self, figures: Mapping[str, float]) -> str | None:
        """The warning, when it is due."""
        if self.said or self.name not in figures:
            return None
        self.lines = self.lines + 1 if figures[self.name] < self.below else 0
        self.said = self.lines == self.LINES
        return (
            f"{self.name} below {self.below:g} in {self.LINES} log lines running: {self.text}"
            if self.said
            else None
        )


def mean_figures(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The scalars of an iteration, means over its batches and over all processes; the only wait for the device."""
    gathered: dict[str, list[Tensor]] = {}
    for name, value in (item for batch in batches for item in batch.items()):
        if value.ndim == 0:
            gathered.setdefault(name, []).append(value)
    means = torch.stack([torch.stack(values).mean() for values in gathered.values()])
    return dict(zip(gathered, (distributed.all_reduce_sum(means) / distributed.world_size()).tolist()))


def show(name: str, value: float) -> str:
    """A figure as the bar has it."""
    return f"{value:.0f}" if name == "kept" else f"{value:.0%}" if name == "dropped" else f"{value:.3f}"


def peak_memory(device: torch.device) -> float:
    """The most memory in use so far, GiB: of the GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def open_board(logdir: Path, first: int) -> "SummaryWriter":
    """TensorBoard's writer, from iteration `first` on.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(f"--logdir needs TensorBoard ({error}): pip install tensorboard") from None
    return SummaryWriter(str(logdir), purge_step=first)
