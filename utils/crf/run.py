"""Runs the dense CRF over a list of images, in several processes."""

import argparse
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
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
from datasets.labels import read_label, save_labels
from datasets.lists import Entry, image_path
from networks.deeplab import logit_side
from utils.core import cli
from utils.core.errors import InputError, is_out_of_memory
from utils.core.files import Note, Results, check_same_origin, read_array
from utils.crf.dense_crf import BACKENDS, PRUNE, CRFParams, dense_crf
from utils.evaluation.inference import full_size
from utils.evaluation.metrics import ConfusionMatrix

LABEL_MAPS = "label maps of the CRF"  # kind of the results
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
    """One image: its files, the labels that its label map may contain, and the note of the label map."""

    id: str
    image: Path
    logits: Path
    labels: tuple[int, ...]
    result: Path
    note: Note


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
    add("--crf-prune", type=cli.fraction, default=PRUNE, metavar="P", help=text)
    text = "both give the same result; auto: torch, which is faster"
    add("--crf-backend", choices=BACKENDS, default="auto", help=text)
    if jobs:
        text = "single-threaded processes; 1 is enough for a GPU"
        add("--n-jobs", type=cli.positive_int, default=cli.CORES, help=text)


def crf_settings(
    args: argparse.Namespace,
    num_classes: int,
    device: torch.device,
    params: CRFParams | None = None,
    align_corners: bool = True,
) -> CRFSettings:
    """The settings given by the options of `add_crf_options`, or by other `params` and the running options.

    With --crf-prune 0 all classes take part. MPS is replaced by the CPU, since it lacks 64-bit operations.
    """
    if params is None:
        params = CRFParams(**{name: getattr(args, f"crf_{name}") for name in asdict(CRFParams())})
    computes = "cpu" if device.type == "mps" else str(device)
    return CRFSettings(num_classes, params, args.crf_prune or None, align_corners, args.crf_backend, computes)


def make_tasks(
    data_list: Path,
    listed: Sequence[Entry],
    entries: Sequence[Entry],
    settings: CRFSettings,
    image_dir: Path,
    logit_dir: Path,
    result_dir: Path,
    label_dir: Path | None = None,
    image_labels: bool = False,
) -> tuple[list[CRFTask], Results]:
    """One task for each of the unique `entries` of the list, and the label maps, some of which may exist.

    All files are checked, also the true labels if there is a `label_dir`. With `image_labels`, the label maps contain
    only the background and the classes in the list.

    Raises:
        InputError: a file is missing, logits are of different networks, or the label maps would be written into a
            directory that is read.
    """
    common = asdict(settings)
    del common["backend"], common["device"]
    images = {entry.id: image_path(image_dir, entry.id) for entry in entries}
    logits = {entry.id: logit_dir / f"{entry.id}.npy" for entry in entries}
    truth = [label_dir / f"{entry.id}.png" for entry in entries] if label_dir else []
    check_start(data_list, listed, {"image": list(images.values()), "label": truth})
    require_files({"logit file": list(logits.values())}, f": {LOGITS_HINT}")
    check_same_origin(list(logits.values()))
    labels: dict[str, tuple[int, ...]] = {}
    made_from: dict[str, Note] = {}
    for id_, classes in entries:
        chosen = {0, *(c + 1 for c in classes)} if image_labels else range(settings.num_classes)
        labels[id_], stat = tuple(sorted(chosen)), logits[id_].stat()
        made_from[id_] = {"logits": [stat.st_mtime_ns, stat.st_size], "labels": labels[id_], **common}
    inputs = [folder for folder in (image_dir, logit_dir, label_dir) if folder]
    results = Results(result_dir, ".png", LABEL_MAPS, made_from, inputs)
    return [
        CRFTask(id_, images[id_], logits[id_], labels[id_], results.path(id_), results.note(id_)) for id_ in labels
    ], results


def run_crf(tasks: Sequence[CRFTask], settings: CRFSettings, n_jobs: int) -> Iterator[CRFTask]:
    """Create the label maps of the tasks; yields each task when it is done.

    Raises:
        InputError: an image or its logits are damaged or do not match, or memory runs out. Finished label maps are
            kept.
    """
    work = partial(crf_task, settings=settings)
    if n_jobs == 1 or torch.device(settings.device).type != "cpu":
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from map(work, tasks)
        finally:
            torch.set_num_threads(num_threads)
        return
    with ProcessPoolExecutor(n_jobs, get_context("spawn"), _one_thread) as processes:
        try:
            yield from processes.map(work, tasks)
        except BrokenProcessPool:
            cause = "a CRF process was killed, perhaps because memory ran out"
            raise InputError(f"{cause}: try a smaller --n-jobs") from None
        finally:
            processes.shutdown(cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C and stops the others


def crf_task(task: CRFTask, settings: CRFSettings) -> CRFTask:
    """Create the label map of one image: logits -> full-size probabilities -> CRF -> argmax -> palette PNG."""
    image, logits = read_image(task.image), read_array(task.logits, LOGITS_HINT)
    height, width = image.shape[:2]
    sizes = [(logit_side(height, stride), logit_side(width, stride)) for stride in (8, 16)]
    shapes = [(settings.num_classes, *size) for size in (*sizes, (height, width))]
    if logits.shape not in shapes or not np.issubdtype(logits.dtype, np.floating):
        raise InputError(
            f"{task.logits} contains {logits.dtype} {logits.shape}, but logits for {task.image} have the shape"
            f" {' or '.join(map(str, shapes))}: see --num-classes, or create the logits again"
        )
    labels = np.array(task.labels, np.uint8)
    try:
        chosen = torch.from_numpy(logits[labels].astype(np.float32))[None].to(settings.device)
        probabilities = full_size(chosen, (height, width), settings.align_corners)[0].softmax(0)
        marginals = dense_crf(image, probabilities, settings.params, settings.backend, settings.prune)
        best = marginals.argmax(0).cpu().numpy()
    except InputError as error:
        raise InputError(f"{task.logits}: {error}") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"{task.image}: out of memory in the CRF: use fewer processes (--n-jobs) or, on a GPU, --device cpu"
        ) from None
    save_labels(task.result, labels[best], task.note)
    return task


def create_label_maps(
    tasks: Sequence[CRFTask], results: Results, settings: CRFSettings, n_jobs: int, overwrite: bool | None = None
) -> None:
    """Create the label maps that do not exist yet, with a progress bar; `overwrite` as in `Results.unfinished`."""
    todo = results.unfinished(tasks, overwrite)
    done = len(tasks) - len(todo)
    for _ in tqdm(run_crf(todo, settings, n_jobs), initial=done, total=len(tasks), unit="img"):
        pass
    print(f"{results.kind} of {len(tasks)} images: {results.folder}")


def evaluate_label_maps(
    tasks: Sequence[CRFTask], settings: CRFSettings, label_dir: Path, ignore_label: int
) -> ConfusionMatrix:
    """Compare all label maps with the true labels."""
    confusion = ConfusionMatrix(settings.num_classes, ignore_label)
    for task in tqdm(tasks, desc="scores", leave=False, unit="img"):
        prediction = read_label(task.result, settings.num_classes)
        truth = read_label(label_dir / f"{task.id}.png", settings.num_classes, prediction.shape, ignore_label)
        confusion.update(torch.from_numpy(truth), torch.from_numpy(prediction))
    return confusion
