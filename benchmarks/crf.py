"""Time and agreement of the CRF's backends, with and without the unlikely classes.

    python benchmarks/crf.py [--images DIR] [--count 20] [--classes 5 21] [--device cuda]

Each image, and one of pure noise, goes through every backend in turn, so that all of them meet the same load.
Times are medians over the images. Speed-up and agreement (of the worst image) are against pydensecrf without
pruning, or torch without pruning where pydensecrf is not installed; the noise has columns of its own.
Probabilities are synthetic: softmax of smooth random logits that favour the background and two classes.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import make_image, make_parser, set_up
from utils.core.cli import positive_int as positive
from utils.core.errors import InputError, run_script
from utils.crf.dense_crf import PRUNE, dense_crf


class Run(NamedTuple):
    """One image through one backend: seconds, share of equal labels, greatest difference of a probability."""

    seconds: float
    labels: float
    difference: float


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--images", type=Path, help="folder of .jpg images (synthetic ones, unless given)")
    add("--count", type=positive, default=20, help="number of images besides the noise")
    add(
        "--size",
        type=positive,
        nargs=2,
        default=(375, 500),
        metavar=("HEIGHT", "WIDTH"),
        help="of an image",
    )
    add("--classes", type=positive, nargs="+", default=[5, 21], help="numbers of classes to time")
    add("--favour", type=float, default=8, help="what the favoured classes' logits are raised by")
    add("--prune", type=float, default=PRUNE, help="bound for likely classes")
    return parser.parse_args()


def load_images(folder: Path, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """The first `count` images of a folder, BGR, resized to `size` (height, width)."""
    paths = sorted(folder.glob("*.jpg"))[:count]
    if len(paths) < count:
        raise InputError(f"{folder}: {len(paths)} .jpg files, {count} wanted; give --count")
    images = [cv2.imread(str(path)) for path in paths]
    for path, image in zip(paths, images):
        if image is None:
            raise InputError(f"{path}: not an image that can be read")
    return [cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) for image in images]


def make_probabilities(
    rng: np.random.Generator, classes: int, size: tuple[int, int], favour: float
) -> torch.Tensor:
    """CxHxW: softmax of upsampled random logits; background and two classes are raised by `favour`."""
    logits = rng.normal(0, 2, (1, classes, 12, 16)).astype(np.float32)
    logits[:, [0, *rng.choice(np.arange(1, classes), min(2, classes - 1), replace=False)]] += favour
    logits = torch.nn.functional.interpolate(
        torch.from_numpy(logits), size, mode="bilinear", align_corners=True
    )
    return logits.softmax(1)[0]


def timed(
    image: np.ndarray, probabilities: torch.Tensor, backend: str, device: str, prune: float | None
) -> tuple[torch.Tensor, float]:
    """Marginals on the CPU and the seconds that it took to have them on `device`."""
    probabilities = probabilities.to(device)
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronize()
    start = time.perf_counter()
    marginals = dense_crf(image, probabilities, backend=backend, prune=prune)
    synchronize()
    return marginals.cpu(), time.perf_counter() - start


def measure(
    images: list[np.ndarray], classes: int, args: argparse.Namespace
) -> dict[tuple[str, bool], list[Run]]:
    """Runs by (backend, pruned?), one an image; the first key is what the others are compared with."""
    backends = ["torch"] if importlib.util.find_spec("pydensecrf") is None else ["pydensecrf", "torch"]
    runs = {(backend, pruned): [] for backend in backends for pruned in (False, True)}
    rng = np.random.default_rng(classes)
    kept = []
    for image in images:
        probabilities = make_probabilities(rng, classes, image.shape[:2], args.favour)
        kept.append(int((probabilities.amax((1, 2)) >= args.prune).sum()))
        reference = None
        for (backend, pruned), found in runs.items():
            device = args.device if backend == "torch" else "cpu"
            q, seconds = timed(image, probabilities, backend, device, args.prune if pruned else None)
            reference = q if reference is None else reference
            labels = (q.argmax(0) == reference.argmax(0)).float().mean().item()
            found.append(Run(seconds, labels, (q - reference).abs().max().item()))
    print(f"\n{classes} classes; pruning at {args.prune:g} keeps {statistics.mean(kept):.1f} on average")
    return runs


def report(runs: dict[tuple[str, bool], list[Run]]) -> None:
    base = statistics.median(run.seconds for run in next(iter(runs.values()))[:-1])
    print("backend     pruned   s/image   speed-up   noise s   labels %  (noise)   max |dp|  (noise)")
    for (backend, pruned), found in runs.items():
        *usual, noise = found
        seconds = statistics.median(run.seconds for run in usual)
        worst, difference = min(run.labels for run in usual), max(run.difference for run in usual)
        print(
            f"{backend:<12}{'yes' if pruned else 'no':<6}{seconds:>10.3f}{base / seconds:>11.2f}"
            f"{noise.seconds:>10.2f}{100 * worst:>11.4f}{100 * noise.labels:>10.4f}"
            f"{difference:>10.5f}{noise.difference:>10.5f}"
        )


def main() -> None:
    args = parse_args()
    size, rng = tuple(args.size), np.random.default_rng(0)
    if min(args.classes) < 2 or min(size) < 64:
        raise InputError("--classes must be 2 or more, --size 64 or more")
    set_up(args)
    if importlib.util.find_spec("pydensecrf") is None:
        print("pydensecrf is not installed: torch alone")
    if args.images:
        images = load_images(args.images, args.count, size)
    else:
        images = [make_image(rng, size) for _ in range(args.count)]
    images.append(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    dense_crf(images[0], make_probabilities(rng, 2, size, 0), backend="torch", device=args.device)  # warm up
    print(f"{args.count} images of {size[0]}x{size[1]}")
    for classes in args.classes:
        report(measure(images, classes, args))


if __name__ == "__main__":
    run_script(main)
