"""Scores networks and label maps on whole images; used by both stages."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from datasets.labels import read_label, save_labels
from datasets.lists import Entry
from datasets.loaders import EvalDataset
from networks.checkpoint import weights_checksum
from utils.core import distributed
from utils.core.errors import InputError
from utils.core.files import Results, save_array
from utils.evaluation.inference import infer
from utils.evaluation.metrics import ConfusionMatrix


def result_files(
    images: EvalDataset,
    listed: Iterable[Entry],
    network: nn.Module,
    scales: Sequence[float],
    logit_dir: Path | None,
    prediction_dir: Path | None = None,
    overwrite: bool = True,
) -> list[Results]:
    """The logits and the predictions, as far as they are wanted, of `images`, which are a part of the list.

    Without true labels, images whose results are finished are then left out of `images`. Without `overwrite`, no
    result of the list may be made from something else.
    """
    inputs = [folder for folder in (images.config.image_dir, images.config.label_dir) if folder]
    kinds = ((logit_dir, ".npy", "logits"), (prediction_dir, ".png", "predictions"))
    made_from = {"weights": weights_checksum(network), "scales": list(scales)}
    made = dict.fromkeys((entry.id for entry in listed), made_from)
    files = [Results(folder, suffix, kind, made, inputs) for folder, suffix, kind in kinds if folder]
    finished = [results.finished(overwrite) for results in files]
    distributed.barrier()  # before another process begins to write
    if not images.needs_label:
        if not files:
            raise InputError("without labels and results there is nothing to do: use --save-predictions DIR")
        images.entries = [entry for entry in images.entries if not all(entry.id in ids for ids in finished)]
    return files


def score_images(
    network: nn.Module,
    images: EvalDataset,
    num_workers: int,
    device: torch.device,
    scales: Sequence[float],
    files: Sequence[Results] = (),
    desc: str | None = None,
) -> ConfusionMatrix:
    """Predict this process's part of the images, write `files` and count, if there are labels; see `infer`.

    With `desc`, its title, the progress bar disappears at the end.
    """
    part = images.part(distributed.rank(), distributed.world_size())
    confusion = ConfusionMatrix(images.config.num_classes, images.config.ignore_label)
    results = infer(network, part, num_workers, device, scales)
    quiet = not distributed.is_main()
    for id_, logits, prediction, label in tqdm(
        results, total=len(part), desc=desc, leave=desc is None, unit="img", disable=quiet
    ):
        if label is not None:
            confusion.update(label, prediction)
        for result in files:
            if result.suffix == ".npy":  # C x h x w float32, the input of the CRF
                save_array(result.path(id_), logits[0].float().cpu().numpy(), result.note(id_))
            else:
                save_labels(result.path(id_), prediction.cpu().numpy(), result.note(id_))
    if files:
        distributed.barrier()
    for result in [] if quiet else files:
        print(f"{result.kind}: {result.folder}")
    return confusion


def compare_labels(
    pairs: Sequence[tuple[Path, Path]], num_classes: int, ignore_label: int, desc: str
) -> tuple[ConfusionMatrix, int]:
    """Compare label maps with the true labels, given as pairs of paths.

    Returns:
        The counts of the pixels that both label, and the number of pixels with a true label.
    """
    confusion, pixels = ConfusionMatrix(num_classes, ignore_label), 0
    for pair in tqdm(pairs, desc=desc, leave=False, unit="img"):
        found, truth = (read_label(path, num_classes, ignore_label=ignore_label) for path in pair)
        if found.shape != truth.shape:
            shapes = f"{found.shape} and {truth.shape}"
            raise InputError(f"{pair[0]} and {pair[1]} differ in size: {shapes} (height, width)")
        labelled = found != ignore_label
        confusion.update(torch.from_numpy(truth[labelled]), torch.from_numpy(found[labelled]))
        pixels += int((truth != ignore_label).sum())
    return confusion, pixels


def score_label_maps(images: EvalDataset, folder: Path) -> ConfusionMatrix:
    """Compare the label maps in `folder`, which label every pixel, with the true labels of the images."""
    config, pairs = images.config, [(folder / f"{e.id}.png", images.label_path(e)) for e in images.entries]
    confusion, pixels = compare_labels(pairs, config.num_classes, config.ignore_label, "scores")
    if confusion.matrix().sum() < pixels:
        raise InputError(f"{folder} has ignored pixels, as mined labels do: score it with evaluate_labels.py")
    return confusion
