"""Images per second of two-scale inference, and its memory as the images grow in number.

    python benchmarks/evaluate.py --arch mini --device cpu          (resnet101 on a GPU)

Pictures of mixed sizes are evaluated by evaluate.py, logits and label pictures written, in turns with a loop that
reads, computes and writes one picture after the other in one process. Logits, labels and scores must be the same but
for rounding. Ratios are by the clock: it is about what happens at the same time.
"""

import argparse
import contextlib
import io
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import evaluate as script
from benchmarks.common import alone, make_parser, peak_bytes, set_up, table, take_turns
from benchmarks.loading import make_data
from datasets.labels import read_label, save_labels
from datasets.lists import read_class_names, read_list
from datasets.loaders import DataConfig, EvalDataset
from networks.checkpoint import load_deeplab, save
from networks.deeplab import ARCHS, build_deeplab, logit_side
from utils.core.cli import positive_int as positive
from utils.core.errors import InputError, run_script
from utils.core.files import save_array
from utils.evaluation import inference, scoring
from utils.evaluation.inference import full_size, multi_scale_logits
from utils.evaluation.metrics import COUNTS, ConfusionMatrix, report_scores

SIZES = ((375, 500), (500, 375), (333, 500), (500, 334), (281, 500))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--arch", choices=ARCHS, default="resnet101", help="segmentation network, its weights random")
    add("--images", type=positive, default=100, help="number of pictures")
    add("--shrink", type=positive, default=1, help="divide VOC's sides by this")
    add("--num-workers", type=positive, default=1, help="loading processes of evaluate.py")
    add("--rounds", type=positive, default=3, help="turns of each way")
    add("--group", type=positive, default=4, help="pictures of one size that are tried in one forward")
    add("--stand-in", type=positive, metavar="MS", help="in the network's place: wait so long, as for a GPU")
    add("--no-memory", action="store_true", help="leave the processes out that measure memory")
    return parser.parse_args(argv)


def make_root(root: Path, arch: str, sizes: Sequence[tuple[int, int]], num_classes: int = 21) -> list[str]:
    """Pictures of the given sizes, their list and weights under `root`; evaluate.py's options for them."""
    entries = make_data(root, sizes, num_classes)
    (root / "list.txt").write_text("".join(f"{entry.id}\n" for entry in entries))
    save(build_deeplab(arch, num_classes, seed=0).state_dict(), root / "weights.pth")
    return ["--data-dir", str(root), "--label-dir", str(root / "labels"), "--data-list", str(root / "list.txt"),
            "--restore-from", str(root / "weights.pth")]  # fmt: skip


