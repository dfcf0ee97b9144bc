"""Images per second of the training loaders, and where their time goes.

    python benchmarks/loading.py [--workers 0 1 2 4] [--random-scale --random-mirror]

Pictures are textured JPEGs of VOC's size with palette labels, in a temporary folder. `before` is the straightforward
order of operations: the whole image becomes floats less the mean, is padded, and then cropped. The network sees the
same numbers; that is checked first. Times of single items are of the cores' time; images per second are by the clock,
all four loaders side by side as in training, `before` and `now` in turns.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import default_collate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import make_image, make_parser, set_up, table, take_turns
from datasets import transforms as T
from datasets.labels import read_label, save_labels
from datasets.lists import Entry
from datasets.loaders import (
    ClsDataset,
    ComplexDataset,
    DataConfig,
    GTDataset,
    ImageDataset,
    SimpleDataset,
    train_loader,
)
from utils.core.cli import positive_int as positive
from utils.core.errors import InputError, run_script


def subtract_mean(image: np.ndarray) -> np.ndarray:
    """As one would write it."""
    return image.astype(np.float32) - T.MEAN_BGR


class PlainComplex(ComplexDataset):
    """Images to floats, padded, then cropped."""

    def cropped(self, image: np.ndarray, label: np.ndarray | None, rng: np.random.Generator) -> T.Pair:
        config = self.config
        image, label = T.pad(subtract_mean(image), label, config.crop, config.ignore_label)
        return T.random_crop(image, label, config.crop, rng)


class PlainSimple(PlainComplex, SimpleDataset):
    pass


class PlainGT(PlainComplex, GTDataset):
    pass


class PlainCls(ClsDataset):
    def to_network(self, image: np.ndarray) -> np.ndarray:
        return T.to_network(subtract_mean(image))


BEFORE, NOW = (
    (PlainComplex, PlainCls, PlainSimple, PlainGT),
    (ComplexDataset, ClsDataset, SimpleDataset, GTDataset),
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--workers",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="processes per loader; there are four loaders",
    )
    add("--images", type=positive, default=40, help="number of pictures")
    add(
        "--size", type=positive, nargs=2, default=(375, 500), metavar=("HEIGHT", "WIDTH"), help="of a picture"
    )
    add("--crop", type=positive, default=321, help="side of the crop")
    add("--batch-size", type=positive, default=10, help="images of a batch")
    add("--iterations", type=positive, default=10, help="timed iterations (four batches each) of a turn")
    add("--rounds", type=positive, default=3, help="turns of each")
    add("--random-scale", action="store_true", help="with augmentation by scale")
    add("--random-mirror", action="store_true", help="with augmentation by mirroring")
    args = parser.parse_args(argv)
    if min(args.workers) < 0 or min(args.size) < 32:
        raise InputError("--workers must be 0 or more, --size 32 or more")
    return args


def make_data(root: Path, sizes: Sequence[tuple[int, int]], num_classes: int = 21) -> list[Entry]:
    """JPEGs of the given sizes with palette labels of one object; the entries of their list."""
    entries = []
    for k, (height, width) in enumerate(sizes):
        rng, name = np.random.default_rng(k), f"image_{k:05}"
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), make_image(rng, (height, width)))
        c, label = int(rng.integers(num_classes - 1)), np.zeros((height, width), np.uint8)
        centre = int(rng.integers(width // 4, width)), int(rng.integers(height // 4, height))
        cv2.ellipse(label, centre, (width // 4, height // 3), float(rng.uniform(0, 180)), 0, 360, c + 1, -1)
        border = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        save_labels(root / "labels" / f"{name}.png", np.where(border, 255, label))
        entries.append(Entry(name, (c,)))
    return entries


def same_items(before: ImageDataset, now: ImageDataset, count: int) -> bool:
    """Whether the first items of both are the same, bit by bit."""
    for k in range(count):
        key = k, k % len(now)
        if not all(np.array_equal(a, b) for a, b in zip(before[key], now[key], strict=True)):
            return False
    return True


def parts(before: ImageDataset, now: ImageDataset, args: argparse.Namespace) -> list:
    """A row: milliseconds of an image and of what it consists of."""
    keys = itertools.cycle([(k, k % len(now)) for k in range(3 * len(now))])
    entries = itertools.cycle(now.entries)
    config, cpu = now.config, torch.device("cpu")
    batch = [now[next(keys)] for _ in range(args.batch_size)]
    functions = {
        "decode": lambda: T.read_image(now.image_path(next(entries))),
        "label": lambda: read_label(now.label_path(next(entries)), config.num_classes),
        "before": lambda: before[next(keys)],
        "now": lambda: now[next(keys)],
        "collate": lambda: default_collate(batch),
    }
    if not now.needs_label:
        del functions["label"]
    ms = {name: 1e3 * t.cpu for name, t in take_turns(functions, 2 * len(now), cpu).items()}
    collate, read = ms["collate"] / args.batch_size, ms["decode"] + ms.get("label", 0)
    return [now.purpose, ms["decode"], ms.get("label", 0.0), ms["before"] - read, ms["now"] - read, collate,
            (ms["before"] + collate) / (ms["now"] + collate)]  # fmt: skip


def batches(datasets: Sequence[ImageDataset], args: argparse.Namespace, workers: int) -> Iterator[list]:
    """The four loaders' batches, as train.py asks for them."""
    loaders = [iter(train_loader(dataset, args.batch_size, workers)) for dataset in datasets]
    while True:
        yield [next(loader) for loader in loaders]


def per_second(datasets: Sequence[ImageDataset], args: argparse.Namespace, workers: int) -> float:
    """Images per second of all loaders together, once their workers are up."""
    stream = batches(datasets, args, workers)
    for _ in range(2 * max(workers, 1)):  # what the workers had prepared before the clock starts
        next(stream)
    start = time.perf_counter()
    for _ in range(args.iterations):
        next(stream)
    return 4 * args.batch_size * args.iterations / (time.perf_counter() - start)


def by_workers(
    before: Sequence[ImageDataset], now: Sequence[ImageDataset], args: argparse.Namespace
) -> list[list]:
    """A row for each number of workers."""
    rows = []
    for workers in args.workers:
        measure = partial(per_second, args=args, workers=workers)
        turns = [(measure(before), measure(now)) for _ in range(args.rounds)]
        old, new = map(statistics.median, zip(*turns))
        rows.append([workers, 4 * workers, old, new, new / (4 * args.batch_size), new / old])
    return rows


def main(argv: list[str] | None = None) -> list[list]:
    args = parse_args(argv)
    set_up(args)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        entries = make_data(root, [tuple(args.size)] * args.images)
        config = DataConfig(root / "JPEGImages", root / "labels", (args.crop, args.crop), args.random_scale,
                            args.random_mirror)  # fmt: skip
        before, now = ([loader(entries, config) for loader in kind] for kind in (BEFORE, NOW))
        for old, new in zip(before, now):
            if not same_items(old, new, 2 * args.images):
                raise InputError(
                    f"{new.purpose}: the network would see other numbers; mend datasets/loaders.py"
                )
        print(
            f"{args.images} pictures of {args.size[0]}x{args.size[1]}, crop {args.crop}: items are the same\n"
        )
        head = ["ms an image", "decode", "label", "rest before", "rest now", "collate", "speed-up"]
        rows = [parts(old, new, args) for old, new in zip(before, now)]
        print(table(head, rows), flush=True)
        head = ["workers a loader", "in all", "images/s before", "images/s now", "iterations/s", "speed-up"]
        print(f"\n{table(head, by_workers(before, now, args))}")
    return rows


if __name__ == "__main__":
    run_script(main)
