"""Training that survives: everything a run needs to go on lies in one file, written whole or not at all."""

import json
import math
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

import torch
from torch import nn

from networks.checkpoint import read_checkpoint, save
from utils.core.distributed import any_process, barrier, is_main, world_size
from utils.core.errors import InputError
from utils.core.files import atomic_write

# What may differ between the parts of a run: where and how it computes, not what.
FREE_OPTIONS = frozenset(
    {"device", "gpu", "cpu", "num_workers", "n_jobs", "snapshot_dir", "save_every", "no_resume", "log_every",
     "logdir", "class_names", "model_path", "config_path", "overrides", "command", "crf_prune", "crf_backend"}
)  # fmt: skip


class TrainState:
    """The state of a training run: networks, optimisers, and small values (iteration, best score) beside them."""

    def __init__(
        self,
        path: Path,
        networks: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Optimizer | torch.amp.GradScaler],
        options: dict,
    ) -> None:
        """Args: path: the file; options: what must not change between the parts of the run."""
        self.path, self.networks, self.optimizers = path, networks, optimizers
        self.options = {key: _plain(value) for key, value in options.items() if key not in FREE_OPTIONS}

    def save(self, iteration: int, **values: object) -> None:
        """Note that `iteration` iterations are done, with `values` that torch.load reads back safely.

        Raises:
            InputError: the weights are no numbers any more; the file stays as it was.
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
        save(state, self.path)

    def check(self, iteration: int, loss: float | None = None) -> None:
        """Raise InputError where the loss or, without one, a weight or running statistic is not a finite number."""
        if loss is None:
            state = [t for network in self.networks for t in network.state_dict().values()]
            loss = float(torch.stack([t.sum() for t in state if t.is_floating_point()]).sum())
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is not a number any more, at iteration {iteration} or since the last log line: try a lower"
                f" learning rate{' or --amp bf16' if self.options.get('amp') == 'fp16' else ''};"
                f" {f'{self.path} stands as it was saved' if self.path.exists() else 'nothing was saved yet'}"
            )

    def load(self) -> tuple[int, dict] | None:
        """Fill networks and optimisers; returns the iterations done and the values, None where no run began.

        Raises:
            InputError: the file is damaged, or an option that matters has changed.
        """
        if not self.path.exists():
            return None
        state = read_checkpoint(self.path)
        if not isinstance(state, dict) or not {"iteration", "networks", "optimizers", "options"} <= set(
            state
        ):
            raise InputError(f"{self.path} is no state of a training run: delete it, or give --no-resume")
        changed = [
            f"{key} (was {state['options'].get(key)!r}, is {self.options.get(key)!r})"
            for key in sorted({*state["options"], *self.options})
            if state["options"].get(key) != self.options.get(key)
        ]
        if changed:
            raise InputError(
                f"{self.path} belongs to a run with other options: {'; '.join(changed)}: give the same, --no-resume"
                " to start over, or another folder"
            )
        for parts, states in ((self.networks, state["networks"]), (self.optimizers, state["optimizers"])):
            for part, part_state in zip(parts, states, strict=True):
                part.load_state_dict(part_state)
        return state["iteration"], state["values"]


def _plain(value: object) -> object:
    """An option as it is compared: paths and tuples as text, so that it survives the file."""
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


class StopSignal:
    """Inside `with`, Ctrl-C or SIGTERM ends the iteration in hand, a second one everything at once."""

    def __enter__(self) -> "StopSignal":
        self.number = 0
        self.before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, _: type | None, error: BaseException | None, __: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self and isinstance(
            error, RuntimeError | ConnectionError | EOFError
        ):  # the loaders heard the signal, too, and gave no batch
            print("stopped; the same command goes on from the last saved state", file=sys.stderr)
            raise SystemExit(128 + self.number) from None

    def __bool__(self) -> bool:
        return self.number != 0

    def agreed(self) -> bool:
        """Whether to stop now: with several processes, all at the same iteration."""
        return any_process(bool(self))

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number:
            if world_size() > 1:
                return  # torchrun passes on what the terminal has already sent; it kills who takes too long
            raise KeyboardInterrupt
        self.number = number
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a loader that ends now is no fault
        if is_main():
            print("\nstopping after this iteration; again to stop at once", file=sys.stderr)

    def leave(self, iteration: int) -> None:
        """Exit with the signal's status, once all processes have saved what they save."""
        barrier()
        if is_main():
            print(
                f"stopped after {iteration} iterations; the same command goes on from there (without --no-resume)",
                file=sys.stderr,
            )
        raise SystemExit(128 + (self.number or signal.SIGTERM))


def back_up(paths: Iterable[Path], start: str | Path | None) -> None:
    """Rename what an earlier run left, so that it cannot pass for the new run's: F.pth becomes F.old.pth.

    Args:
        start: the weights that the new run begins with; they stay, for it reads them whenever it goes on.
    """
    for path in paths:
        used = start is not None and path.resolve() == Path(start).resolve()
        if path.exists() and not used and not path.stem.endswith(".old"):
            path.replace(path.with_suffix(f".old{path.suffix}"))


def open_log(path: Path, key: str, done: int) -> IO[str]:
    """A JSON-lines log to append to, less the lines that a stopped run wrote after its last saved state.

    Args:
        key: the name of the iteration in a line.
        done: lines from this iteration on will be written again.

    With several processes, the first one's; the others' lines go nowhere.
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
                break  # cut off in the middle of a line
    with atomic_write(path, "w") as file:
        file.writelines(kept)
    return open(path, "a", buffering=1)


def append(log: IO[str], record: dict) -> None:
    """Write one line of a JSON-lines log; an error names the file."""
    try:
        log.write(json.dumps(record) + "\n")
    except OSError as error:
        error.filename = log.name
        raise
