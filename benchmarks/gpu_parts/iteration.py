"""Time, host time, launches and memory of the iterations of all modes."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import alone, matrix_rate, peak_bytes, reset_peak, synchronize
from benchmarks.gpu_parts.preset import MOST_FREQUENT_FIRST, Context, Preset, Record
from benchmarks.gpu_parts.profiling import profile_call
from benchmarks.train_step import gradient_difference, gradients_of
from benchmarks.trainer import Setting, Trainer, make_batches, make_mix, moved, number_format


def iteration(context: Context) -> None:
    """All modes without compilation."""
    measure_modes(context, context.preset.modes, MOST_FREQUENT_FIRST)


def compiled(context: Context) -> None:
    """The modes with torch.compile."""
    measure_modes(context, context.preset.compiled, context.preset.compiled_cases)


def measure_modes(context: Context, modes: Sequence[str], cases: Sequence[str]) -> None:
    """Measures each mode in a new process; a mode that fails is recorded with its error."""
    formats = dict.fromkeys(number_format(mode, context.device) for mode in modes)
    context.record.update(rates={name: matrix_rate(name, context.device, 3) for name in formats})
    with tempfile.TemporaryDirectory() as folder:
        for mode in modes:
            options = mode, cases, context.setting, context.preset, context.record, Path(folder)
            try:
                alone(measure_mode, *options)
            except Exception as error:  # out of memory, or the process died
                context.record.append("errors", {"mode": mode, "error": one_line(error)})


def measure_mode(
    mode: str, cases: Sequence[str], s: Setting, preset: Preset, record: Record, folder: Path
) -> None:
    """Appends one row and one profile per kind of iteration to the record."""
    device = torch.device(s.device)
    reset_peak(device)
    before = peak_bytes(device)
    batches, mix, trainer = make_batches(s), make_mix(s), Trainer(mode, s)
    if device.type == "cuda":
        batches = moved(batches, torch.Tensor.pin_memory)
    for k, case in enumerate(cases):
        reset_peak(device)
        start = time.perf_counter()
        gradients = partial(trainer.gradients, batches, case, mix)
        row: dict[str, Any] = {"mode": mode, "case": case, "format": number_format(mode, device)}
        row |= compare(trainer, gradients, folder / "gradients.pt" if k == 0 else None)
        row["first_seconds"] = time.perf_counter() - start
        step = partial(trainer.step, batches, case, mix)
        for _ in range(preset.warm_up):
            step()
        row |= measure_times(step, preset, device)
        record.append("rows", row | {"peak_bytes": peak_bytes(device) - before})
    for case in cases:  # after all times, because the profiler may leave something behind in the driver
        found = profile_call(partial(trainer.step, batches, case, mix), device)
        row = {"mode": mode, "case": case, "launches": found.launches, "waits": found.waits}
        row["kernel_seconds"] = sum(kernel.seconds for kernel in found.kernels)
        record.append("profiles", row)


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def compare(trainer: Trainer, gradients: Callable[[], dict], path: Path | None) -> dict[str, Any]:
    """The losses of the first iteration, and the difference of its gradients from those of the first mode.

    Args:
        path: file of the first mode's gradients; None: do not compare them.
    """
    if trainer.compiled:
        losses, found = gradients(), {}
    else:
        with FlopCounterMode(display=False) as counter:
            losses = gradients()
        found = {"operations": counter.get_total_flops()}
    found["losses"] = {name: float(value) for name, value in losses.items() if name.startswith("loss")}
    if path is None:
        return found
    ours = gradients_of(trainer)
    if path.exists():
        found["gradients"] = gradient_difference(ours, torch.load(path, weights_only=True))
    else:
        torch.save(ours, path)
    return found


def measure_times(step: Callable[[], object], preset: Preset, device: torch.device) -> dict[str, float]:
    """Seconds of an iteration among several in a row, and until a single call returns."""
    host, total = [], []
    for _ in range(3):
        synchronize(device)
        start = time.perf_counter()
        step()
        host.append(time.perf_counter() - start)
    for _ in range(preset.rounds):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(preset.iterations):
            step()
        synchronize(device)
        total.append((time.perf_counter() - start) / preset.iterations)
    return {"seconds": statistics.median(total), "host_seconds": statistics.median(host)}
