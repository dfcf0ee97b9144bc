"""The dense CRF over a list of images, in as many processes as there are cores: what three scripts share."""

import argparse
import json
import signal
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from datasets.checks import check_start, require_files
from datasets.images import read_image
from datasets.labels import read_label, read_tag, save_labels
from datasets.lists import Entry, image_path
from networks.deeplab import logit_side
from utils.core import cli
from utils.core.errors import InputError
from utils.core.files import read_array
from utils.crf.dense_crf import BACKENDS, PRUNE, CRFParams, dense_crf
from utils.evaluation.inference import full_size
from utils.evaluation.metrics import ConfusionMatrix

LOGITS_FROM = "make it with evaluate.py or gen_label.py (stage 2: main.py test)"


@dataclass(frozen=True)
class CRFSettings:
    """What a label map after the CRF depends on, the backend and the device (same result) beside it."""

    num_classes: int
    params: CRFParams
    prune: float | None
    align_corners: bool = True  # stage 2: False
    backend: str = "auto"
    device: str = "cpu"


@dataclass(frozen=True)
class CRFTask:
    """One image: where it and its logits lie, where its label map goes, which labels it may have (None: all)."""

    id: str
    image: Path
    logits: Path
    result: Path
    labels: tuple[int, ...] | None = None


def add_crf_options(parser: argparse.ArgumentParser, jobs: bool = True) -> None:
    """The CRF's six parameters, and how it is computed; `jobs`: whether in several processes."""
    group, published = parser.add_argument_group("CRF"), CRFParams()
    for name, convert, text in (
        ("iterations", cli.count, "iterations of mean-field inference"),
        ("gaussian_weight", cli.non_negative, "weight of the smoothness kernel"),
        ("gaussian_sxy", cli.positive, "its deviation, pixels"),
        ("bilateral_weight", cli.non_negative, "weight of the appearance kernel"),
        ("bilateral_sxy", cli.positive, "its deviation in position, pixels"),
        ("bilateral_srgb", cli.positive, "its deviation in colour, grey levels of 0..255"),
    ):
        flag = f"--crf-{name.replace('_', '-')}"
        group.add_argument(flag, type=convert, default=getattr(published, name), help=text)
    add_crf_running_options(group, jobs)


def add_crf_running_options(group: argparse._ActionsContainer, jobs: bool = True) -> None:
    """Likely classes, backend and processes: what changes the time, and hardly the result."""
    group.add_argument(
        "--crf-prune", type=cli.non_negative, default=PRUNE, metavar="P",
        help="classes whose probability stays below P in the whole image send no messages; 0: all do",
    )  # fmt: skip
    group.add_argument(
        "--crf-backend", choices=BACKENDS, default="auto",
        help="auto: pydensecrf on a CPU where it is installed, else torch",
    )  # fmt: skip
    if jobs:
        group.add_argument(
            "--n-jobs", type=cli.positive_int, default=cli.CORES,
            help="processes of one thread each; a GPU needs one",
        )  # fmt: skip


def crf_settings(args: argparse.Namespace, device: torch.device) -> CRFSettings:
    """The settings that `add_crf_options` asked for."""
    params = CRFParams(**{name: getattr(args, f"crf_{name}") for name in asdict(CRFParams())})
    return make_settings(args.num_classes, params, args, device)


def make_settings(
    num_classes: int,
    params: CRFParams,
    args: argparse.Namespace,
    device: torch.device,
    align_corners: bool = True,
) -> CRFSettings:
    """Settings from parameters and from what `add_crf_running_options` asked for."""
    where = "cpu" if device.type == "mps" else str(device)  # the lattice's integers are beyond MPS
    return CRFSettings(num_classes, params, args.crf_prune or None, align_corners, args.crf_backend, where)


def make_tasks(
    entries: Sequence[Entry], image_dir: Path, logit_dir: Path, result_dir: Path, image_labels: bool = False
) -> list[CRFTask]:
    """A task for every image of a list; with `image_labels`, background and its own classes are all it may have."""
    return [
        CRFTask(
            entry.id, image_path(image_dir, entry.id), logit_dir / f"{entry.id}.npy", result_dir / f"{entry.id}.png",
            (0, *sorted({c + 1 for c in entry.classes})) if image_labels else None,
        )
        for entry in entries
    ]  # fmt: skip


