"""Scores a network on whole images, distributed over all processes; used by both stages."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from datasets.labels import save_labels
from datasets.loaders import EvalDataset, eval_loader
from utils.core import distributed
from utils.core.errors import InputError
from utils.core.files import Note, Results
from utils.evaluation.inference import infer, save_logits
from utils.evaluation.metrics import ConfusionMatrix


def result_files(
    images: EvalDataset, made_from: Note, logit_dir: Path | None, prediction_dir: Path | None
) -> list[Results]:
    """The logits and the predictions of the images, as far as they are wanted; those of other weights are replaced.

    Without true labels, images whose results are finished are then left out of `images`.

    Raises:
        InputError: they would be written over other files, or into a directory that is read; or the images have no
            labels, and no results are wanted.
    """
    inputs = [folder for folder in (images.config.image_dir, images.config.label_dir) if folder]
    kinds = ((logit_dir, ".npy", "logits"), (prediction_dir, ".png", "predictions"))
    made = dict.fromkeys((entry.id for entry in images.entries), made_from)
    files = [Results(folder, suffix, kind, made, inputs) for folder, suffix, kind in kinds if folder]
    unfinished = {entry.id for results in files for entry in results.unfinished(images.entries)}
    distributed.barrier()  # before another process begins to write
    if not images.needs_label:
        if not files:
            raise InputError("without labels and results there is nothing to do: use --save-predictions DIR")
        images.entries = [entry for entry in images.entries if entry.id in unfinished]
    return files


def score_images(
    network: nn.Module,
    images: EvalDataset,
    num_workers: int,
    device: torch.device,
    scales: Sequence[float],
    align_corners: bool = True,
    files: Sequence[Results] = (),
    desc: str | None = None,
) -> ConfusionMatrix:
    """Predict this process's part of the images, write the results and compare with the labels, if there are any.

    Args:
        network: in eval mode, on `device`.
        scales, align_corners: as in `infer`.
        files: of `result_files`, to write.
        desc: title of the progress bar, which then disappears at the end.

    Returns:
        The counts of this process.
    """
    part = images.part(distributed.rank(), distributed.world_size())
    confusion = ConfusionMatrix(images.config.num_classes, images.config.ignore_label)
    loader = eval_loader(part, num_workers, pin=device.type == "cuda")
    results = infer(network, loader, device, scales, align_corners)
    quiet = not distributed.is_main()
    for id_, logits, prediction, label in tqdm(
        results, total=len(part), desc=desc, leave=desc is None, unit="img", disable=quiet
    ):
        if label is not None:
            confusion.update(label, prediction)
        for result in files:
            if result.suffix == ".npy":
                save_logits(result.path(id_), logits, result.note(id_))
            else:
                save_labels(result.path(id_), prediction.cpu().numpy(), result.note(id_))
    return confusion


def report_files(files: Sequence[Results]) -> None:
    """Wait for all processes, and print where the results are."""
    distributed.barrier()
    for results in files if distributed.is_main() else ():
        print(f"{results.kind} of {len(results.made_from)} images: {results.folder}")
