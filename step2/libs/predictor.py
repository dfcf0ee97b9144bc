"""Loads a checkpoint of either stage and segments single images; used by predict.py."""

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
from step2.libs.datasets.pseudo_labelled import to_network as to_network_stage2
from step2.libs.models.deeplab import DeepLabV1, DeepLabV2
from step2.libs.models.msc import MSC
from utils.core.errors import InputError
from utils.crf.dense_crf import dense_crf
from utils.crf.run import CRFSettings
from utils.evaluation.inference import full_size, multi_scale_logits

MIN_SIDE = 32  # smaller images are padded, since they would vanish at the smallest scale
RATES = (6, 12, 18, 24)


class LoadedNetwork(NamedTuple):
    """A network in eval mode."""

    network: nn.Module  # images 1 x 3 x H x W -> logits
    stage: int  # 1 or 2; determines the pre-processing of images
    num_classes: int


def load_network(path: Path, rates: Sequence[int] = RATES) -> LoadedNetwork:
    """Load a checkpoint of stage 1 or 2; the stage and the architecture are inferred from the tensors.

    Args:
        path: the checkpoint.
        rates: dilation rates of the ASPP of stage 2, which cannot be inferred.

    Raises:
        InputError: the file is damaged, or its tensors are not those of such a network.
    """
    state = read_state(path)
    if found := arch_from_state(state):
        network: nn.Module = DeepLab(*found)
        num_classes = found[0]
    else:
        state = {f"base.{key.removeprefix('base.')}": tensor for key, tensor in state.items()}
        num_classes, network = _build_stage2(state, path, rates)
    load_strict(network, state, path)
    if num_classes > 255:
        raise InputError(f"{path} has {num_classes} classes: a mask can have at most 255")
    return LoadedNetwork(network.eval(), 1 if found else 2, num_classes)


def _build_stage2(state: Mapping[str, Tensor], path: Path, rates: Sequence[int]) -> tuple[int, MSC]:
    stem = state.get("base.layer1.conv1.conv.weight")
    v1, v2 = state.get("base.fc.bias"), state.get("base.aspp.c0.bias")
    head = v1 if v2 is None else v2
    if stem is None or head is None or not stem.ndim or head.ndim != 1:
        raise InputError(
            f"{path} is not a checkpoint of stage 1 or 2: the first convolution or the classifier is missing"
        )
    found = {m.groups() for key in state if (m := re.match(r"base\.layer([2-5])\.block(\d+)\.", key))}
    blocks = [sum(layer == stage for layer, _ in found) for stage in "2345"]
    if v2 is None:
        return len(head), MSC(DeepLabV1(len(head), blocks, len(stem)))
    return len(head), MSC(DeepLabV2(len(head), blocks, rates, len(stem)))


def label_map(
    loaded: LoadedNetwork,
    image: np.ndarray,
    device: torch.device,
    scales: Sequence[float],
    crf: CRFSettings | None = None,
) -> np.ndarray:
    """Predict the label of each pixel.

    Args:
        loaded: the network, on `device`.
        image: H x W x 3 uint8 BGR, of any size.
        device: device of the network.
        scales: scales of the input.
        crf: settings of the dense CRF; None: no CRF.

    Returns:
        H x W uint8.
    """
    height, width = image.shape[:2]
    if loaded.stage == 1:
        array = T.to_network(T.subtract_mean(image))
    else:
        array = to_network_stage2(image.astype(np.float32), Stage2Config.mean_bgr)
    padding = (0, max(0, MIN_SIDE - width), 0, max(0, MIN_SIDE - height))
    batch = F.pad(torch.from_numpy(array)[None], padding).to(device)  # zeros are the mean colour
    logits = multi_scale_logits(loaded.network, batch, scales)
    logits = full_size(logits, batch.shape[2:], align_corners=loaded.stage == 1)[0, :, :height, :width]
    if crf is not None:
        logits = dense_crf(image, logits.softmax(0), crf.params, crf.backend, prune=crf.prune)
    return logits.argmax(0).to(torch.uint8).cpu().numpy()
