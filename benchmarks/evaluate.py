"""Images per second of two-scale inference, and its peak memory for growing numbers of images.

    python benchmarks/evaluate.py --arch mini --device cpu          (resnet101 on a GPU)

evaluate.py, which writes logits and label PNGs, takes turns with a loop that reads, computes and writes one image
after the other in one process. The images have different sizes. Logits, labels and scores must be the same up to
rounding. Ratios are of wall-clock time, because the ways differ in what runs concurrently.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import evaluate as script
from benchmarks.common import alone, make_parser, peak_bytes, quietly, set_up, table, take_turns, timed
from benchmarks.data import make_evaluation, output_options
from datasets.labels import read_label, save_labels
from datasets.lists import read_class_names, read_list
from datasets.loaders import DataConfig, EvalDataset, eval_loader
from networks.checkpoint import load_deeplab
from networks.deeplab import ARCHS, DeepLab, logit_side
from utils.core.cli import positive_int as positive
from utils.core.errors import InputError, run_script
from utils.core.files import save_array
from utils.evaluation import inference, scoring
from utils.evaluation.inference import full_size, multi_scale_logits
from utils.evaluation.metrics import COUNTS, ConfusionMatrix, report_scores

SIZES = ((375, 500), (500, 375), (333, 500), (500, 334), (281, 500))
# Largest difference of the logits, relative to the largest logit, and largest share of pixels whose label, or place
# in the confusion matrix, differs. A GPU may choose other algorithms the second time, and computes in TF32.
BOUNDS = {"cpu": (1e-5, 1e-4), "cuda": (1e-2, 1e-2)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--arch", choices=ARCHS, default="resnet101", help="segmentation network, with random weights")
    add("--images", type=positive, default=100, help="number of images")
    add("--shrink", type=positive, default=1, help="divide the sides of the images by this")
    add("--num-workers", type=positive, default=1, help="loading processes of evaluate.py")
    add("--rounds", type=positive, default=3, help="turns of each way")
    add("--group", type=positive, default=4, help="images per forward in the test of batched inference")
    add("--stand-in", type=positive, metavar="MS", help="replace the network by a wait, as for a GPU")
    add("--no-memory", action="store_true", help="do not measure memory")
    return parser.parse_args(argv)


@contextlib.contextmanager
def synthetic_data(args: argparse.Namespace, count: int) -> Iterator[tuple[Path, list[str]]]:
    """A temporary folder with `count` images of SIZES in turn, and the options of evaluate.py for them."""
    sizes = [(h // args.shrink, w // args.shrink) for h, w in (SIZES * count)[:count]]
    with tempfile.TemporaryDirectory() as folder:
        options = make_evaluation(Path(folder), args.arch, sizes)
        yield Path(folder), [*options, f"--device={args.device}", f"--num-workers={args.num_workers}"]


def load(args: argparse.Namespace) -> tuple[DeepLab, EvalDataset]:
    """The network, and the images for it."""
    network = load_deeplab(args.restore_from, args.num_classes).to(args.device)
    entries = read_list(args.data_list, network.num_classes, labelled=False)
    return network, EvalDataset(entries, DataConfig(args.data_dir / "JPEGImages", args.label_dir))


def sequential(args: argparse.Namespace) -> None:
    """Reads, computes and writes, one image after the other."""
    device, (network, images) = torch.device(args.device), load(args)
    confusion = ConfusionMatrix(network.num_classes)
    for id_, logits, prediction, label in scoring.infer(network, eval_loader(images, 0), device, args.scales):
        confusion.update(label, prediction)
        save_array(args.logit_dir / f"{id_}.npy", logits[0].cpu().numpy())
        save_labels(args.save_predictions / f"{id_}.png", prediction.cpu().numpy())
    names = read_class_names(None, network.num_classes)
    report_scores(confusion, names, args.score_dir / "scores.json", vars(args), device)


def reading_ahead(args: argparse.Namespace) -> None:
    """evaluate.py, writing in the main thread."""
    background = contextlib.nullcontext(lambda function, *args: function(*args))
    with mock.patch.object(scoring, "Background", return_value=background):
        script.evaluate(args)


WAYS = {
    "one after the other": sequential,
    "reading ahead": reading_ahead,
    "evaluate.py": script.evaluate,
}


def waiting(seconds: float) -> Callable[..., Iterator[tuple]]:
    """Replaces `infer`: waits instead of running the network, as the host does for a GPU."""

    def infer(network: DeepLab, loader: Iterable, *_: object) -> Iterator:
        noise = torch.randn(1, network.num_classes, 80, 80, generator=torch.Generator().manual_seed(0))
        for id_, image, label in loader:
            time.sleep(seconds)
            height, width = map(logit_side, image.shape[2:])
            yield id_, noise[:, :, :height, :width], label % network.num_classes, label

    return infer


def difference(a: Path, b: Path, device: torch.device) -> float:
    """Largest difference of the logits of two ways, relative to the largest logit.

    Raises:
        InputError: the ways wrote different files, or their results differ by more than BOUNDS.
    """
    files = {path.relative_to(root) for root in (a, b) for path in root.rglob("*.*")}
    (max_logits, max_share), largest = BOUNDS[device.type], 0.0
    for name in sorted(file for file in files if file.name != "made_by.json"):
        paths = a / name, b / name
        if not all(path.exists() for path in paths):
            raise InputError(f"only one of the two ways wrote {name}; check evaluate.py")
        apart, bound = 0.0, max_share
        if name.suffix == ".npy":
            ours, theirs = map(np.load, paths)
            apart, bound = float(np.abs(ours - theirs).max() / np.abs(theirs).max()), max_logits
            largest = max(largest, apart)
        elif name.suffix == ".png":
            ours, theirs = (read_label(path, 256) for path in paths)
            apart = (ours != theirs).mean()
        elif name.name == "confusion.json":
            ours, theirs = (np.array(json.loads(path.read_text())[COUNTS]) for path in paths)
            apart = np.abs(ours - theirs).sum() / theirs.sum()
        if apart > bound:
            raise InputError(f"{name} of the two ways differs by {apart:.1e}; check evaluate.py")
    return largest


def compare(options: list[str], root: Path, args: argparse.Namespace) -> tuple[list[dict], float]:
    """One row per way, and the largest difference of their logits."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    device = torch.device(args.device)
    infer = waiting(args.stand_in / 1e3) if args.stand_in else inference.infer
    for _ in range(args.rounds):
        for name, way in WAYS.items():
            shutil.rmtree(root / name, ignore_errors=True)
            way_args = script.parse_args([*options, *output_options(root / name)])
            with mock.patch.object(scoring, "infer", infer):
                _, times = timed(partial(quietly, way, way_args), device)
            seconds[name].append(times.wall)
    rates = {name: args.images / statistics.median(s) for name, s in seconds.items()}
    first, *others = WAYS
    rows = [{"way": k, "images/s": rate, "speed-up": rate / rates[first]} for k, rate in rates.items()]
    return rows, max(difference(root / name, root / first, device) for name in others)


