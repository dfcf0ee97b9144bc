"""What predict.py does to one picture, and to what the user named: find, read, load, label."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets import transforms as T
from networks.checkpoint import load_strict, read_state
from networks.deeplab import DeepLab, arch_from_state
from step2.libs.datasets.pseudo_labelled import Stage2Config
from step2.libs.datasets.pseudo_labelled import to_network as to_network2
from step2.libs.models.deeplab import DeepLabV1, DeepLabV2
from step2.libs.models.msc import MSC
from utils.core.errors import InputError
from utils.crf.dense_crf import dense_crf
from utils.crf.run import CRFSettings
from utils.evaluation.inference import full_size, multi_scale_logits

LEAST_SIDE = 32  # smaller pictures are padded: a few pixels at a quarter of the scale are none
RATES = (6, 12, 18, 24)


class Trained(NamedTuple):
    """A network in eval mode, from 1 x 3 x H x W to logits, and the stage whose way with pictures it needs."""

    network: nn.Module
    stage: int
    num_classes: int


def load_any(path: Path, rates: Sequence[int] = RATES) -> Trained:
    """Load a checkpoint of stage 1 or stage 2: what it is, and how large, shows in its tensors.

    Args:
        path: the checkpoint.
        rates: of stage 2's ASPP, which do not show.

    Raises:
        InputError: it is neither, damaged, or its tensors do not fit together.
    """
    state = read_state(path)
    if found := arch_from_state(state):
        classes, network = found[0], DeepLab(*found)
    else:
        state = {f"base.{key.removeprefix('base.')}": tensor for key, tensor in state.items()}
        classes, network = _stage2(state, path, rates)
    load_strict(network, state, path)
    if classes > 255:
        raise InputError(f"{path} has {classes} classes: a mask holds 255 at most")
    return Trained(network.eval(), 1 if found else 2, classes)


def _stage2(state: Mapping[str, Tensor], path: Path, rates: Sequence[int]) -> tuple[int, MSC]:
    stem = state.get("base.layer1.conv1.conv.weight")
    v1, v2 = state.get("base.fc.bias"), state.get("base.aspp.c0.bias")
    head = v1 if v2 is None else v2
    if stem is None or head is None or not stem.ndim or head.ndim != 1:
        raise InputError(f"{path} is no DeepLab of stage 1 or stage 2: it lacks the stem or the classifier")
    found = {m.groups() for key in state if (m := re.match(r"base\.layer([2-5])\.block(\d+)\.", key))}
    blocks = [sum(layer == stage for layer, _ in found) for stage in "2345"]
    if v2 is None:
        return len(head), MSC(DeepLabV1(len(head), blocks, len(stem)))
    return len(head), MSC(DeepLabV2(len(head), blocks, rates, len(stem)))


def label_map(
    trained: Trained,
    image: np.ndarray,
    device: torch.device,
    scales: Sequence[float],
    crf: CRFSettings | None = None,
) -> np.ndarray:
    """The likeliest label of each pixel, H x W uint8, of an H x W x 3 uint8 BGR picture of any size."""
    height, width = image.shape[:2]
    if trained.stage == 1:
        array = T.to_network(T.subtract_mean(image))
    else:
        array = to_network2(image.astype(np.float32), Stage2Config.mean_bgr)
    missing = (0, max(0, LEAST_SIDE - width), 0, max(0, LEAST_SIDE - height))
    batch = F.pad(torch.from_numpy(array)[None], missing).to(device)  # with zeros, which is the mean
    logits = multi_scale_logits(trained.network, batch, scales)
    logits = full_size(logits, batch.shape[2:], align_corners=trained.stage == 1)[0, :, :height, :width]
    if crf is not None:
        logits = dense_crf(image, logits.softmax(0), crf.params, crf.backend, prune=crf.prune)
    return logits.argmax(0).to(torch.uint8).cpu().numpy()
