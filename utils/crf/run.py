"""Runs the dense CRF over a list of images, in several processes."""

import argparse
import json
import signal
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
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

LOGITS_HINT = "create it with evaluate.py or gen_label.py (stage 2: main.py test)"


@dataclass(frozen=True)
class CRFSettings:
    """Everything the label maps depend on, and the backend and device, which do not change them."""

    num_classes: int
    params: CRFParams
    prune: float | None
    align_corners: bool = True  # stage 2: False
    backend: str = "auto"
    device: str = "cpu"


@dataclass(frozen=True)
class CRFTask:
    """One image: the paths of the image, its logits and its label map."""

    id: str
    image: Path
    logits: Path
    result: Path
    labels: tuple[int, ...] | None = None  # that the label map may contain; None: all


def add_crf_options(parser: argparse.ArgumentParser, jobs: bool = True) -> None:
    """Add the six parameters of the CRF and the options of `add_crf_running_options`."""
    group, published = parser.add_argument_group("CRF"), CRFParams()
    for name, convert, text in (
        ("iterations", cli.count, "iterations of mean-field inference"),
        ("gaussian_weight", cli.non_negative, "weight of the smoothness kernel"),
        ("gaussian_sxy", cli.positive, "its standard deviation, pixels"),
        ("bilateral_weight", cli.non_negative, "weight of the appearance kernel"),
        ("bilateral_sxy", cli.positive, "its standard deviation in position, pixels"),
        ("bilateral_srgb", cli.positive, "its standard deviation in colour, grey levels of 0..255"),
    ):
        flag = f"--crf-{name.replace('_', '-')}"
        group.add_argument(flag, type=convert, default=getattr(published, name), help=text)
    add_crf_running_options(group, jobs)


def add_crf_running_options(group: argparse._ActionsContainer, jobs: bool = True) -> None:
    """Add the options that change the running time and hardly the results; `jobs`: whether to add --n-jobs."""
    add = group.add_argument
    text = "classes whose probability is below P in the whole image send no messages; 0: all classes do"
    add("--crf-prune", type=cli.non_negative, default=PRUNE, metavar="P", help=text)
    text = "both give the same result; auto: torch, which is faster"
    add("--crf-backend", choices=BACKENDS, default="auto", help=text)
    if jobs:
        text = "single-threaded processes; 1 is enough for a GPU"
        add("--n-jobs", type=cli.positive_int, default=cli.CORES, help=text)


def crf_settings(args: argparse.Namespace, num_classes: int, device: torch.device) -> CRFSettings:
    """The settings given by the options of `add_crf_options`."""
    params = CRFParams(**{name: getattr(args, f"crf_{name}") for name in asdict(CRFParams())})
    return make_settings(num_classes, params, args.crf_prune, args.crf_backend, device)


def make_settings(
    num_classes: int,
    params: CRFParams,
    prune: float,
    backend: str,
    device: torch.device,
    align_corners: bool = True,
) -> CRFSettings:
    """Settings from the values of options: with `prune` 0 all classes take part, and MPS is replaced by the CPU."""
    # MPS lacks the 64-bit operations of the lattice.
    computes = "cpu" if device.type == "mps" else str(device)
    return CRFSettings(num_classes, params, prune or None, align_corners, backend, computes)


def make_tasks(
    entries: Sequence[Entry], image_dir: Path, logit_dir: Path, result_dir: Path, image_labels: bool = False
) -> list[CRFTask]:
    """One task per image; `image_labels` restricts its labels to the background and the classes in the list."""
    return [
        CRFTask(
            id_,
            image_path(image_dir, id_),
            logit_dir / f"{id_}.npy",
            result_dir / f"{id_}.png",
            (0, *sorted({c + 1 for c in classes})) if image_labels else None,
        )
        for id_, classes in entries
    ]