def measure_parts(options: list[str], args: argparse.Namespace) -> list[dict]:
    """Milliseconds per image of each part, and of forwards with several images."""
    device = torch.device(args.device)
    script_args = script.parse_args(options)
    network, images = load(script_args)
    image = torch.from_numpy(images[0][1]).to(device)
    group, batched = image.repeat(args.group, 1, 1, 1), f"the same, {args.group} per forward"
    logits = multi_scale_logits(network, image)
    apart = float((multi_scale_logits(network, group) - logits).abs().max() / logits.abs().max())
    prediction = full_size(logits, image.shape[2:]).argmax(1)[0].to(torch.uint8)
    out = script_args.data_dir / "parts"
    functions = {
        "reading": lambda: images[0],
        "two-scale logits": lambda: multi_scale_logits(network, image),
        batched: lambda: multi_scale_logits(network, group),
        "full size, argmax": lambda: full_size(logits, image.shape[2:]).argmax(1),
        "writing logits": lambda: save_array(out / "a.npy", logits[0].cpu().numpy()),
        "writing labels": lambda: save_labels(out / "a.png", prediction.cpu().numpy()),
    }
    times = take_turns(functions, 2 * args.rounds + 1, device)
    ms = {name: 1e3 * t.on(device) / (args.group if name == batched else 1) for name, t in times.items()}
    ms["relative difference of logits, single and batched"] = apart
    return [{"one image": name, "ms": value} for name, value in ms.items()]


def peak_of(options: list[str]) -> int:
    """Peak memory of evaluate.py, which must run in a new process."""
    args = script.parse_args(options)
    quietly(script.evaluate, args)
    return peak_bytes(torch.device(args.device))


def peak_gib(args: argparse.Namespace, count: int) -> float:
    """Peak memory of evaluating `count` images."""
    with synthetic_data(args, count) as (root, options):
        return alone(peak_of, [*options, *output_options(root / "out")]) / 2**30


def main(argv: list[str] | None = None) -> dict[str, list[dict]]:
    """Returns the rows of the tables of parts and of ways."""
    args = parse_args(argv)
    set_up(args)
    print(f"{args.arch}, {args.images} images of {len(SIZES)} sizes, {args.num_workers} worker(s)\n")
    with synthetic_data(args, args.images) as (root, options):
        parts = alone(measure_parts, options, args)
        print(table(parts), flush=True)
        rows, apart = compare(options, root, args)
    print(f"\n{table(rows)}\nlogits differ by at most {apart:.1e}", flush=True)
    if not args.no_memory:
        counts = args.images, 4 * args.images
        print(f"\n{table([{'images': n, 'peak GiB': peak_gib(args, n)} for n in counts])}")
    return {"parts": parts, "ways": rows}


if __name__ == "__main__":
    run_script(main)
