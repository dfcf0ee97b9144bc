"""Interruptible training: the state of a run in one file, stopping on signals, and logs that resume with it."""

import json
import math
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import IO, Any, cast

import torch
from torch import nn
from torch.utils._pytree import tree_map

from networks.checkpoint import read_checkpoint, save
from utils.core.distributed import any_process, barrier, is_main, world_size
from utils.core.errors import InputError
from utils.core.files import atomic_write

# Options that may change when a run resumes, since the weights do not depend on them.
FREE_OPTIONS = frozenset(
    ("device", "gpu", "cpu", "num_workers", "n_jobs", "crf_prune", "crf_backend")
    + ("snapshot_dir", "out", "logdir", "class_names", "model_path", "config_path", "overrides", "command")
    + ("save_every", "save_pred_every", "log_every", "no_resume")
)


class TrainState:
    """The state of a run: networks, optimizers and small values (iteration, best score), in one file."""

    def __init__(
        self,
        path: Path,
        networks: Sequence[nn.Module],
        optimizers: Sequence[Any],
        options: dict,
    ) -> None:
        """Args:
        path: the file.
        networks, optimizers: what is saved and loaded, by state dict; optimizers include gradient scalers.
        options: a run resumes only with the same values, except for FREE_OPTIONS.
        """
        self.path, self.networks, self.optimizers = path, networks, optimizers
        self.options = {key: _plain(value) for key, value in options.items() if key not in FREE_OPTIONS}
        self.executor, self.writing = ThreadPoolExecutor(1), cast(Future | None, None)

    def save(self, iteration: int, wait: bool = True, **values: object) -> None:
        """Save the state after `iteration` iterations, with values that torch.load accepts with weights_only.

        Args:
            iteration: number of iterations.
            wait: return when the file is written; otherwise a copy of the state is written during the next
                iterations, and an error is raised by the next call.

        Raises:
            InputError: a weight is not finite; the file is left unchanged.
        """
        self.check(iteration)
        if not is_main():
            return
        state = {
            "iteration": iteration,
            "networks": [network.state_dict() for network in self.networks],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "options": self.options,
            "values": values,
        }
        if self.writing is not None:
            self.writing.result()
            self.writing = None
        if wait:
            save(state, self.path)
        else:
            copy = tree_map(lambda v: v.to("cpu", copy=True) if isinstance(v, torch.Tensor) else v, state)
            self.writing = self.executor.submit(save, copy, self.path)

    def check(self, iteration: int, loss: float | None = None) -> None:
        """Raise InputError if the loss or, if it is not given, a weight or running statistic is not finite."""
        if loss is None:
            tensors = [t for network in self.networks for t in network.state_dict().values()]
            loss = float(torch.stack([t.sum() for t in tensors if t.is_floating_point()]).sum())
        if not math.isfinite(loss):
            precision = " or --amp bf16" if self.options.get("amp") == "fp16" else ""
            saved = f"{self.path} is unchanged" if self.path.exists() else "nothing has been saved yet"
            raise InputError(
                f"the loss is not finite, since iteration {iteration} or the log line before it: try a lower learning"
                f" rate{precision}; {saved}"
            )

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Load networks and optimizers; returns the number of iterations done and the values, None without a file.

        Raises:
            InputError: the file is damaged, or an option has changed.
        """
        if not self.path.exists():
            return None
        state = read_checkpoint(self.path)
        keys = {"iteration", "networks", "optimizers", "options"}
        if not isinstance(state, dict) or not keys <= set(state):
            raise InputError(f"{self.path} is not the state of a training run: delete it, or use --no-resume")
        saved = {key: value for key, value in state["options"].items() if key not in FREE_OPTIONS}
        # A flag that only one of the two versions of the code knows does not matter unless it is set.
        changed = [
            f"{key} (was {saved.get(key)!r}, is {self.options.get(key)!r})"
            for key in sorted({*saved, *self.options})
            if saved.get(key, False) != self.options.get(key, False)
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


def _plain(value: object) -> object:
    """An option as it is saved and compared: paths and tuples as text."""
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


class StopSignal:
    """Context in which Ctrl-C or SIGTERM stops after the current iteration, and a second Ctrl-C at once."""

    def __enter__(self) -> "StopSignal":
        self.number = 0
        self.before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        # The data loading processes may have received the signal too, and returned no batch.
        if self and isinstance(error, RuntimeError | ConnectionError | EOFError):
            print("stopped; rerun the command to resume from the last saved state", file=sys.stderr)
            raise SystemExit(128 + self.number) from None

    def __bool__(self) -> bool:
        return self.number != 0

    def agreed(self) -> bool:
        """Whether to stop now; with several processes, all stop at the same iteration."""
        return any_process(bool(self))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if world_size() > 1:
                return  # torchrun passes on the signal that the terminal has already sent, and kills after a while
            raise KeyboardInterrupt
        self.number = number
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a data loading process that ends now is not an error
        if is_main():
            print("\nstopping after this iteration; press Ctrl-C again to stop at once", file=sys.stderr)

    def leave(self, iteration: int) -> None:
        """Exit with the status of the signal, after all processes have saved."""
        barrier()
        if is_main():
            message = (
                f"stopped after {iteration} iterations; rerun the command (without --no-resume) to resume"
            )
            print(message, file=sys.stderr)
        raise SystemExit(128 + (self.number or signal.SIGTERM))


def back_up(paths: Iterable[Path], start: str | Path | None) -> None:
    """Rename the files of an earlier run from F.pth to F.old.pth, so that they are not taken for the new run's.

    Args:
        paths: the files.
        start: the initial weights of the new run; not renamed, since resuming reads them again.
    """
    for path in paths:
        used = start is not None and path.resolve() == Path(start).resolve()
        if path.exists() and not used and not path.stem.endswith(".old"):
            path.replace(path.with_suffix(f".old{path.suffix}"))


def open_log(path: Path, key: str, done: int) -> IO[str]:
    """Open a JSON-lines log for appending, without the lines of iterations that will be run again.

    Args:
        path: the log; in all processes but the main one, lines are discarded instead.
        key: the name of the iteration in a line.
        done: the first iteration that will be run.
    """
    if not is_main():
        return open(os.devnull, "w")
    kept = []
    if done and path.exists():
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)[key] < done:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                break  # the last line may be incomplete
    with atomic_write(path, "w") as file:
        file.writelines(kept)
    return open(path, "a", buffering=1)


def append(log: IO[str], record: dict) -> None:
    """Write one line to a JSON-lines log. An error names the file."""
    try:
        log.write(json.dumps(record) + "\n")
    except OSError as error:
        error.filename = log.name
        raise
