"""Time and agreement of the CRF's backends, with and without pruning of unlikely classes.

    python benchmarks/crf.py [--images DIR] [--count 20] [--classes 5 21] [--device cuda]

All backends process one image before the next one, so that they see the same load; the last image is pure noise.
Times are medians over the images. Speed-up and agreement (of the worst image) are relative to pydensecrf without
pruning, or to torch without pruning if pydensecrf is not installed; the noise has columns of its own.
Probabilities are synthetic: softmax of smooth random logits that favour the background and two classes.
"""

import argparse
import importlib.util
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import make_parser, set_up, table, timed
from benchmarks.data import Size, make_image, make_probabilities
from datasets.images import read_image
from utils.core.cli import positive_int as positive
from utils.core.errors import InputError, run_script
from utils.crf.dense_crf import PRUNE, dense_crf


class Run(NamedTuple):
    """One image with one backend."""

    seconds: float
    labels: float  # share of equal labels
    difference: float  # greatest difference of a probability


Runs = dict[tuple[str, bool], list[Run]]  # by backend and pruning; the first is the reference


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add, size = parser.add_argument, (375, 500)
    add("--images", type=Path, help="folder of .jpg images (default: synthetic images)")
    add("--count", type=positive, default=20, help="number of images in addition to the noise")
    add("--size", type=positive, nargs=2, default=size, metavar=("H", "W"), help="height and width, pixels")
    add("--classes", type=positive, nargs="+", default=[5, 21], help="numbers of classes")
    add("--favour", type=float, default=8, help="added to the logits of the favoured classes")
    add("--prune", type=float, default=PRUNE, help="probability below which a class is pruned")
    args = parser.parse_args(argv)
    if min(args.classes) < 2 or min(args.size) < 64:
        raise InputError("--classes must be 2 or more, --size 64 or more")
    return args


def load_images(folder: Path, count: int, size: Size) -> list[np.ndarray]:
    """The first `count` images of a folder, BGR, resized."""
    paths = sorted(folder.glob("*.jpg"))[:count]
    if len(paths) < count:
        raise InputError(f"{folder} has {len(paths)} .jpg files, not {count}: set --count")
    return [cv2.resize(read_image(path), size[::-1], interpolation=cv2.INTER_AREA) for path in paths]


def measure(images: list[np.ndarray], classes: int, args: argparse.Namespace) -> Runs:
    """The runs of all images with every backend."""
    backends = ["torch"] if importlib.util.find_spec("pydensecrf") is None else ["pydensecrf", "torch"]
    runs: Runs = {(backend, pruned): [] for backend in backends for pruned in (False, True)}
    rng = np.random.default_rng(classes)
    kept = []
    for image in images:
        probabilities = make_probabilities(rng, classes, image.shape[:2], args.favour)
        kept.append(int((probabilities.amax((1, 2)) >= args.prune).sum()))
        reference = None
        for (backend, pruned), found in runs.items():
            device = torch.device(args.device if backend == "torch" else "cpu")
            prune = args.prune if pruned else None
            crf = partial(dense_crf, image, probabilities.to(device), backend=backend, prune=prune)
            q, times = timed(crf, device)
            q = q.cpu()
            reference = q if reference is None else reference
            labels = (q.argmax(0) == reference.argmax(0)).float().mean().item()
            found.append(Run(times.wall, labels, (q - reference).abs().max().item()))
    print(f"\n{classes} classes; pruning at {args.prune:g} keeps {statistics.mean(kept):.1f} on average")
    return runs


def report(runs: Runs) -> None:
    rows, base = [], None
    for (backend, pruned), (*usual, noise) in runs.items():
        seconds = statistics.median(run.seconds for run in usual)
        base = base or seconds
        row = {"backend": backend, "pruned": "yes" if pruned else "no", "s/image": f"{seconds:.3f}"}
        row |= {"speed-up": f"{base / seconds:.2f}", "noise s": f"{noise.seconds:.2f}"}
        row["labels %"] = f"{100 * min(run.labels for run in usual):.4f}"
        row["max |dp|"] = f"{max(run.difference for run in usual):.5f}"
        row |= {"noise labels %": f"{100 * noise.labels:.4f}", "noise |dp|": f"{noise.difference:.5f}"}
        rows.append(row)
    print(table(rows))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    set_up(args)
    size, rng = tuple(args.size), np.random.default_rng(0)
    if importlib.util.find_spec("pydensecrf") is None:
        print("pydensecrf is not installed: torch only")
    if args.images:
        images = load_images(args.images, args.count, size)
    else:
        images = [make_image(rng, size) for _ in range(args.count)]
    images.append(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    dense_crf(images[0], make_probabilities(rng, 2, size, 0), backend="torch", device=args.device)  # warm-up
    print(f"{args.count} images of {size[0]}x{size[1]}")
    for classes in args.classes:
        report(measure(images, classes, args))


if __name__ == "__main__":
    run_script(main)