def check_tasks(
    data_list: Path, entries: Sequence[Entry], tasks: Sequence[CRFTask], labels: Sequence[Path] = ()
) -> None:
    """The checks at the start of a script, see `check_start`, for images, logits and true labels.

    Raises:
        InputError: a file is missing.
    """
    check_start(data_list, entries, {"image": [task.image for task in tasks], "label": labels})
    require_files({"logit file": [task.logits for task in tasks]}, f": {LOGITS_HINT}")


def run_crf(tasks: Sequence[CRFTask], settings: CRFSettings, n_jobs: int) -> Iterator[CRFTask]:
    """Create the label maps that do not exist yet; yields each task when it is done.

    Raises:
        InputError: an image or its logits are missing or damaged, or do not match. Finished label maps are kept.
    """
    work = partial(crf_task, settings=settings)
    if torch.device(settings.device).type != "cpu":
        # Two threads: while one waits for the device, the other reads the next image and builds its lattice.
        with ThreadPoolExecutor(2) as pool:
            yield from _map(pool, work, tasks)
    elif n_jobs == 1:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from map(work, tasks)
        finally:
            torch.set_num_threads(num_threads)
    else:
        with ProcessPoolExecutor(n_jobs, get_context("spawn"), _one_thread) as processes:
            yield from _map(processes, work, tasks)


def _map(executor: Executor, work: partial[CRFTask], tasks: Sequence[CRFTask]) -> Iterator[CRFTask]:
    try:
        yield from executor.map(work, tasks)
    except BrokenProcessPool:
        raise InputError(
            "a CRF process was killed, perhaps because memory ran out: try a smaller --n-jobs"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C and stops the others


def crf_task(task: CRFTask, settings: CRFSettings) -> CRFTask:
    """Create the label map of one image: logits -> full-size probabilities -> CRF -> argmax -> palette PNG."""
    tag = _tag(task, settings)
    if read_tag(task.result) == tag:
        return task
    image, array = read_image(task.image), read_logits(task.logits, settings.num_classes)
    height, width = image.shape[:2]
    sizes = [(logit_side(height, stride), logit_side(width, stride)) for stride in (8, 16)]
    if array.shape[1:] not in sizes:
        expected = " or ".join(f"{w}x{h}" for h, w in sizes)
        raise InputError(
            f"{task.logits} is {array.shape[2]}x{array.shape[1]}, which does not match {task.image}"
            f" ({width}x{height}, expected {expected}): create the logits again"
        )
    logits = torch.from_numpy(array)[None].to(settings.device)
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
    """Read num_classes x h x w logits as float32; InputError if the file has other contents."""
    logits = read_array(path, LOGITS_HINT)
    if logits.ndim != 3 or len(logits) != num_classes or not np.issubdtype(logits.dtype, np.floating):
        raise InputError(
            f"{path} contains {logits.dtype} {logits.shape}, not logits of {num_classes} classes (see --num-classes)"
        )
    return logits.astype(np.float32)


def _tag(task: CRFTask, settings: CRFSettings) -> str:
    """Checksum of everything a label map is made from. A label map with another tag is created again."""
    try:
        logits = task.logits.stat()
    except FileNotFoundError:
        raise InputError(f"{task.logits} not found: {LOGITS_HINT}") from None
    made_from = asdict(settings) | {"labels": task.labels, "logits": (logits.st_mtime_ns, logits.st_size)}
    del made_from["backend"], made_from["device"]
    return f"{zlib.crc32(json.dumps(made_from, sort_keys=True).encode()):08x}"


def evaluate_crf(
    tasks: Sequence[CRFTask], settings: CRFSettings, n_jobs: int, label_dir: Path, ignore_label: int
) -> ConfusionMatrix:
    """Create the label maps as `run_crf`, with a progress bar, and compare them with the true labels."""
    confusion = ConfusionMatrix(settings.num_classes, ignore_label)
    for task in tqdm(run_crf(tasks, settings, n_jobs), total=len(tasks), unit="img"):
        prediction = read_label(task.result, settings.num_classes)
        truth = read_label(label_dir / f"{task.id}.png", settings.num_classes, prediction.shape, ignore_label)
        confusion.update(torch.from_numpy(truth), torch.from_numpy(prediction))
    return confusion
