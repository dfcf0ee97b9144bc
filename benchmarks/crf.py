"""Time and agreement of the CRF's backends, with and without pruning of unlikely classes.

    python benchmarks/crf.py [--images DIR] [--count 20] [--classes 5 21] [--device cuda]
    python benchmarks/crf.py --images DIR --masks DIR      (photographs with softened masks)
    python benchmarks/crf.py --images DIR --logits DIR     (the logits of a network, from evaluate.py)

All backends process one image before the next one, so that they see the same load; the last image is pure noise.
Times are medians over the images, CPU time on a CPU. Speed-up (median over the images) and agreement (of the worst
image) are relative to pydensecrf without pruning or, if it is not installed, to torch on the CPU without pruning; the
noise has columns of its own. No lattice is kept from one run to the next.
Without --masks and --logits, the probabilities are the softmax of smooth random logits that favour the background
and two classes.
"""

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import make_parser, set_up, table, timed
from benchmarks.data import make_image, make_probabilities, soften_mask
from datasets.images import read_image
from datasets.labels import IGNORE_LABEL, read_label
from utils.core.cli import positive_int as positive
from utils.core.errors import InputError, run_script
from utils.core.files import read_array
from utils.crf import dense_crf as dense_crf_module
from utils.crf.dense_crf import PRUNE, dense_crf
from utils.evaluation.inference import full_size


class Run(NamedTuple):
    """One image with one backend."""

    seconds: float
    labels: float  # share of equal labels
    difference: float  # greatest difference of a probability


Case = tuple[np.ndarray, torch.Tensor]  # an image and its probabilities
Runs = dict[tuple[str, str, bool], list[Run]]  # by backend, device and pruning; the first is the reference


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--images", type=Path, help="folder of .jpg images (default: synthetic images)")
    add("--masks", type=Path, help="folder of label maps ID.png, which are softened to probabilities")
    add("--logits", type=Path, help="folder of logits ID.npy")
    add("--count", type=positive, default=20, help="number of images in addition to the noise, evenly spaced")
    text = "size of the images (default: with --masks or --logits that of each image, otherwise 375 500)"
    add("--size", type=positive, nargs=2, metavar=("HEIGHT", "WIDTH"), help=text)
    add("--classes", type=positive, nargs="+", default=[5, 21], help="numbers of classes; not with --logits")
    add("--favour", type=float, default=8, help="added to the logits of the favoured classes")
    add("--prune", type=float, default=PRUNE, help="probability below which a class is pruned")
    args = parser.parse_args(argv)
    if args.size is None and not (args.masks or args.logits):
        args.size = [375, 500]
    if min(args.classes) < 2 or min(args.size or [64]) < 64:
        raise InputError("--classes must be 2 or more, --size 64 or more")
    if (args.masks or args.logits) and not args.images:
        raise InputError("--masks and --logits need --images")
    if args.logits:
        args.classes = [len(load(choose_images(args)[0], np.random.default_rng(), 0, args)[1])]
    return args


def choose_images(args: argparse.Namespace) -> list[Path]:
    """`--count` evenly spaced images of the folder that have a mask or logits, if these are given."""
    paths = sorted(args.images.glob("*.jpg"))
    for folder, suffix in ((args.masks, ".png"), (args.logits, ".npy")):
        if folder:
            paths = [path for path in paths if (folder / f"{path.stem}{suffix}").exists()]
    if len(paths) < args.count:
        raise InputError(f"{args.images} has {len(paths)} usable .jpg files, not {args.count}: set --count")
    return paths[:: len(paths) // args.count][: args.count]


def load(path: Path, rng: np.random.Generator, classes: int, args: argparse.Namespace) -> Case:
    """An image, BGR, and its probabilities."""
    image = read_image(path)
    size = tuple(args.size or image.shape[:2])
    if args.logits:
        logits = torch.from_numpy(read_array(args.logits / f"{path.stem}.npy", "create it with evaluate.py"))
        probabilities = full_size(logits[None].float(), size)[0].softmax(0)
    elif args.masks:
        mask = read_label(args.masks / f"{path.stem}.png", classes, image.shape[:2])
        mask = np.where(mask == IGNORE_LABEL, 0, mask)
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
        probabilities = soften_mask(rng, mask, classes)
    else:
        probabilities = make_probabilities(rng, classes, size, args.favour)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), probabilities


