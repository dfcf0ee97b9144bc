"""Scores a network on whole images, distributed over all processes; used by both stages."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.labels import save_labels
from datasets.loaders import EvalDataset, eval_loader
from utils.core import distributed
from utils.core.background import Background
from utils.evaluation.inference import infer, save_logits
from utils.evaluation.metrics import ConfusionMatrix


def score_images(
    network: nn.Module,
    images: EvalDataset,
    num_workers: int,
    device: torch.device,
    scales: Sequence[float],
    align_corners: bool = True,
    logit_dir: Path | None = None,
    prediction_dir: Path | None = None,
    desc: str | None = None,
) -> ConfusionMatrix:
    """Predict this process's part of the images and compare it with their labels.

    Args:
        network: in eval mode, on `device`.
        images: all images, with labels.
        num_workers: worker processes of the data loader.
        device: device of the network.
        scales, align_corners: as in `infer`.
        logit_dir, prediction_dir: where to write ID.npy and palette ID.png; None: nowhere.
        desc: title of the progress bar, which then disappears at the end.

    Returns:
        The counts of this process.
    """
    part = images.part(distributed.rank(), distributed.world_size())
    confusion = ConfusionMatrix(images.config.num_classes, images.config.ignore_label)
    loader = eval_loader(part, num_workers, pin=device.type == "cuda")
    results = infer(network, loader, device, scales, align_corners)
    quiet = not distributed.is_main()
    with Background() as later:
        for id_, logits, prediction, label in tqdm(
            results, total=len(part), desc=desc, leave=desc is None, unit="img", disable=quiet
        ):
            confusion.update(label, prediction)
            if logit_dir is not None:
                later(save_logits, logit_dir / f"{id_}.npy", logits)
            if prediction_dir is not None:
                later(_save_prediction, prediction_dir / f"{id_}.png", prediction)
    return confusion


def _save_prediction(path: Path, prediction: Tensor) -> None:
    save_labels(path, prediction.cpu().numpy())
