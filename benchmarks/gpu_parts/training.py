"""A run of train.py on drawn pictures."""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.data import make_data
from benchmarks.gpu_parts.preset import Context
from utils.core.errors import InputError
from utils.core.files import ROOT


def training(context: Context) -> None:
    """train.py with ResNet-50, or the network of --arch if that is not ResNet-101; the first fifth is warm-up."""
    preset, arch = context.preset, "resnet50" if context.arch == "resnet101" else context.arch
    start = preset.steps // 5
    options = f"--arch {arch} --restore-from none --num-steps {preset.steps} --denoise-from {start}"
    options += f" --log-every {max(1, preset.steps // 20)} --device {context.device} {preset.training}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root, preset.images, preset.image_size)
        paths = {
            "data-dir": root,
            "list-dir": root,
            "pseudo-label-dir": root / "labels",
            "snapshot-dir": root / "run",
        }
        words = [*options.split(), *(f"--{name}={path}" for name, path in paths.items())]
        with subprocess.Popen([sys.executable, str(ROOT / "train.py"), *words], cwd=ROOT) as process:
            times = watch(process, root / "run" / "log.jsonl")
        if process.returncode:
            raise InputError(f"train.py: exit status {process.returncode}")
        log = [json.loads(line) for line in (root / "run" / "log.jsonl").read_text().splitlines()]
    losses = [value for line in log for name, value in line.items() if name.startswith("loss")]
    seconds = seconds_per_iteration(times, start)
    context.record.update(
        arch=arch,
        steps=preset.steps,
        options=preset.training,
        seconds=seconds,
        images_per_second=4 * int(words[words.index("--batch-size") + 1]) / seconds,
        finite=all(map(math.isfinite, losses)),
        loss_seg=[log[0]["loss_seg"], statistics.mean(line["loss_seg"] for line in log[-4:])],
        log=log,
    )


def write_data(root: Path, count: int, size: tuple[int, int]) -> None:
    """A data set in VOC's layout: 6/10 simple images, 3/10 complex ones and 1/10 for validation."""
    entries = make_data(root, [size] * count)
    (root / "SegmentationClassAug").symlink_to("labels")
    simple, complex_ = entries[: 6 * count // 10], entries[6 * count // 10 : 9 * count // 10]
    one = [f"{entry.id} {entry.classes[0]}" for entry in simple]
    several = [f"{entry.id} {entry.classes[0]} {(entry.classes[0] + 1) % 20}" for entry in complex_]
    lists = {"simple_list": one, "complex_list": several, "train_cls": one + several}
    lists["val"] = [entry.id for entry in entries[9 * count // 10 :]]
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def watch(process: subprocess.Popen, log: Path) -> dict[int, float]:
    """When the lines of a training log appeared, by iteration; waits for the end of the process."""
    times: dict[int, float] = {}
    while process.poll() is None:
        *lines, _ = log.read_text().split("\n") if log.exists() else [""]  # the last line may be incomplete
        for line in lines[len(times) :]:
            times[json.loads(line)["i"]] = time.perf_counter()
        time.sleep(0.005)
    return times


def seconds_per_iteration(times: dict[int, float], start: int) -> float:
    """Seconds per iteration between the first and the last line of the log from iteration `start` on."""
    (first, t0), *_, (last, t1) = [(i, t) for i, t in sorted(times.items()) if i >= start]
    return (t1 - t0) / (last - first)
