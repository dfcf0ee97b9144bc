"""Straightforward code against ours: an iteration of stage 1, the dense CRF, evaluation; prints Markdown tables.

    OMP_NUM_THREADS=1 python benchmarks/bench.py          a CPU: batches of 2
    python benchmarks/bench.py --device cuda              a GPU: batches of 10 (make gpu: after the tests)

The straightforward iteration is benchmarks/baseline.py, the CRF pydensecrf, evaluation a loop that reads, computes
and writes one image after the other. The alternatives take turns; times are medians, of CPU time on a CPU, which
other programs hardly affect. ONF keeps all images, which is the most work.
"""

import argparse
import contextlib
import importlib.util
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import evaluate
from benchmarks.ablation.report import markdown
from benchmarks.runner import CASES, Runner, Setting, loss_difference, make_batches, moved
from datasets.labels import save_labels
from datasets.lists import read_list
from datasets.loaders import DataConfig, EvalDataset
from datasets.openmoji.dataset import Recipe, make_dataset
from datasets.voc import VOC_CLASSES
from networks.checkpoint import load_deeplab
from networks.deeplab import build_deeplab
from utils.core import cli
from utils.core.device import pick_device
from utils.core.errors import run_script
from utils.core.files import save_array
from utils.crf.dense_crf import PRUNE, dense_crf
from utils.evaluation.inference import full_size, multi_scale_logits
from utils.evaluation.metrics import ConfusionMatrix

Rows = list[tuple[str | float, ...]]
Table = tuple[str, Rows]  # titles, separated by bars
MODES = ("baseline", "ours", "ours+channels-last", "ours+channels-last+bf16")
# Shares of a run of 12,000 iterations, of which 1,000 are warm-up, half of each with CutMix.
SHARES = dict(zip(CASES, (1 / 24, 1 / 24, 11 / 24, 11 / 24)))


def timed(function: Callable[[], Any], device: str) -> tuple[Any, float]:
    """The result of a call and its seconds: CPU time on a CPU, on a GPU until it has finished."""
    if device == "cpu":
        start = time.process_time()
        return function(), time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = function()
    torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def as_text(head: str, rows: Rows) -> str:
    cells = [[f"{value:.5g}" if isinstance(value, float) else value for value in row] for row in rows]
    return markdown(head.split(" | "), cells)


def iterations(args: argparse.Namespace, device: torch.device, images: EvalDataset) -> Table:
    """A row for each kind of iteration and mode, and for each mode the mean over a published run."""
    gpu = device.type == "cuda"
    s = Setting(args.arch, args.crop, args.batch_size or (10 if gpu else 2), device=str(device))
    batches = moved(make_batches(s), Tensor.pin_memory) if gpu else make_batches(s)
    times: dict[tuple[str, str], list[float]] = {(case, mode): [] for case in CASES for mode in args.modes}
    peaks, figures, differ, first = {}, {}, {}, args.modes[0]
    for _ in range(args.rounds):
        for mode in args.modes:
            runner = Runner(mode, s)
            for case in CASES:
                figures[case, mode] = runner.gradients(batches, case)
                differ[case, mode] = loss_difference(figures[case, mode], figures[case, first])
                if gpu:
                    torch.cuda.reset_peak_memory_stats(device)
                step = partial(runner.step, batches, case)
                times[case, mode] += [timed(step, s.device)[1] for _ in range(args.iterations)]
                if gpu:
                    peaks[case, mode] = torch.cuda.max_memory_allocated(device) / 2**30
    medians = {key: statistics.median(values) for key, values in times.items()}
    for mode in args.modes:
        medians["whole run", mode] = sum(share * medians[case, mode] for case, share in SHARES.items())
    rows: Rows = []
    for key, seconds in medians.items():
        rows.append((*key, seconds, medians[key[0], first] / seconds, peaks.get(key, ""), differ.get(key, "")))
    return "iteration | mode | seconds | speed-up | peak GiB | losses differ by", rows