def sizes(count: int, shrink: int) -> list[tuple[int, int]]:
    """VOC's sizes, taking turns."""
    return [tuple(side // shrink for side in SIZES[k % len(SIZES)]) for k in range(count)]


def machine_options(args: argparse.Namespace) -> list[str]:
    return ["--device", args.device, "--num-workers", str(args.num_workers)]


def waiting(seconds: float) -> Callable[..., Iterator[tuple]]:
    """Takes the place of `infer`: a wait instead of the network, which is what a GPU is to the host."""

    def infer(network: nn.Module, loader: Iterable, *_: object) -> Iterator:
        noise = torch.randn(1, network.num_classes, 80, 80, generator=torch.Generator().manual_seed(0))
        for id_, image, label in loader:
            time.sleep(seconds)
            height, width = map(logit_side, image.shape[2:])
            yield id_, noise[:, :, :height, :width], label % network.num_classes, label

    return infer


def sequential(args: argparse.Namespace) -> None:
    """Read, compute, write; one picture after the other."""
    device = torch.device(args.device)
    network = load_deeplab(args.restore_from, args.num_classes).to(device)
    entries = read_list(args.data_list, network.num_classes, labelled=False)
    images = EvalDataset(entries, DataConfig(args.data_dir / "JPEGImages", args.label_dir))
    confusion = ConfusionMatrix(network.num_classes)
    items = ((id_, torch.from_numpy(image), torch.from_numpy(label)) for id_, image, label in images)
    for id_, logits, prediction, label in scoring.infer(network, items, device, args.scales):
        confusion.update(label, prediction)
        save_array(args.logit_dir / f"{id_}.npy", logits[0].cpu().numpy())
        save_labels(args.save_predictions / f"{id_}.png", prediction.cpu().numpy())
    report_scores(
        confusion,
        read_class_names(None, network.num_classes),
        args.score_dir / "scores.json",
        vars(args),
        device,
    )


class AtOnce:
    """Takes the place of `Background`: writing in the main thread."""

    def __enter__(self) -> Callable:
        return lambda function, *args: function(*args)

    def __exit__(self, *error: object) -> None: ...


def reading_ahead(args: argparse.Namespace) -> None:
    """evaluate.py, but it writes before it goes on."""
    with mock.patch.object(scoring, "Background", AtOnce):
        script.evaluate(args)


def run(way: Callable[[argparse.Namespace], None], options: list[str], out: Path, wait: int | None) -> None:
    """One way over all pictures, quietly; `wait`: milliseconds in the network's place."""
    results = {"--logit-dir": "logits", "--score-dir": "scores", "--save-predictions": "png"}
    args = script.parse_args(
        [*options, *(word for option, name in results.items() for word in (option, str(out / name)))]
    )
    infer = waiting(wait / 1e3) if wait else inference.infer
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        mock.patch.object(scoring, "infer", infer),
    ):
        way(args)


def difference(a: Path, b: Path, relative: float = 1e-5, share: float = 1e-4) -> float:
    """Greatest difference of the logits of two runs, relative to the greatest logit.

    Raises:
        InputError: other files, logits further apart than `relative`, or more than that share of pixels with another
            label or in another place of the confusion matrix.
    """

    def files_of(root: Path) -> list[Path]:
        return sorted(path.relative_to(root) for path in root.rglob("*.*") if path.name != "made_by.json")

    names = files_of(a)
    if not names or names != files_of(b):
        raise InputError("the two ways did not write the same files; mend evaluate.py")
    largest = 0.0
    for name in names:
        apart, bound = 0.0, share
        if name.suffix == ".npy":
            ours, theirs = np.load(a / name), np.load(b / name)
            apart, bound = float(np.abs(ours - theirs).max() / np.abs(theirs).max()), relative
            largest = max(largest, apart)
        elif name.suffix == ".png":
            apart = (read_label(a / name, 256) != read_label(b / name, 256)).mean()
        elif name.name == "confusion.json":
            ours, theirs = (np.array(json.loads((root / name).read_text())[COUNTS]) for root in (a, b))
            apart = np.abs(ours - theirs).sum() / theirs.sum()
        if apart > bound:
            raise InputError(f"{name} of the two ways differs by {apart:.1e}; mend evaluate.py")
    return largest


def compare(options: list[str], root: Path, args: argparse.Namespace) -> tuple[list[list], float]:
    """A row for each way, and how far their logits are apart."""
    ways = {"one after the other": sequential, "reading ahead": reading_ahead, "evaluate.py": script.evaluate}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir()
            start = time.perf_counter()
            run(way, options, root / name, args.stand_in)
            seconds[name].append(time.perf_counter() - start)
    rates = {name: args.images / statistics.median(s) for name, s in seconds.items()}
    first, *others = ways
    rows = [[name, rate, rate / rates[first]] for name, rate in rates.items()]
    return rows, max(difference(root / name, root / first) for name in others)


def parts(options: list[str], args: argparse.Namespace) -> list[list]:
    """Milliseconds of a picture: reading, network, writing; and in groups of one size."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    a = script.parse_args(options)
    network = load_deeplab(a.restore_from, a.num_classes).to(device)
    images = EvalDataset(read_list(a.data_list, network.num_classes, labelled=False),
                   DataConfig(a.data_dir / "JPEGImages", a.label_dir))  # fmt: skip
    image = torch.from_numpy(images[0][1]).to(device)
    group = image.repeat(args.group, 1, 1, 1)
    logits = multi_scale_logits(network, image)
    apart = float((multi_scale_logits(network, group) - logits).abs().max() / logits.abs().max())
    prediction = full_size(logits, image.shape[2:]).argmax(1)[0].to(torch.uint8)
    out = a.data_dir / "parts"
    times = take_turns({
        "reading": lambda: images[0],
        "two-scale logits": lambda: multi_scale_logits(network, image),
        f"the same, {args.group} in a forward": lambda: multi_scale_logits(network, group),
        "full size, argmax": lambda: full_size(logits, image.shape[2:]).argmax(1),
        "writing logits": lambda: save_array(out / "a.npy", logits[0].cpu().numpy()),
        "writing labels": lambda: save_labels(out / "a.png", prediction.cpu().numpy()),
    }, 2 * args.rounds + 1, device)  # fmt: skip
    rows = [
        [name, 1e3 * t.on(device) / (args.group if "forward" in name else 1)] for name, t in times.items()
    ]
    return [*rows, ["logits alone and in a group differ by (relative)", apart]]


def peak_of(options: list[str], out: Path, threads: int) -> int:
    """Bytes that evaluate.py needs at most; to be run in a process of its own."""
    torch.set_num_threads(threads)
    run(script.evaluate, options, out, None)
    return peak_bytes(torch.device(script.parse_args(options).device))


def memory(args: argparse.Namespace, count: int) -> int:
    """Peak memory of evaluating `count` pictures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        options = [*make_root(root, args.arch, sizes(count, args.shrink)), *machine_options(args)]
        return alone(peak_of, options, root / "out", args.threads)


def main(argv: list[str] | None = None) -> list[list]:
    args = parse_args(argv)
    set_up(args)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        options = [*make_root(root, args.arch, sizes(args.images, args.shrink)), *machine_options(args)]
        print(
            f"{args.arch}, {args.images} pictures of {len(SIZES)} sizes, {args.num_workers} loading process(es)\n"
        )
        print(table(["one picture", "ms"], alone(parts, options, args)), flush=True)
        rows, apart = compare(options, root, args)
        print(
            f"\n{table(['way', 'images/s', 'speed-up'], rows)}\nlogits differ by {apart:.1e} at most",
            flush=True,
        )
    if not args.no_memory:
        peaks = [[n, memory(args, n) / 2**30] for n in (args.images, 4 * args.images)]
        print(f"\n{table(['pictures', 'peak GiB'], peaks)}")
    return rows


if __name__ == "__main__":
    run_script(main)
