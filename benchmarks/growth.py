"""Time and memory as the work grows: one plot each for training, loading, evaluation and CRF.

    python benchmarks/growth.py [--subjects train loading evaluation crf] [--out benchmarks/plots]

One quantity varies at a time. Each point is measured in a process of its own: CPU time on a CPU, wall-clock time on a
GPU; peak memory of the tensors on a GPU, on a CPU the resident set, minus its size before the work. The exponent is
that of a power law through the last two points: 1 is proportional, 0 is constant. Requires matplotlib.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import evaluate as script
from benchmarks.common import (
    alone,
    make_parser,
    peak_bytes,
    quietly,
    require_matplotlib,
    set_up,
    table,
    take_turns,
)
from benchmarks.data import make_data, make_evaluation, make_image, make_probabilities, output_options
from benchmarks.trainer import Setting, Trainer, make_batches, make_mix
from datasets.loaders import DataConfig, SimpleDataset, train_loader
from networks.deeplab import ARCHS
from utils.core.cli import positive_int as positive
from utils.core.errors import run_script
from utils.crf.dense_crf import PRUNE, dense_crf

Point = tuple[float, int]  # seconds, bytes
# The values of the quantities that do not vary.
USUAL = {"batch size": 2, "crop": 161, "classes": 21, "images": 16, "image side": 320}
RANGES = [
    ("train", "batch size", [1, 2, 4, 8]),
    ("train", "crop", [81, 161, 321, 481]),
    ("train", "classes", [6, 21, 81, 151]),
    ("loading", "batch size", [2, 5, 10, 20, 40]),
    ("loading", "crop", [81, 161, 321, 641]),
    ("loading", "image side", [160, 320, 640, 1280]),
    ("loading", "images", [10, 1000, 100000]),
    ("evaluation", "image side", [160, 320, 480, 640]),
    ("evaluation", "classes", [6, 21, 81, 151]),
    ("evaluation", "images", [8, 16, 32, 64]),
    ("crf", "image side", [160, 320, 480, 640]),
    ("crf", "classes", [6, 21, 81]),
]
UNITS = {"train": "s/iteration", "loading": "s/batch", "evaluation": "s in total", "crf": "s/image"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--subjects", nargs="+", choices=UNITS, default=list(UNITS), help="what to measure")
    add("--arch", choices=ARCHS, default="mini", help="segmentation network")
    add("--points", type=positive, default=9, help="measure only the N smallest values of each quantity")
    add("--out", type=Path, default=Path(__file__).parent / "plots", help="folder of the plots")
    return parser.parse_args(argv)


def measure(function: Callable[[], object], name: str, rounds: int = 3) -> Point:
    """Median time of a call, and the memory of the calls in addition to what was used before."""
    device = torch.device(name)
    before = peak_bytes(device)
    if rounds > 1:
        function()  # the first call is not timed
    times = take_turns({"": function}, rounds, device)
    return times[""].on(device), max(peak_bytes(device) - before, 1)


def train_point(values: dict[str, int], s: Setting) -> Point:
    """One iteration with denoising and S2C."""
    s = replace(s, crop=values["crop"], batch_size=values["batch size"], num_classes=values["classes"])
    batches, mix, trainer = make_batches(s), make_mix(s), Trainer("ours", s)
    return measure(partial(trainer.step, batches, "denoising+cutmix", mix), s.device)


def loading_point(values: dict[str, int], s: Setting) -> Point:
    """One batch of simple images, without worker processes."""
    side, crop = values["image side"], values["crop"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # In another process, because it needs more memory than loading.
        files = alone(make_data, root, [(side, side)] * 8)
        entries = [files[k % len(files)] for k in range(values["images"])]
        images = SimpleDataset(entries, DataConfig(root / "JPEGImages", root / "labels", (crop, crop)))
        batches = iter(train_loader(images, values["batch size"], 0))
        return measure(lambda: next(batches), "cpu", rounds=9)


def evaluation_point(values: dict[str, int], s: Setting) -> Point:
    """evaluate.py on images of one size."""
    sizes = [(values["image side"],) * 2] * values["images"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        options = [*make_evaluation(root, s.arch, sizes, values["classes"]), *output_options(root / "out")]
        args = script.parse_args([*options, f"--device={s.device}", "--num-workers=0"])
        return measure(partial(quietly, script.evaluate, args), s.device, rounds=1)


def crf_point(values: dict[str, int], s: Setting) -> Point:
    """The CRF of one image with the torch backend and pruning."""
    size = (values["image side"],) * 2
    # The same image at all sizes, because the lattice depends on its content; in another process, to save memory.
    image = alone(make_image, np.random.default_rng(0), (640, 640))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    probabilities = make_probabilities(np.random.default_rng(0), values["classes"], size, favour=8)
    crf = partial(dense_crf, image, probabilities.to(s.device), backend="torch", prune=PRUNE)
    return measure(crf, s.device)


POINTS = {"train": train_point, "loading": loading_point, "evaluation": evaluation_point, "crf": crf_point}


def exponent(xs: list[int], ys: Sequence[float]) -> str:
    """Of the power law through the last two points."""
    return f"{math.log(ys[-1] / ys[-2]) / math.log(xs[-1] / xs[-2]):.2f}"


Curves = dict[str, tuple[list[int], list[Point]]]  # by quantity: its values, and a point for each


def grow(subject: str, s: Setting, most: int) -> Curves:
    """Measures a subject with at most `most` values per quantity."""
    found = {}
    ranges = {quantity: values[:most] for kind, quantity, values in RANGES if kind == subject}
    for quantity, values in ranges.items():
        points = [alone(POINTS[subject], USUAL | {quantity: value}, s) for value in values]
        found[quantity] = values, points
        seconds, mebibytes = zip(*((time, size / 2**20) for time, size in points))
        cells: list[tuple] = [*zip(values, seconds, mebibytes)]
        if len(values) > 1:
            cells.append(("exponent", exponent(values, seconds), exponent(values, mebibytes)))
        head = f"{subject}: {quantity}", UNITS[subject], "peak MiB"
        print(f"\n{table([dict(zip(head, row)) for row in cells])}", flush=True)
    return found


def plot(subject: str, found: Curves, title: str, path: Path) -> None:
    """One column per quantity: time above, memory below, on logarithmic axes."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    size = 3 * len(found), 5
    figure, axes = plt.subplots(2, len(found), figsize=size, squeeze=False, layout="constrained")
    for column, (quantity, (values, points)) in enumerate(found.items()):
        seconds, sizes = zip(*points)
        mebibytes = [size / 2**20 for size in sizes]
        for axis, ys, unit in zip(axes[:, column], (seconds, mebibytes), (UNITS[subject], "peak MiB")):
            axis.loglog(values, ys, "o-")
            axis.set_xticks(values, [str(value) for value in values])
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set(xlabel=quantity, ylabel="" if column else unit, ylim=(min(ys) / 3, max(ys) * 3))
            axis.grid(True, which="both", alpha=0.3)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    require_matplotlib()
    device = set_up(args)
    s = Setting(args.arch, device=args.device)
    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if gpu else f"{args.threads} CPU thread(s)"
    for subject in args.subjects:
        found = grow(subject, s, args.points)
        what = "" if subject in ("loading", "crf") else f", {args.arch}"
        plot(subject, found, f"{subject}{what}, {name}", args.out / f"{subject}.png")
        print(f"{args.out / subject}.png")


if __name__ == "__main__":
    run_script(main)
