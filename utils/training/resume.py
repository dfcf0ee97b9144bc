"""Interruptible training: the state of a run in one file, a lock on its folder, and stopping on signals."""

import contextlib
import fcntl
import math
import os
import platform
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from networks.checkpoint import read_checkpoint, save
from utils.core.distributed import any_process, barrier, is_main, world_size
from utils.core.errors import InputError

# Options that may change when a run resumes, since the weights do not depend on them.
FREE_OPTIONS = {
    *("device", "gpu", "cpu", "channels_last", "num_workers", "n_jobs", "crf_prune", "crf_backend"),
    *("snapshot_dir", "out", "logdir", "class_names", "model_path", "config_path", "overrides", "command"),
    *("save_every", "save_pred_every", "log_every", "no_resume"),
}


class TrainState:
    """The state of a run: networks, optimizers (and gradient scalers) and small values, in one file.

    A run resumes only with the same options, except for FREE_OPTIONS.
    """

    def __init__(self, path: Path, networks: Sequence[nn.Module], optimizers: Sequence[Any], options: dict) -> None:
        self.path, self.networks, self.optimizers = path, networks, optimizers
        self.options = {
            key: value if value is None or isinstance(value, bool | int | float | str) else str(value)
            for key, value in options.items()
            if key not in FREE_OPTIONS
        }

    def save(self, iteration: int, **values: object) -> None:
        """Save the state after `iteration` iterations, with values that torch.load accepts with weights_only."""
        self.check_weights(iteration)
        if is_main():
            state = {
                "iteration": iteration,
                "networks": [network.state_dict() for network in self.networks],
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "options": self.options,
                "values": values,
            }
            save(state, self.path)

    def check_weights(self, iteration: int) -> None:
        """Raise InputError if a weight or a running statistic is not finite."""
        tensors = [t for network in self.networks for t in network.state_dict().values()]
        self.check_loss(iteration, float(torch.stack([t.sum() for t in tensors if t.is_floating_point()]).sum()))

    def check_loss(self, iteration: int, loss: float) -> None:
        """Raise InputError if the loss of an iteration is not finite."""
        if not math.isfinite(loss):
            precision = " or --amp bf16" if self.options.get("amp") == "fp16" else ""
            saved = f"{self.path} is unchanged" if self.path.exists() else "nothing has been saved yet"
            raise InputError(
                f"the loss is not finite, since iteration {iteration} or the log line before it: try a lower learning"
                f" rate{precision}; {saved}"
            )

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Load networks and optimizers; returns the number of iterations done and the values, None without a file."""
        if not self.path.exists():
            return None
        start_over = "delete it, or use --no-resume"
        state = read_checkpoint(self.path, if_damaged=start_over)
        keys = {"iteration", "networks", "optimizers", "options"}
        if not isinstance(state, dict) or not keys <= set(state):
            raise InputError(f"{self.path} is not the state of a training run: {start_over}")
        saved = {key: value for key, value in state["options"].items() if key not in FREE_OPTIONS}
        # An option that only one of the two versions of the code knows does not matter if it is not set.
        changed = [
            f"{key} (was {saved.get(key)!r}, is {self.options.get(key)!r})"
            for key in sorted({*saved, *self.options})
            if saved.get(key) != self.options.get(key)
            and not all(value is None or value is False for value in (saved.get(key), self.options.get(key)))
        ]
        if changed:
            raise InputError(
                f"{self.path} belongs to a run with other options: {'; '.join(changed)}: use the same options,"
                " --no-resume to start over, or another folder"
            )
        for parts, states in ((self.networks, state["networks"]), (self.optimizers, state["optimizers"])):
            for part, part_state in zip(parts, states, strict=True):
                part.load_state_dict(part_state)
        return state["iteration"], state["values"]


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other runs from writing to a folder; the lock ends with this process, however that ends."""
    if not is_main():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # data loading processes do not inherit this kind
        except (BlockingIOError, PermissionError):  # depending on the system
            file.seek(0)
            raise InputError(
                f"{folder} is used by another run, {file.read()}: wait for it, stop it, or choose another folder"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


class StopSignal:
    """Context in which Ctrl-C or SIGTERM stops after the current iteration, and a second Ctrl-C at once."""

    number = 0  # of the signal; 0: none yet

    def __enter__(self) -> "StopSignal":
        self.before = {n: signal.signal(n, self.note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if not self.number:
            self.number = number
            if is_main():
                print("\nstopping after this iteration; press Ctrl-C again to stop at once", file=sys.stderr)
        elif world_size() == 1:  # torchrun passes on what the terminal has already sent, and kills after a while
            raise KeyboardInterrupt

    def agreed(self) -> bool:
        """Whether to stop now; with several processes, all stop at the same iteration."""
        return any_process(self.number != 0)

    def leave(self, iteration: int) -> None:
        """Exit with the status of the signal, after all processes have saved."""
        barrier()
        if is_main():
            message = f"stopped after {iteration} iterations; rerun the command (without --no-resume) to resume"
            print(message, file=sys.stderr)
        raise SystemExit(128 + (self.number or signal.SIGTERM))


def back_up(paths: Iterable[Path], starts: Iterable[str | Path | None]) -> None:
    """Rename the files of an earlier run from F.pth to F.old.pth; copy those that the new run `starts` from."""
    used = [Path(start).resolve() for start in starts if start is not None]
    for path in paths:
        if path.exists() and not path.stem.endswith(".old"):
            old = path.with_suffix(f".old{path.suffix}")
            if path.resolve() in used:
                shutil.copyfile(path, old)
            else:
                path.replace(old)