def soften(mask: np.ndarray, classes: int, rng: np.random.Generator) -> Tensor:
    """C x H x W probabilities as a network predicts them, from a mask: coarse, uncertain at borders, with noise."""
    labels = F.one_hot(torch.from_numpy(mask.astype(np.int64)), classes).permute(2, 0, 1)[None].float()
    coarse = F.adaptive_avg_pool2d(labels, (mask.shape[0] // 8, mask.shape[1] // 8))
    logits = 9 * F.avg_pool2d(coarse, 9, 1, 4) + torch.from_numpy(rng.normal(0, 1, coarse.shape)).float()
    return full_size(logits, mask.shape)[0].softmax(0)


def crf(args: argparse.Namespace, device: torch.device, images: EvalDataset) -> Table:
    """A row for each way; the first one is the reference."""
    ways: dict[str, tuple[str, str, float | None]] = {}
    if importlib.util.find_spec("pydensecrf") is not None:
        ways["pydensecrf"] = ("pydensecrf", "cpu", None)
    ways |= {"ours, all classes": ("torch", str(device), None), "ours": ("torch", str(device), PRUNE)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    agreement, rng = dict.fromkeys(ways, 1.0), np.random.default_rng(0)
    for entry in images.entries:
        image, mask = images.read(entry)
        assert mask is not None
        p, reference = soften(mask, 21, rng), None
        for name, (backend, where, prune) in ways.items():
            q, seconds = timed(partial(dense_crf, image, p.to(where), backend=backend, prune=prune), where)
            labels = q.argmax(0).cpu()
            reference = labels if reference is None else reference
            times[name].append(seconds)
            agreement[name] = min(agreement[name], float((labels == reference).float().mean()))
    rows: Rows = []
    base = next(iter(times.values()))
    for name, taken in times.items():
        ratio = statistics.median(b / t for b, t in zip(base, taken))
        rows.append((name, ways[name][1], statistics.median(taken), ratio, 100 * agreement[name]))
    return "CRF, 21 classes | device | s/image | speed-up | labels that agree, worst image, %", rows


def evaluation(args: argparse.Namespace, device: torch.device, images: EvalDataset) -> Table:
    """A row for a plain loop and one for evaluate.py."""
    root = images.config.image_dir.parent
    torch.save(build_deeplab(args.arch, 21, seed=0).state_dict(), root / "weights.pth")
    words = [f"--data-dir={root}", f"--data-list={root}/lists/val.txt", f"--restore-from={root}/weights.pth"]
    words += [f"--device={device}", f"--logit-dir={root}/ours/logits", f"--score-dir={root}/ours"]
    words += [f"--save-predictions={root}/ours/png", f"--num-workers={args.num_workers}"]

    def ours() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            evaluate.evaluate(evaluate.parse_args(words))

    ways: dict[str, Callable[[], None]] = {"plain loop": partial(one_by_one, images, device), "evaluate.py": ours}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    logits = [[np.load(root / f"{way}/logits/{e.id}.npy") for way in ("ours", "plain")] for e in images.entries]
    apart = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in logits)
    rates = {name: len(images) / statistics.median(taken) for name, taken in times.items()}
    rows: Rows = [(name, rate, rate / rates["plain loop"], apart) for name, rate in rates.items()]
    return "evaluation | images/s | speed-up | logits differ by", rows


def one_by_one(images: EvalDataset, device: torch.device) -> None:
    """Evaluation as a plain loop."""
    root = images.config.image_dir.parent
    network = load_deeplab(root / "weights.pth").to(device)
    confusion = ConfusionMatrix(network.num_classes)
    with torch.inference_mode():
        for id_, image, label in (images[k] for k in range(len(images))):
            logits = multi_scale_logits(network, torch.from_numpy(image).to(device), (1.0, 0.75))
            prediction = full_size(logits, label.shape).argmax(1)[0].to(torch.uint8).cpu()
            confusion.update(torch.from_numpy(label), prediction)
            save_array(root / f"plain/logits/{id_}.npy", logits[0].cpu().numpy())
            save_labels(root / f"plain/png/{id_}.png", prediction.numpy())


PARTS: dict[str, Callable[[argparse.Namespace, torch.device, EvalDataset], Table]]
PARTS = {"iteration": iterations, "crf": crf, "evaluation": evaluation}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--modes", nargs="+", choices=MODES, default=MODES, help="ways to compute an iteration")
    add("--device", help="cpu or cuda (default: the GPU if there is one)")
    add("--arch", default="resnet101", help="segmentation network, with random weights")
    add("--crop", type=cli.positive_int, default=321, help="side of the images of an iteration")
    add("--batch-size", type=cli.positive_int, help="images of each kind (default: 10, on a CPU 2)")
    add("--rounds", type=cli.positive_int, default=2, help="turns of each alternative")
    add("--iterations", type=cli.positive_int, default=3, help="iterations of each kind in a turn")
    add("--images", type=cli.positive_int, default=12, help="images for the CRF and evaluation")
    add("--num-workers", type=cli.count, default=1, help="loading processes of evaluate.py")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Table]:
    args = parse_args(argv)
    device = pick_device(args.device, None)
    name = f"CPU, {torch.get_num_threads()} thread(s)" if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"{name}, torch {torch.__version__}, {args.arch}, crop {args.crop}")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_dataset(root, Recipe(VOC_CLASSES, simple=0, complex=0, val=args.images, size=(375, 500)))
        config = DataConfig(root / "JPEGImages", root / "SegmentationClassAug")
        images = EvalDataset(read_list(root / "lists/val.txt", 21, labelled=False), config)
        for part in args.parts:
            found[part] = PARTS[part](args, device, images)
            print(f"\n{as_text(*found[part])}", end="", flush=True)
    return found


if __name__ == "__main__":
    run_script(main)
