"""Images per second of the training loaders, and the time of each of their parts.

    python benchmarks/loading.py [--workers 0 1 2 4] [--random-scale --random-mirror]

Runs on synthetic JPEGs of VOC's size with palette labels, in a temporary folder. `before` is the straightforward
order of operations: the whole image is converted to float, minus the mean, then padded, then cropped. The benchmark
first checks that the network gets the same numbers. Times of single items are CPU time; images per second are
wall-clock time, with all four loaders running as in training, `before` and `now` in turn; with --device cuda they
include the copies to the GPU, from pinned memory.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import make_parser, set_up, table, take_turns, timed
from benchmarks.data import make_data
from datasets import loaders
from datasets import transforms as T
from datasets.images import read_image
from datasets.labels import read_label
from datasets.lists import Entry
from datasets.loaders import DataConfig, ImageDataset, train_loader
from utils.core.cli import count
from utils.core.cli import positive_int as positive
from utils.core.device import send
from utils.core.errors import InputError, run_script

CPU = torch.device("cpu")


def subtract_mean(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) - T.MEAN_BGR


class PlainComplex(loaders.ComplexDataset):
    """Converts images to float and pads them before cropping."""

    def cropped(self, image: np.ndarray, label: np.ndarray | None, rng: np.random.Generator) -> T.Pair:
        config = self.config
        image, label = T.pad(subtract_mean(image), label, config.crop, config.ignore_label)
        return T.random_crop(image, label, config.crop, rng)

    def item(self, entry: Entry, image: np.ndarray, label: np.ndarray | None) -> tuple:
        labels = () if label is None else (np.ascontiguousarray(label), entry.classes[0])
        return T.to_network(image), *labels


class PlainSimple(PlainComplex):
    purpose, needs_label = "simple", True


class PlainGT(PlainSimple, loaders.GTDataset):
    purpose = "gt"


class PlainCls(loaders.ClsDataset):
    def to_network(self, image: np.ndarray) -> np.ndarray:
        return T.to_network(subtract_mean(image))


BEFORE = PlainComplex, PlainCls, PlainSimple, PlainGT
NOW = loaders.ComplexDataset, loaders.ClsDataset, loaders.SimpleDataset, loaders.GTDataset


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add, size = parser.add_argument, (375, 500)
    add("--workers", type=count, nargs="+", default=[0, 1, 2], help="processes of each of the four loaders")
    add("--images", type=positive, default=40, help="number of images")
    add("--size", type=positive, nargs=2, default=size, metavar=("H", "W"), help="height and width, pixels")
    add("--crop", type=positive, default=321, help="side of the crop")
    add("--batch-size", type=positive, default=10, help="images per batch")
    add("--iterations", type=positive, default=10, help="timed iterations (four batches each) of a turn")
    add("--rounds", type=positive, default=3, help="turns of `before` and `now`")
    add("--random-scale", action="store_true", help="scale the images randomly")
    add("--random-mirror", action="store_true", help="mirror the images randomly")
    args = parser.parse_args(argv)
    if min(args.size) < 32:
        raise InputError("--size must be 32 or more")
    return args


def same_items(before: ImageDataset, now: ImageDataset, number: int) -> bool:
    """Whether the first items of both are bitwise the same once the network sees them."""
    keys = [(k, k % len(now)) for k in range(number)]
    return all(
        np.array_equal(a, b) for key in keys for a, b in zip(before[key], with_input(now[key]), strict=True)
    )


def with_input(item: tuple) -> tuple:
    """An item of `now` with the image as `to_input` converts it on the device."""
    planes, *labels = item
    return T.to_input(torch.from_numpy(planes)[None])[0].numpy(), *labels


def measure_parts(before: ImageDataset, now: ImageDataset, batch_size: int) -> dict:
    """A row: milliseconds per image."""
    keys = itertools.cycle([(k, k % len(now)) for k in range(3 * len(now))])
    entries = itertools.cycle(now.entries)
    batch = [now[next(keys)] for _ in range(batch_size)]
    functions = {
        "decode": lambda: read_image(now.image_path(next(entries))),
        "label": lambda: read_label(now.label_path(next(entries)), now.config.num_classes),
        "before": lambda: before[next(keys)],
        "now": lambda: now[next(keys)],
        "collate": lambda: default_collate(batch),
    }
    if not now.needs_label:
        del functions["label"]
    ms = {name: 1e3 * t.cpu for name, t in take_turns(functions, 2 * len(now), CPU).items()}
    collate, label = ms["collate"] / batch_size, ms.get("label", 0.0)
    read = ms["decode"] + label
    row = {"ms per image": now.purpose, "decode": ms["decode"], "label": label}
    row |= {"rest before": ms["before"] - read, "rest now": ms["now"] - read, "collate": collate}
    return row | {"speed-up": (ms["before"] + collate) / (ms["now"] + collate)}


def per_second(datasets: Sequence[ImageDataset], args: argparse.Namespace, workers: int) -> float:
    """Images per second of all loaders together until they are input of the network, without the workers' start."""
    device = torch.device(args.device)
    pin = device.type == "cuda"
    streams = [iter(train_loader(data, args.batch_size, workers, pin=pin)) for data in datasets]

    def load(iterations: int) -> None:
        for _ in range(iterations):
            for stream in streams:
                images, *_ = [send(tensor, device) for tensor in next(stream)]
                if images.dtype == torch.uint8:
                    T.to_input(images)

    load(2 * max(workers, 1))  # what the workers prefetch before the clock starts
    _, times = timed(partial(load, args.iterations), device)
    return 4 * args.batch_size * args.iterations / times.wall


def measure_rates(
    before: Sequence[ImageDataset], now: Sequence[ImageDataset], args: argparse.Namespace
) -> list[dict]:
    """One row per number of workers."""
    rows = []
    for workers in args.workers:
        turns = [[per_second(kind, args, workers) for kind in (before, now)] for _ in range(args.rounds)]
        old, new = map(statistics.median, zip(*turns))
        row = {"workers per loader": workers, "total": 4 * workers, "images/s before": old}
        row |= {"images/s now": new, "iterations/s": new / (4 * args.batch_size), "speed-up": new / old}
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> dict[str, list[dict]]:
    """Returns the rows of both tables."""
    args = parse_args(argv)
    set_up(args)
    height, width = args.size
    with tempfile.TemporaryDirectory() as folder:
        entries, root = make_data(Path(folder), [(height, width)] * args.images), Path(folder)
        crop = args.crop, args.crop
        config = DataConfig(root / "JPEGImages", root / "labels", crop, args.random_scale, args.random_mirror)
        before, now = ([dataset(entries, config) for dataset in kind] for kind in (BEFORE, NOW))
        for old, new in zip(before, now):
            if not same_items(old, new, 2 * args.images):
                raise InputError(f"{new.purpose}: the items differ; check datasets/loaders.py")
        print(f"{args.images} images of {height}x{width}, crop {args.crop}: items are the same\n")
        parts = [measure_parts(old, new, args.batch_size) for old, new in zip(before, now)]
        print(table(parts), flush=True)
        rates = measure_rates(before, now, args)
        print(f"\n{table(rates)}")
    return {"parts": parts, "rates": rates}


if __name__ == "__main__":
    run_script(main)