def make_cases(classes: int, args: argparse.Namespace) -> Iterator[Case]:
    """The images with their probabilities; the last one is noise."""
    rng = np.random.default_rng(classes)
    size = tuple(args.size or (375, 500))
    if args.images:
        for path in choose_images(args):
            yield load(path, rng, classes, args)
    else:
        for _ in range(args.count):
            yield make_image(rng, size), make_probabilities(rng, classes, size, args.favour)
    noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    yield noise, make_probabilities(rng, classes, size, args.favour)


def backends(device: str) -> list[tuple[str, str]]:
    """The backends and their devices; the first is the reference."""
    reference = "torch" if importlib.util.find_spec("pydensecrf") is None else "pydensecrf"
    return list(dict.fromkeys([(reference, "cpu"), ("torch", device)]))


def measure(classes: int, args: argparse.Namespace) -> Runs:
    """The runs of all images with every backend."""
    runs: Runs = {(*backend, pruned): [] for backend in backends(args.device) for pruned in (False, True)}
    kept = []
    for image, probabilities in make_cases(classes, args):
        kept.append(int((probabilities.amax((1, 2)) >= args.prune).sum()))
        reference = None
        for (backend, where, pruned), found in runs.items():
            device = torch.device(where)
            prune = args.prune if pruned else None
            crf = partial(dense_crf, image, probabilities.to(device), backend=backend, prune=prune)
            dense_crf_module.smoothness_kernel.cache_clear()
            q, times = timed(crf, device)
            q = q.cpu()
            reference = q if reference is None else reference
            labels = (q.argmax(0) == reference.argmax(0)).float().mean().item()
            found.append(Run(times.on(device), labels, (q - reference).abs().max().item()))
    print(f"\n{classes} classes; pruning at {args.prune:g} keeps {statistics.mean(kept[:-1]):.1f} on average")
    return runs


def make_rows(runs: Runs) -> list[dict]:
    """One row per backend, device and pruning."""
    rows, (*base, _) = [], next(iter(runs.values()))
    for (backend, device, pruned), (*usual, noise) in runs.items():
        seconds = statistics.median(run.seconds for run in usual)
        speed_up = statistics.median(b.seconds / run.seconds for b, run in zip(base, usual))
        row = {"backend": backend, "device": device, "pruned": "yes" if pruned else "no"}
        row["s/image"] = f"{seconds:.4f}"
        row |= {"speed-up": f"{speed_up:.2f}", "noise s": f"{noise.seconds:.2f}"}
        row["labels %"] = f"{100 * min(run.labels for run in usual):.4f}"
        row["max |dp|"] = f"{max(run.difference for run in usual):.5f}"
        row |= {"noise labels %": f"{100 * noise.labels:.4f}", "noise |dp|": f"{noise.difference:.5f}"}
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> dict[int, list[dict]]:
    """Returns the rows of the table by number of classes."""
    args = parse_args(argv)
    set_up(args)
    if importlib.util.find_spec("pydensecrf") is None:
        print("pydensecrf is not installed: torch only")
    rng = np.random.default_rng(0)
    small = make_image(rng, (64, 80)), make_probabilities(rng, 2, (64, 80), 0)
    dense_crf(*small, backend="torch", device=args.device)  # warm-up
    size = f"of {args.size[0]}x{args.size[1]}" if args.size else "at their own size"
    print(f"{args.count} images {size}")
    rows: dict[int, list[dict]] = {}
    for classes in args.classes:
        rows[classes] = make_rows(measure(classes, args))
        print(table(rows[classes]), flush=True)
    return rows


if __name__ == "__main__":
    run_script(main)
