"""What the benchmarks share: pictures, clocks, memory, the device's matrix rate, processes of their own."""

import argparse
import datetime
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from utils.core import cli
from utils.core.errors import InputError


class Times(NamedTuple):
    """Seconds on the wall, and of this process's cores (all threads)."""

    wall: float
    cpu: float

    def on(self, device: torch.device) -> float:
        """What a ratio is made of: on a CPU the cores' time, which other programs hardly disturb."""
        return self.cpu if device.type == "cpu" else self.wall


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = cli.make_parser(doc)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda"
    )
    parser.add_argument("--threads", type=cli.positive_int, default=1, help="threads of torch on a CPU")
    return parser


def set_up(args: argparse.Namespace) -> torch.device:
    """The device, with what the command line says of it; prints what a result needs beside it."""
    kind = args.device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device {args.device} is not there: give cpu or cuda")
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    print(machine(device))
    return device


def machine(device: torch.device) -> str:
    """Device, versions and date in a line."""
    cuda = device.type == "cuda"
    name = (
        torch.cuda.get_device_name(device) if cuda else f"{cpu_name()}, {torch.get_num_threads()} thread(s)"
    )
    versions = f"torch {torch.__version__}, OpenCV {cv2.__version__}, Python {platform.python_version()}"
    return f"{name}; {versions}; {datetime.date.today()}"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def timed(function: Callable[[], object], device: torch.device) -> Times:
    """How long the call takes, until the device is done with it."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter(), time.process_time()
    function()
    synchronize()
    return Times(time.perf_counter() - start[0], time.process_time() - start[1])


def take_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, Times]:
    """Medians over `rounds` calls of each function; they take turns, so that all of them meet the same load."""
    found: dict[str, list[Times]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            found[name].append(timed(function, device))
    return {name: Times(*map(statistics.median, zip(*times))) for name, times in found.items()}


def matrix_rate(dtype: torch.dtype, device: torch.device, rounds: int = 5) -> float:
    """Operations a second of a large matrix product, or of a large 3x3 convolution where that is faster.

    On a CPU torch has different libraries for the two. Float32 on a GPU is as torch's convolutions have it: TF32.
    """
    side, channels = (8192, 2048) if device.type == "cuda" else (1536, 256)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    a = torch.randn(side, side, device=device).to(dtype)
    x = torch.randn(2, channels, 41, 41, device=device).to(dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    calls = {"product": lambda: a @ a, "convolution": lambda: F.conv2d(x, weight, padding=2, dilation=2)}
    operations = {"product": 2 * side**3, "convolution": 2 * x.numel() * weight[0].numel()}
    take_turns(calls, 1, device)
    return max(operations[name] / t.on(device) for name, t in take_turns(calls, rounds, device).items())


def peak_bytes(device: torch.device) -> int:
    """The most memory since the process's start: tensors on a GPU, on a CPU the whole resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # getrusage's figure would start with that of the process that started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def alone(function: Callable, *args: object) -> object:
    """The function's result, from a fresh process: its memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *args).result()


def make_image(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Ellipses and boxes, each with a texture of its own, on a textured ground; a camera's noise and blur."""
    height, width = size
    image = np.zeros((height, width, 3), np.float32)
    for k in range(12):
        mask = np.zeros((height, width), np.uint8)
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = int(rng.integers(10, max(11, width // 4))), int(rng.integers(10, max(11, height // 4)))
        if k == 0:
            mask[:] = 1
        elif k % 3:
            cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        else:
            cv2.rectangle(mask, centre, (centre[0] + axes[0], centre[1] + axes[1]), 1, -1)
        coarse, fine = rng.normal(0, 25, (5, 6, 3)), rng.normal(0, 15, (height // 8, width // 8, 3))
        texture = sum(cv2.resize(t, (width, height), interpolation=cv2.INTER_CUBIC) for t in (coarse, fine))
        image = np.where(mask[..., None] == 1, rng.uniform(20, 235, 3) + texture, image)
    image = cv2.GaussianBlur(image, (0, 0), 0.8) + rng.normal(0, 3, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of text, the first flush left, floats to four figures."""
    cells = [[f"{x:.4g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells)]
    lines = []
    for row in (head, *cells):
        aligned = [text.ljust(w) if k == 0 else text.rjust(w) for k, (text, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(aligned))
    return "\n".join(lines)
