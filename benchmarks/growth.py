"""Time and memory as the work grows: one plot each for training, loading, evaluation and CRF.

    python benchmarks/growth.py [--subjects train loading evaluation crf] [--out benchmarks/plots]

One quantity at a time is varied, the others stay; each point is a process of its own. Time is of the cores on a CPU,
by the clock on a GPU; memory is the process's peak: tensors on a GPU, on a CPU the resident set less what it was
before. The exponent printed is that of the last two points: 1 is proportional, 0 is flat. Needs matplotlib.
"""

import argparse
import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import evaluate as script
from benchmarks.common import alone, make_image, make_parser, peak_bytes, set_up, table, take_turns
from benchmarks.crf import make_probabilities
from benchmarks.evaluate import make_root, run
from benchmarks.loading import make_data
from benchmarks.trainer import Setting, Trainer, make_batches, make_mix
from datasets.loaders import DataConfig, SimpleDataset, train_loader
from networks.deeplab import ARCHS
from utils.core.cli import positive_int as positive
from utils.core.errors import InputError, run_script
from utils.crf.dense_crf import PRUNE, dense_crf

Point = tuple[float, int]  # seconds, bytes
# What stays as it is while another quantity is varied.
USUAL = {"batch size": 2, "crop": 161, "classes": 21, "images": 16, "image side": 320}
RANGES = {
    "train": {"batch size": (1, 2, 4, 8), "crop": (81, 161, 321, 481), "classes": (6, 21, 81, 151)},
    "loading": {
        "batch size": (2, 5, 10, 20, 40), "crop": (81, 161, 321, 641), "image side": (160, 320, 640, 1280),
        "images": (10, 1000, 100000),
    },
    "evaluation": {"image side": (160, 320, 480, 640), "classes": (6, 21, 81, 151), "images": (8, 16, 32, 64)},
    "crf": {"image side": (160, 320, 480, 640), "classes": (6, 21, 81)},
}  # fmt: skip
UNITS = {"train": "s an iteration", "loading": "s a batch", "evaluation": "s in all", "crf": "s an image"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--subjects", nargs="+", choices=RANGES, default=list(RANGES), help="what is measured")
    add("--arch", choices=ARCHS, default="mini", help="segmentation network")
    add("--points", type=positive, default=9, help="at most so many values of each quantity, from the least")
    add("--out", type=Path, default=Path(__file__).parent / "plots", help="folder of the plots")
    return parser.parse_args(argv)


def train_point(values: dict[str, int], s: Setting) -> Point:
    """One iteration during denoising, with S2C."""
    s = replace(s, crop=values["crop"], batch_size=values["batch size"], num_classes=values["classes"])
    batches, mix, trainer = make_batches(s), make_mix(s), Trainer("ours", s)
    return measure(partial(trainer.step, batches, "denoising+cutmix", mix), s)


def loading_point(values: dict[str, int], s: Setting) -> Point:
    """One batch of simple images, in the process itself."""
    side, crop = values["image side"], values["crop"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = alone(make_data, root, [(side, side)] * 8)  # elsewhere, for it needs more memory than loading
        entries = [files[k % len(files)] for k in range(values["images"])]
        images = SimpleDataset(entries, DataConfig(root / "JPEGImages", root / "labels", (crop, crop)))
        batches = iter(train_loader(images, values["batch size"], 0))
        return measure(lambda: next(batches), replace(s, device="cpu"), rounds=9)


def evaluation_point(values: dict[str, int], s: Setting) -> Point:
    """evaluate.py on a list of pictures of one size."""
    side = values["image side"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sizes = [(side, side)] * values["images"]
        options = [
            *make_root(root, s.arch, sizes, values["classes"]),
            "--device",
            s.device,
            "--num-workers",
            "0",
        ]
        return measure(lambda: run(script.evaluate, options, root / "out", None), s, rounds=1)


def crf_point(values: dict[str, int], s: Setting) -> Point:
    """The dense CRF of one image, torch's backend, likely classes alone."""
    size = (values["image side"],) * 2
    # One picture in all sizes, for the lattice grows with what is on it, too; made elsewhere, for that needs memory.
    image = alone(make_image, np.random.default_rng(0), (640, 640))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    probabilities = make_probabilities(np.random.default_rng(0), values["classes"], size, favour=8)
    crf = partial(dense_crf, image, probabilities.to(s.device), backend="torch", prune=PRUNE)
    return measure(crf, s)


def measure(function: Callable[[], object], s: Setting, rounds: int = 3) -> Point:
    """The median time of a call, and what the calls need on top of what is there already."""
    torch.set_num_threads(s.threads)
    cv2.setNumThreads(0)
    device = torch.device(s.device)
    before = peak_bytes(device)
    if rounds > 1:
        function()  # the first call is not timed
    times = take_turns({"": function}, rounds, device)
    return times[""].on(device), max(peak_bytes(device) - before, 1)


POINTS = {"train": train_point, "loading": loading_point, "evaluation": evaluation_point, "crf": crf_point}


def exponent(xs: list[int], ys: list[float]) -> float:
    """Of the power law through the last two points."""
    return math.log(ys[-1] / ys[-2]) / math.log(xs[-1] / xs[-2])


def grow(subject: str, s: Setting, most: int) -> dict[str, tuple[list[int], list[Point]]]:
    """By quantity: its values, and the points measured."""
    found = {}
    for quantity, values in RANGES[subject].items():
        values = list(values[:most])
        points = [alone(POINTS[subject], USUAL | {quantity: value}, s) for value in values]
        found[quantity] = values, points
        rows = [[value, seconds, size / 2**20] for value, (seconds, size) in zip(values, points)]
        if len(values) > 1:
            ends = (exponent(values, list(column)) for column in zip(*points))
            rows.append(["exponent", *(f"{e:.2f}" for e in ends)])
        print(f"\n{table([f'{subject}: {quantity}', UNITS[subject], 'peak MiB'], rows)}", flush=True)
    return found


def plot(subject: str, found: dict[str, tuple[list[int], list[Point]]], title: str, path: Path) -> None:
    """A column for each quantity: time above, memory below, both axes logarithmic."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure, axes = plt.subplots(
        2, len(found), figsize=(3 * len(found), 5), squeeze=False, layout="constrained"
    )
    for column, (quantity, (values, points)) in enumerate(found.items()):
        seconds, sizes = zip(*points)
        mebibytes = [size / 2**20 for size in sizes]
        for axis, ys, unit in zip(axes[:, column], (seconds, mebibytes), (UNITS[subject], "peak MiB")):
            axis.loglog(values, ys, "o-")
            axis.set_xticks(values, [str(value) for value in values])
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel(quantity)
            axis.set_ylabel(unit if column == 0 else "")
            axis.set_ylim(min(ys) / 3, max(ys) * 3)
            axis.grid(True, which="both", alpha=0.3)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the plots need matplotlib: pip install -r requirements-dev.txt")
    device = set_up(args)
    s = Setting(args.arch, device=args.device, threads=args.threads)
    for subject in args.subjects:
        found = grow(subject, s, args.points)
        what = "" if subject in ("loading", "crf") else f", {args.arch}"
        name = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else f"{args.threads} CPU thread(s)"
        )
        plot(subject, found, f"{subject}{what}, {name}", args.out / f"{subject}.png")
        print(f"{args.out / subject}.png")


if __name__ == "__main__":
    run_script(main)
