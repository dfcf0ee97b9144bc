"""Shared parts of the benchmarks: options, timers, peak memory, the device's matrix rate, tables."""

import argparse
import contextlib
import datetime
import importlib.util
import io
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
import torch.nn.functional as F

from utils.core import cli
from utils.core.errors import InputError


class Times(NamedTuple):
    """Seconds of wall-clock time, and of CPU time over all threads of this process."""

    wall: float
    cpu: float

    def on(self, device: torch.device) -> float:
        """The time that ratios use: on a CPU its own time, which other programs hardly affect."""
        return self.cpu if device.type == "cpu" else self.wall


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser, device = cli.make_parser(doc), "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help="cpu or cuda")
    parser.add_argument("--threads", type=cli.positive_int, default=1, help="CPU threads of torch")
    return parser


def set_up(args: argparse.Namespace) -> torch.device:
    """Applies --device and --threads, and prints the device and the versions of the libraries."""
    kind = args.device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device {args.device} is not available: use cpu or cuda")
    device = torch.device(args.device)
    set_threads(args.threads)
    name = torch.cuda.get_device_name(device) if kind == "cuda" else f"{cpu_name()}, {args.threads} thread(s)"
    versions = f"torch {torch.__version__}, OpenCV {cv2.__version__}, Python {platform.python_version()}"
    print(f"{name}; {versions}; {datetime.date.today()}")
    return device


def set_threads(threads: int) -> None:
    """The number of torch's threads; OpenCV runs in the calling thread."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def require_matplotlib() -> None:
    """Raises InputError if the plots could not be drawn at the end."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("matplotlib is not installed: pip install -r requirements-dev.txt")


def synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(function: Callable[[], Any], device: torch.device) -> tuple[Any, Times]:
    """Calls the function and waits for the device; returns the result and the times."""
    synchronize(device)
    start = time.perf_counter(), time.process_time()
    result = function()
    synchronize(device)
    return result, Times(time.perf_counter() - start[0], time.process_time() - start[1])


def median(times: Sequence[Times]) -> Times:
    return Times(*map(statistics.median, zip(*times)))


def take_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, Times]:
    """Median times over `rounds` calls of each function, called in turn so that all see the same load."""
    found: dict[str, list[Times]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            found[name].append(timed(function, device)[1])
    return {name: median(times) for name, times in found.items()}


def use_tf32(enabled: bool) -> None:
    """Sets whether convolutions and matrix products in float32 use TF32 on a GPU."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = enabled


def matrix_rate(number_format: str, device: torch.device, rounds: int = 5) -> float:
    """Operations per second of a large matrix product or 3x3 convolution, whichever is faster.

    On a CPU torch uses different libraries for the two.

    Args:
        number_format: float32, TF32 or bf16.
    """
    side, channels = (8192, 2048) if device.type == "cuda" else (1536, 256)
    dtype = torch.bfloat16 if number_format == "bf16" else torch.float32
    use_tf32(number_format != "float32")
    a = torch.randn(side, side, device=device).to(dtype)
    x = torch.randn(2, channels, 41, 41, device=device).to(dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    calls = {"product": lambda: a @ a, "convolution": lambda: F.conv2d(x, weight, padding=2, dilation=2)}
    operations = {"product": 2 * side**3, "convolution": 2 * x.numel() * weight[0].numel()}
    take_turns(calls, 1, device)  # warm-up
    return max(operations[name] / t.on(device) for name, t in take_turns(calls, rounds, device).items())


def reset_peak(device: torch.device) -> None:
    """Lowers the peak memory to what is in use; has no effect on a CPU without Linux."""
    if device.type == "cuda":
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Peak memory since `reset_peak` or the start of the process: tensors on a GPU, the resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # The peak of getrusage would include that of the parent process.
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def alone(function: Callable, *args: object) -> Any:
    """Calls the function in a new process, to measure its peak memory; with the same number of threads."""
    context, threads = multiprocessing.get_context("spawn"), torch.get_num_threads()
    with ProcessPoolExecutor(1, context, set_threads, (threads,)) as executor:
        return executor.submit(function, *args).result()


def quietly(function: Callable, *args: object) -> None:
    """Calls the function without its output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        function(*args)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Aligned columns below the keys, the first to the left; floats have four significant digits."""
    cells = [[f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows]
    cells.insert(0, list(rows[0]))
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:]))])
        for row in cells
    )
