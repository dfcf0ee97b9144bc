"""Runs the dense CRF over a list of images, in several processes."""

import argparse
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

from datasets.checks import require_files
from datasets.images import read_image
from datasets.labels import save_labels
from datasets.loaders import EvalDataset
from networks.deeplab import logit_side
from utils.core import cli
from utils.core.errors import InputError, memory_hint
from utils.core.files import Note, Results, check_same_origin, fingerprint, read_array
from utils.crf.dense_crf import BACKENDS, PRUNE, CRFParams, dense_crf
from utils.evaluation.inference import full_size

LABEL_MAPS = "label maps of the CRF"  # kind of the results
LOGITS_HINT = "create it with evaluate.py or gen_label.py (stage 2: main.py test)"


@dataclass(frozen=True)
class CRFSettings:
    """What label maps depend on besides the logits, and the backend and device, which do not change them."""

    params: CRFParams
    prune: float | None
    backend: str = "auto"
    device: str = "cpu"


class Task(NamedTuple):
    """One label map: its inputs, its file and the note in it, which has the labels that the map may contain."""

    image: Path
    logits: Path
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


def crf_settings(args: argparse.Namespace, device: torch.device, params: CRFParams | None = None) -> CRFSettings:
    """The settings given by the options of `add_crf_options`, or by other `params` and the running options."""
    params = params or CRFParams(*(getattr(args, f"crf_{field.name}") for field in fields(CRFParams)))
    computes = "cpu" if device.type == "mps" else str(device)  # MPS lacks 64-bit operations
    return CRFSettings(params, args.crf_prune or None, args.crf_backend, computes)


def create_label_maps(
    images: EvalDataset,
    logit_dir: Path,
    out: Path,
    settings: CRFSettings,
    n_jobs: int,
    image_labels: bool = False,
    overwrite: bool = True,
) -> None:
    """Create the label maps of the images in `out`, as far as they do not exist yet, see `Results.finished`.

    With `image_labels`, they have only the background and the classes in the list.
    """
    config = images.config
    logits = {entry.id: logit_dir / f"{entry.id}.npy" for entry in images.entries}
    require_files({"logit file": list(logits.values())}, f": {LOGITS_HINT}")
    check_same_origin(list(logits.values()))
    common = asdict(settings) | {"num_classes": config.num_classes, "align_corners": images.align_corners}
    del common["backend"], common["device"]
    made_from: dict[str, Note] = {}
    for id_, classes in images.entries:
        labels = {0, *(c + 1 for c in classes)} if image_labels else range(config.num_classes)
        made_from[id_] = {"logits": fingerprint(logits[id_]), "labels": sorted(labels), **common}
    inputs = [folder for folder in (config.image_dir, logit_dir, config.label_dir) if folder]
    results = Results(out, ".png", LABEL_MAPS, made_from, inputs)
    finished = results.finished(overwrite)
    tasks = [
        Task(images.image_path(e), logits[e.id], results.path(e.id), results.note(e.id))
        for e in images.entries
        if e.id not in finished
    ]
    done = run_all(partial(create_label_map, settings=settings), tasks, n_jobs if settings.device == "cpu" else 1)
    for _ in tqdm(done, initial=len(finished), total=len(images), unit="img"):
        pass
    print(f"{LABEL_MAPS}: {out}")


def run_all(work: Callable[[Task], None], tasks: Sequence[Task], n_jobs: int) -> Iterator[None]:
    """Do the work of all tasks in single-threaded processes; yields after each task."""
    if n_jobs == 1:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from map(work, tasks)
        finally:
            torch.set_num_threads(num_threads)  # for the scripts that run next in this process
        return
    with ProcessPoolExecutor(n_jobs, get_context("spawn"), _one_thread) as processes:
        try:
            yield from processes.map(work, tasks)
        except BrokenProcessPool:
            cause = "a CRF process was killed, perhaps because memory ran out"
            raise InputError(f"{cause}: try a smaller --n-jobs") from None


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C and stops the others


def create_label_map(task: Task, settings: CRFSettings) -> None:
    """Logits -> full-size probabilities -> CRF -> argmax -> palette PNG."""
    image, logits = read_image(task.image), read_array(task.logits, LOGITS_HINT)
    size = image.shape[:2]
    sizes = [*([logit_side(side, stride) for side in size] for stride in (8, 16)), size]
    shapes = [(task.note["num_classes"], *sides) for sides in sizes]
    if logits.shape not in shapes or not np.issubdtype(logits.dtype, np.floating):
        raise InputError(
            f"{task.logits} contains {logits.dtype} {logits.shape}, but logits for {task.image} have the shape"
            f" {' or '.join(map(str, shapes))}: see --num-classes, or create the logits again"
        )
    labels = np.array(task.note["labels"], np.uint8)
    advice = "use fewer processes (--n-jobs) or, on a GPU, --device cpu"
    with memory_hint(f"{task.image}: out of memory in the CRF: {advice}"):
        chosen = torch.from_numpy(logits[labels].astype(np.float32))[None].to(settings.device)
        probabilities = full_size(chosen, size, task.note["align_corners"])[0].softmax(0)
        try:
            marginals = dense_crf(image, probabilities, settings.params, settings.backend, settings.prune)
        except InputError as error:
            raise InputError(f"{task.logits}: {error}") from None
        best = marginals.argmax(0).cpu().numpy()
    save_labels(task.result, labels[best], task.note)