def check_tasks(
    data_list: Path, entries: Sequence[Entry], tasks: Sequence[CRFTask], labels: Sequence[Path] = ()
) -> None:
    """The quick checks at the start of a script: the list, pictures, logits and, where it has any, true labels.

    Raises:
        InputError: a file is missing.
    """
    check_start(data_list, entries, [*(task.image for task in tasks), *labels])
    require_files([task.logits for task in tasks], f": {LOGITS_FROM}")


def run_crf(tasks: Sequence[CRFTask], settings: CRFSettings, n_jobs: int) -> Iterator[CRFTask]:
    """Make the label map of every task, skipping those that are there already; yields each task when it is done.

    Raises:
        InputError: an image or its logits are missing, damaged or do not fit; what is finished stays.
    """
    work = partial(crf_task, settings=settings)
    if torch.device(settings.device).type != "cpu":
        # Two threads: while one waits for the device the other reads, and builds the next image's lattice.
        with ThreadPoolExecutor(2) as threads:
            yield from _map(threads, work, tasks)
    elif n_jobs == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from map(work, tasks)
        finally:
            torch.set_num_threads(threads)
    else:
        with ProcessPoolExecutor(n_jobs, get_context("spawn"), _one_thread) as processes:
            yield from _map(processes, work, tasks)


def _map(
    executor: ThreadPoolExecutor | ProcessPoolExecutor, work: partial, tasks: Sequence[CRFTask]
) -> Iterator:
    try:
        yield from executor.map(work, tasks)
    except BrokenProcessPool:
        raise InputError("a CRF process was killed, perhaps for memory: try a smaller --n-jobs") from None
    finally:
        executor.shutdown(cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the script, which ends its processes


def crf_task(task: CRFTask, settings: CRFSettings) -> CRFTask:
    """One image: logits -> probabilities at its size -> CRF -> palette PNG of the likeliest labels."""
    tag = _tag(task, settings)
    if read_tag(task.result) == tag:
        return task
    image, logits = read_image(task.image), read_logits(task.logits, settings.num_classes)
    height, width = image.shape[:2]
    if logits.shape[1:] != (logit_side(height), logit_side(width)):
        raise InputError(
            f"{task.logits} is {logits.shape[2]}x{logits.shape[1]}, no eighth of {task.image} ({width}x{height}):"
            " they are not of the same image"
        )
    logits = torch.from_numpy(logits)[None].to(settings.device)
    labels = list(range(settings.num_classes) if task.labels is None else task.labels)
    probabilities = full_size(logits[:, labels], (height, width), settings.align_corners)[0].softmax(0)
    try:
        marginals = dense_crf(image, probabilities, settings.params, settings.backend, prune=settings.prune)
    except InputError as error:
        raise InputError(f"{task.logits}: {error}") from None
    found = np.array(labels, np.uint8)[marginals.argmax(0).cpu().numpy()]
    save_labels(task.result, found, tag)
    return task


def read_logits(path: Path, num_classes: int) -> np.ndarray:
    """num_classes x h x w float32 from evaluate.py or gen_label.py."""
    logits = read_array(path, LOGITS_FROM)
    if logits.ndim != 3 or len(logits) != num_classes or not np.issubdtype(logits.dtype, np.floating):
        raise InputError(
            f"{path} holds {logits.dtype} {logits.shape}, not logits of {num_classes} classes (see --num-classes)"
        )
    return logits.astype(np.float32)


def _tag(task: CRFTask, settings: CRFSettings) -> str:
    """What a finished label map was made from: with other logits or parameters it is made again."""
    try:
        logits = task.logits.stat()
    except FileNotFoundError:
        raise InputError(f"{task.logits} not found: {LOGITS_FROM}") from None
    made_from = asdict(settings) | {"labels": task.labels, "logits": (logits.st_mtime_ns, logits.st_size)}
    del made_from["backend"], made_from["device"]
    return f"{zlib.crc32(json.dumps(made_from, sort_keys=True).encode()):08x}"


def evaluate_crf(
    tasks: Sequence[CRFTask], settings: CRFSettings, n_jobs: int, label_dir: Path, ignore_label: int
) -> ConfusionMatrix:
    """Make the label map of every task, with a bar, and count it against the true label of its image."""
    confusion = ConfusionMatrix(settings.num_classes, ignore_label)
    for task in tqdm(run_crf(tasks, settings, n_jobs), total=len(tasks), unit="img"):
        prediction = read_label(task.result, settings.num_classes)
        truth = read_label(label_dir / f"{task.id}.png", settings.num_classes, prediction.shape, ignore_label)
        confusion.update(torch.from_numpy(truth), torch.from_numpy(prediction))
    return confusion
